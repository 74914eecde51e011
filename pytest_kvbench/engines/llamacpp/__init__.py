"""llama.cpp's own HTTP server, in a process of ours, by way of xllamacpp.

    __main__    python -m pytest_kvbench.engines.llamacpp: serves one model with one KV type

Only `__main__` imports xllamacpp.
"""
