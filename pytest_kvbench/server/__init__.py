"""The embedded server: an OpenAI-compatible API over transformers and kvpress.

    __main__ -> server -> worker -> engine -> prefill (reuse, policies), ragged, drawing
                  │                    └── model (weights, convert, tokenizer, chat template), text
                  ├── middleware: limits, request_log
                  ├── protocol, intake, replies     what a request and a reply look like
                  └── batches, batch_files, batch_notes     the batch API, kept in files

`weights` is imported by processes that must not load torch; everything else in this package may.
torch lives here and nowhere else in pytest_kvbench.
"""
