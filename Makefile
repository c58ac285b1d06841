# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv on its first call.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo lint test unit runs adversarial slow clean

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

test: lint
	$(BIN)/pytest -n 2 --dist loadgroup

unit runs adversarial: setup
	$(BIN)/pytest -n 2 --dist loadgroup tests/$@

slow: setup
	$(BIN)/pytest -m 'not gpu' tests/system tests/benchmarks
	$(BIN)/pytest -m slow tests/unit tests/runs tests/adversarial

clean:
	rm -rf $(VENV) runs out build ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
