# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
# They need Python 3.10 or newer, git, a C++ compiler and the package registry; no GPU and no account.

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$name && break; done)
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
# Installed first where there is no NVIDIA GPU. Where this name brings the large wheel with CUDA, pass the arguments that
# PyTorch's install page gives for the CPU: make TORCH_CPU="torch ..."
TORCH_CPU ?= torch==2.13.0
# Many tests start processes of their own: with a worker for every two cores, and at least two, the machine is just busy.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(max(2, min(8, len(os.sched_getaffinity(0)) // 2)))' 2>/dev/null || echo 2)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: help venv quickstart test test-all test-transformers test-fast lint format clean
.DEFAULT_GOAL := help

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## Make .venv and install everything into it

$(STAMP): pyproject.toml setup.py $(wildcard requirements/*.txt)
	@test -n "$(PYTHON)" || { echo "No Python >= 3.10 found. Install one, or say which: make PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import torch' 2>/dev/null || command -v nvidia-smi >/dev/null || { \
		echo "Installing PyTorch for the CPU"; $(BIN)/python -m pip install $(TORCH_CPU); }
	@echo "Installing the project and what it needs (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet -e '.[train,eval,dev]'
	@touch $(STAMP)

quickstart: $(STAMP) ## Plain text -> tokenizer -> trained, exported, scored, generating SepLLM model (./quickstart)
	@$(BIN)/python -m training_examples.quickstart $(QUICKSTART)

test: lint ## Every check, and the tests (all but the longest sweeps)
	$(PYTEST) -m "not exhaustive" tests

test-all: lint ## Every check and every test there is
	$(PYTEST) --hypothesis-profile search tests

test-transformers: $(STAMP) ## Exported folders under transformers 4.56, 4.57 and 5.0 (downloads each once)
	OMP_NUM_THREADS=1 $(BIN)/python tests/transformers_matrix.py

test-fast: $(STAMP) ## Tests of single processes that take seconds
	$(PYTEST) -m "not slow and not multiprocess and not gpu" tests

lint: $(STAMP) ## Style, formatting and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(STAMP) ## Let ruff mend what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean: ## Remove what quickstart, tests and checks leave behind (not .venv)
	rm -rf quickstart build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
