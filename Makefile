# `make demo` and `make test` are all that is needed on a fresh machine with python3 (3.11 or newer), its venv
# module and make. Everything is installed into .venv; delete that folder to start again.
#
# Variables, on the command line:
#   ARGS        more flags for what is run: make demo ARGS="--seed 7", make test ARGS="-k losses"
#   PYTHON      the interpreter that .venv is made with
#   VENV_ARGS   --system-site-packages uses an installed PyTorch (of PYTHON) instead of installing one
#   TORCH       what to install if there is none: TORCH="torch==2.9.1"
#   TORCH_ARGS  flags for pip while installing it, such as another --index-url

PYTHON ?= python3
VENV_ARGS ?=
ARGS ?=
VENV := .venv
STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

# Without an NVIDIA GPU the pinned version that lavic is tested with on CPUs; with one, whatever is newest.
ifeq ($(shell nvidia-smi -L 2> /dev/null | grep GPU),)
TORCH ?= torch==2.13.0
else
TORCH ?= torch>=2.6
endif
TORCH_ARGS ?=

.PHONY: demo demo-full test test-slow lint format clean-demo install help

demo: $(STAMP)  ## both stages in miniature, in minutes, into demo/
	$(VENV)/bin/lavic demo --output_dir demo $(ARGS)

demo-full: $(STAMP)  ## the same with more steps, into demo-full/
	$(VENV)/bin/lavic demo --full --output_dir demo-full $(ARGS)

# A process a core, each computing on one: the models are too small for two cores to help each other.
test: $(STAMP)  ## the tests that take no more than seconds each
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n logical --maxprocesses 8 --dist loadfile -m "not slow" $(ARGS)

test-slow: $(STAMP)  ## the tests that take minutes
	$(VENV)/bin/python -m pytest -m slow $(ARGS)

lint: $(STAMP)  ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(STAMP)  ## bring the code into shape
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean-demo:  ## delete what the demos wrote
	rm -rf demo demo-full

install: $(STAMP)  ## only make the environment

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 20

# PyTorch goes first: a later `pip install` then finds it and does not fetch the several GB of another build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "lavic needs Python 3.11 or newer; name one with PYTHON=... ." >&2; exit 2; }
	@$(VENV)/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV_ARGS) $(VENV)
	@$(VENV)/bin/python -c 'import torch' 2> /dev/null \
	  || { echo "Installing $(TORCH) into $(VENV): some minutes."; $(PIP) install --quiet $(TORCH_ARGS) '$(TORCH)'; }
	@echo "Installing lavic and its other dependencies into $(VENV)."
	@$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)
