# `make train` and `make test` need Python 3.11+ with pip, make and a C++ compiler; everything else is installed in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train test test-full lint benchmark readme results picture report clean

train: $(STAMP)
	$(BIN)/kilonet train

# The tests of a file stay together, as they share what is costly to make; in which order and how many at once says
# tests/conftest.py.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST)

test-full: $(STAMP)
	$(PYTEST) --run-slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(STAMP)
	$(BIN)/python benchmarks/train_speed.py

readme: $(STAMP)
	$(BIN)/python benchmarks/readme.py

results: $(STAMP)
	$(BIN)/python benchmarks/results.py

picture: $(STAMP) report
	$(BIN)/python benchmarks/page_picture.py
	$(BIN)/python benchmarks/report_picture.py report.html

# On the packaged model, from what docs/results has of it.
report: $(STAMP)
	$(BIN)/kilonet report best --results docs/results/best.json --corruptions docs/results/corruptions-best.json \
	  --exported docs/results/exported

# The environment is made without its own pip, which Debian's Python keeps in a package apart; the pip at hand fills it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
