# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv on its first call.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What a file shares is made once, and the order of testpaths is kept: long files first.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
SEED ?= 1
# Compiled tests and modules are kept, whatever the shell says: a fifth of a minute each time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo lint test pytest unit runs adversarial slow campaigns wheel clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python -m icon_dist.demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	$(MAKE) --jobs=2 lint pytest

pytest: setup
	$(PYTEST)

unit runs adversarial: setup
	$(PYTEST) tests/$@

slow: setup
	$(BIN)/pytest -m 'not gpu' tests/system tests/benchmarks
	$(BIN)/pytest -m slow tests/unit tests/runs tests/gpu tests/adversarial
	FUZZ_CASES=40 FUZZ_EXAMPLES=500 $(BIN)/pytest tests/adversarial

campaigns: setup
	$(BIN)/python -m tests.adversarial.fuzz --cases 500 --seed $(SEED)
	$(BIN)/python -m tests.adversarial.faults --cases 100 --seed $(SEED)

wheel:
	rm -rf build dist
	$(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	build/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build/venv && bin/icon-dist shards synthesize --people 8 --out people && bin/icon-dist shards verify people
	cd build/venv && bin/icon-dist train --cfg demo --dry-run

clean:
	rm -rf $(VENV) runs out build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
