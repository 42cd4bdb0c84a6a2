# Two commands do everything on a fresh machine with Python 3.11+ and make:   make demo   and   make test
#
# PYTHON=/path/to/python uses that environment as it is (a Jetson's, a container's): nothing is installed then.
# On a machine without an NVIDIA GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes of CUDA.

ifeq ($(origin PYTHON),undefined)
VENV   := .venv
PYTHON := $(VENV)/bin/python
READY  := $(VENV)/.ready
else
READY  :=
endif
BASE_PYTHON ?= python3
BIN := $(dir $(PYTHON))

.PHONY: help setup demo test lint format clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    install into .venv, run the main job on real scans, show what it made"
	@echo "make test    all tests (a GPU only adds some)"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make clean   remove .venv and demo/"

setup: $(READY)

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(BASE_PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,rtx,export,test,dev]'
	touch $@

test: $(READY)
	$(PYTHON) -m pytest

lint: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	cd $(CURDIR) && $(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

format: $(READY)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

include examples/demo.mk

clean:
	rm -rf .venv demo
