# Each target does its own set-up: a virtual environment in the clone, with uv and constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Number of test processes; the suite is written for two cores.
JOBS ?= 2

# Compiled modules are kept: a machine that says not to keep them compiles torch at every start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint format setup clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[cpu,train,s3,ray,dask,dev]'
	touch $@

setup: $(READY)

demo: $(READY)
	$(BIN)/vispref demo

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info demo-dataset
