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

.PHONY: help setup demo test zoo conformance conformance-page lint format clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    install into .venv, run the main job on real scans, show what it made"
	@echo "make test    all tests (a GPU only adds some)"
	@echo "make zoo     every model at full size through the whole job, into docs/zoo.md (hours; goes on where it stopped)"
	@echo "make conformance  our server beside a real Triton, request by request (installs it into .triton/)"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make clean   remove .venv and demo/"

setup: $(READY)

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(BASE_PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,rtx,export,serve,test,dev]'
	touch $@

test: $(READY)
	$(PYTHON) -m pytest

zoo: $(READY)
	$(PYTHON) benchmarks/zoo.py

conformance: $(READY)
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(PYTHON) -m conformance.compare $(ARGS)

conformance-page: $(READY)
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(PYTHON) -m conformance.page

lint: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	cd $(CURDIR) && $(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

format: $(READY)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# ---- make demo: mobilenet_v3_large is exported; a network trained on real scans goes through every step. ----

D      := demo
DIGITS := --option width_mult=0.75 --option reduced_tail=true --num-classes 10 --image-size 64 \
          --weights examples/digits/digits.safetensors
BUILD  = $(PYTHON) build_engine.py $(D)/digits.onnx --backend $(BACKEND) -o $(D)
# TensorRT-RTX, which builds without a GPU, exists for x86-64. Elsewhere: BACKEND=auto where TensorRT is installed.
BACKEND ?= $(if $(filter x86_64,$(shell uname -m)),auto,none)

demo: $(D)/mobilenet_v3_large.onnx $(D)/yolov5n.onnx $(D)/.fp32 $(D)/.fp16 $(D)/.int8
	@echo; echo "== Accuracy on 450 held-out scans: PyTorch, then each graph =="
	$(PYTHON) -m deploy eval mobilenet_v3_small $(D)/digits.onnx $(D)/digits.fp16.onnx $(D)/digits.int8.onnx \
	    --data $(D)/scans/heldout $(DIGITS)
	@echo; echo "== The engines (bytes) =="
	@ls -l $(D)/*.plan 2>/dev/null | awk '{printf "%12d  %s\n", $$5, $$NF}' || true
	@echo; echo "== Predictions of the INT8 graph =="
	$(PYTHON) infer.py --engine $(D)/digits.int8.onnx examples/digits/samples --top-k 1

$(D)/mobilenet_v3_large.onnx: $(READY)
	mkdir -p $(D)
	$(PYTHON) export.py --model mobilenet_v3_large -o $@

$(D)/yolov5n.onnx: $(READY)
	mkdir -p $(D)
	$(PYTHON) export.py --model yolov5n --image-size 320 -o $@

$(D)/digits.onnx: examples/digits/digits.safetensors $(READY)
	mkdir -p $(D)
	$(PYTHON) export.py --model mobilenet_v3_small $(DIGITS) --labels examples/digits/labels.txt -o $@

$(D)/.scans: | $(READY)
	mkdir -p $(D)
	$(PYTHON) examples/digits/train.py --write-data $(D)/scans
	touch $@

$(D)/.fp32: $(D)/digits.onnx
	$(BUILD) --precision fp32
	touch $@

$(D)/.fp16: $(D)/digits.onnx $(D)/.scans
	$(BUILD) --precision fp16 --calibration-data $(D)/scans/calibration
	touch $@

$(D)/.int8: $(D)/digits.onnx $(D)/.scans
	$(BUILD) --precision int8 --calibration-data $(D)/scans/calibration
	touch $@

clean:
	rm -rf .venv demo
