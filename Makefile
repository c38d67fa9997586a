# Each target needs nothing before it: `make setup` creates .venv, the others call it.
PY      := .venv/bin/python
STAMP   := .venv/.weakseg-installed
THREADS ?= 2

.PHONY: setup demo test check bench lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v python3 >/dev/null || { echo "python3 (3.11 or newer) is needed"; exit 1; }
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install --quiet --upgrade uv
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(PY) --constraint constraints.txt --editable ".[dev]"
	.venv/bin/weakseg doctor  # compiles the kernels, once
	touch $(STAMP)

demo: setup  ## tags -> seeds -> masks -> network on the embedded data set
	.venv/bin/weakseg demo --out runs/demo

check: setup lint  ## the fast loop: format, lint, types, import rule, fast tests
	$(PY) -m pytest -q -n $(THREADS) -m "not slow and not gpu and not net and not realdata"

lint: setup
	.venv/bin/ruff format --check src tests examples
	.venv/bin/ruff check src tests examples
	.venv/bin/mypy
	.venv/bin/lint-imports

test: setup  ## every test that needs no GPU and no internet; those on real photographs skip where the folder is absent
	$(PY) -m pytest -q -n $(THREADS) -m "not gpu and not net"

bench: setup  ## the speed table of benchmarks/results: about ten minutes on two idle cores
	$(PY) benchmarks/run_all.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
