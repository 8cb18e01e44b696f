# `make demo` and `make test` are all a fresh machine needs; both set up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL ?= dit-digits
SEARCHES := benchmarks/bench_search_efficiency.py benchmarks/bench_search_scaling.py benchmarks/bench_faults.py

.PHONY: setup demo test test-slow check bench bench-search presets clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tune,dev]'
	touch $@

demo: setup
	$(BIN)/python -m experiments.demo $(MODEL)

test: setup check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup

test-slow: setup
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	for script in $(filter-out $(SEARCHES),$(wildcard benchmarks/bench_*.py)); do $(BIN)/python $$script || exit 1; done
	for family in dit flux hunyuanvideo; do $(BIN)/python benchmarks/runtime.py --family $$family || exit 1; done

# Hours of searches, with a cluster in processes and workers that are killed.
bench-search: setup
	for script in $(SEARCHES); do $(BIN)/python $$script || exit 1; done

# Searches and certifies anew, then replaces the shipped presets by what was found.
presets: setup
	rm -rf runs/presets/$(MODEL)
	$(BIN)/autotune search experiments/$(MODEL).yaml --out runs/presets/$(MODEL)
	$(BIN)/python -m experiments.ship_presets $(MODEL)

clean:
	rm -rf $(VENV) build dist *.egg-info
