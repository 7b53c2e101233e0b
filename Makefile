# Every target sets up what it needs, in $(VENV). `make` alone lists the targets.
#
#   make demo
#   make test ARGS="-k kernels -x"
#   make test PYTHON=python3.12 VENV=.venv312
#   make bench-mitchell ARGS=--quick

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(shell find csrc fastk -name '*.[ch]' -o -name '*.py')

.PHONY: help demo test lint bench bench-shuffle bench-mitchell bench-softmax bench-hashing clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 21

demo: $(VENV)/with-io ## shuffle a real text corpus out of core, check the result and show it
	@$(BIN)/python examples/demo.py $(ARGS)

# From tests/ and without `python -m`, so that the package under test is the installed one and not the source tree.
test: $(VENV)/with-test,io ## run the tests, and the examples in the docstrings, on the installed package
	. $(BIN)/activate && cd tests && pytest -c ../pyproject.toml --rootdir .. -n auto --dist worksteal --ignore-glob='/*/fastk/_build.py' . --pyargs fastk $(ARGS)

lint: $(VENV)/with-test,io ## ruff, mypy and clang-format
	$(BIN)/ruff check .
	$(BIN)/mypy
	@if command -v clang-format >/dev/null; then set -x; clang-format --dry-run --Werror csrc/*.[ch]; \
	else echo "clang-format is not installed: csrc/ was not checked"; fi

bench: bench-shuffle bench-mitchell bench-softmax bench-hashing ## all measurements; ARGS is for one of them alone

bench-shuffle: $(VENV)/with-bench ## measure the shuffle against cp, shuf and terashuf
	@$(BIN)/python bench/bench_shuffle.py $(ARGS)

bench-mitchell: $(VENV)/with-bench ## measure Mitchell arithmetic against NumPy and what emulates it
	@$(BIN)/python bench/bench_mitchell.py $(ARGS)

bench-softmax: $(VENV)/with-bench ## measure the Taylor softmax, GELU and attention against torch and SciPy
	@$(BIN)/python bench/bench_softmax.py $(ARGS)

bench-hashing: $(VENV)/with-bench ## measure projection, hashing and search against faiss, FFHT and scikit-learn
	@$(BIN)/python bench/bench_hashing.py $(ARGS)

clean: ## remove everything that can be made again
	rm -rf $(VENV) build dist demo-out *.egg-info fastk/*.so fastk/_c.c
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis tests/.hypothesis
	find bench csrc examples fastk tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# The installed package, with extras. build/ goes first: setuptools would ship what an earlier build left there.
$(VENV)/with-%: $(SOURCES) | $(BIN)/pip
	@echo "Installing fastk into $(VENV) (some minutes the first time)"
	@rm -rf build
	$(BIN)/pip install --quiet --disable-pip-version-check ".[$*]"
	@touch $@
