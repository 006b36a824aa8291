# Needs Python 3.11+ with pip, make and, to train fast, a C++ compiler; everything else is installed in .venv:
# by `make train` what training needs and no more, by the other targets what tests and benchmarks need too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
# `make test ARGS=tests/network` runs a part of the tests.
ARGS ?=

# Where this is set, as in many containers, each of the tests' hundred processes would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train test test-full lint benchmark docs results picture report clean

train: $(INSTALLED)
	$(BIN)/kilonet train

# The tests of a file stay together, as they share what is costly to make; tests/conftest.py says in which order they run
# and how many at once. `make test CI=true` leaves out nothing but the longer proofs, as .ci/run does.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(INSTALLED_DEV)
	$(PYTEST) $(ARGS)

test-full: $(INSTALLED_DEV)
	$(PYTEST) --run-slow $(ARGS)

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(INSTALLED_DEV)
	$(BIN)/python benchmarks/train_speed.py

docs: $(INSTALLED_DEV)
	$(BIN)/python benchmarks/docs.py

results: $(INSTALLED_DEV)
	$(BIN)/python benchmarks/results.py

picture: $(INSTALLED_DEV) report
	$(BIN)/python benchmarks/page_picture.py
	$(BIN)/python benchmarks/report_picture.py report.html

# On the packaged model, from what docs/results has of it.
report: $(INSTALLED_DEV)
	$(BIN)/kilonet report best --results docs/results/best.json --corruptions docs/results/corruptions-best.json \
	  --exported docs/results/exported

# The environment is made without its own pip, which Debian's Python keeps in a package apart; the pip at hand fills it,
# and gives it one, so that `pip install '.[serve]'` in it works.
PIP_INSTALL := $(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check --constraint constraints.txt \
  --no-compile
# pip would compile the modules on one core. A few packages have files for Python 2, which fail.
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >$(VENV)/compileall.log || true

$(BIN)/python:
	$(PYTHON) -m venv --without-pip $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) pip --editable .
	$(COMPILE)
	touch $@

$(INSTALLED_DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) pip --editable '.[dev]'
	$(COMPILE)
	touch $(INSTALLED) $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
