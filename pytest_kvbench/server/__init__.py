"""The embedded server: an OpenAI-compatible API over transformers and kvpress.

    __main__ -> server -> worker -> engine -> prefill, ragged, sampling
                  │                    └── model (weights, tokenizer, chat template)
                  └── protocol (what a request and a reply look like)

`weights` and `policies` are imported by processes that must not load torch; everything else in
this package may. torch lives here and nowhere else in pytest_kvbench.
"""
