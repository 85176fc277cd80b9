# WAV=your.wav make demo: your own recording. PYTHON=python3.12 make ...: another interpreter.
PYTHON ?= python3
WAV ?= tests/golden/synthetic_speech.flac
DATA ?= $(or $(EDGE_SER_DATA),../data)
TORCH ?= torch==2.13.0
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check fix docs bench golden native wheels web model results
demo: .venv/runtime
	@$(BIN)/edge-ser predict "$(WAV)"

test: .venv/test
	$(BIN)/python -m pytest -n auto --dist loadfile

check: .venv/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy && $(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 edge_ser && $(BIN)/lint-imports

fix: .venv/test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: .venv/docs
	$(BIN)/python web/build.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# QUICK=1: a tenth of the rounds, to try it, into runs/.
bench: .venv/bench
	$(BIN)/python bench/benchmarks.py $(if $(QUICK),--quick -o runs/BENCHMARKS.md,-o BENCHMARKS.md) $(if $(FLOAT),--float $(FLOAT))

golden: .venv/test
	$(BIN)/python tests/golden/make_golden.py

# The C library beside the package, for work on it; an installation compiles its own.
native:
	$(CC) -std=c99 -O3 -ffp-contract=off -fPIC -shared edge_ser/csrc/*.c -lm -o edge_ser/libeser.so

# dist/: the source distribution and wheels for six platforms; a compiler for all of them comes from the package index.
wheels: .venv/wheels
	$(BIN)/python release/wheels.py

# web/dist/: the npm package and the page in one file.
web: .venv/wheels
	$(BIN)/python web/build.py

# The shipped model, from the corpora to the files in the package.
model: .venv/test
	PATH="$(CURDIR)/$(BIN):$$PATH" sh train/shipped/train.sh "$(DATA)"

# All cells into one table, and train/RESULTS.md and its pictures from it; trains nothing.
results: .venv/test
	$(BIN)/python -m edge_ser_train.paper.table train/results
	$(BIN)/python -m edge_ser_train.paper.page train/RESULTS.md train/results train/shipped/final

.venv/runtime: pyproject.toml
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --editable .
	@touch $@

# torch on its own first, so that TORCH can name a build without CUDA: make test TORCH="torch --index-url ...".
.venv/test: .venv/runtime
	$(BIN)/pip install --quiet $(TORCH) && $(BIN)/pip install --quiet --editable '.[test,check]'
	@touch $@

.venv/wheels: .venv/runtime
	$(BIN)/pip install --quiet 'scikit-build-core>=0.11' ziglang==0.17.1
	@touch $@

.venv/docs: .venv/test
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@

.venv/bench: .venv/runtime
	$(BIN)/pip install --quiet $(TORCH) && $(BIN)/pip install --quiet --editable '.[bench]'
	@touch $@
