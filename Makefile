# make train    a virtual environment, then the main job: GlobeDiff on hunt
# make test     the same environment with the test extras, then ruff and the tests
# make docs     the documentation, in docs/_build/html
# make clean    removes what the above have built; runs/ stays
#
# PYTHON=python3.12 chooses the interpreter the environment is made from, so make clean comes before another one; pip
# reads its own settings (PIP_*, pip.conf).
# ARGS='algorithm=mappo' is handed to the main job, TESTS='-k schedule' to pytest.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
TESTS ?=
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: train test docs clean

train: $(VENV)/.made-train
	$(BIN)/python benchmarks/vmas.py $(ARGS)

test: $(VENV)/.made-test
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(TESTS)

docs: $(VENV)/.made-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

# one stamp for each set of extras: redone when pyproject.toml changes, and only then
$(VENV)/.made-train: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.made-test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.made-train $(VENV)/.made-docs

$(VENV)/.made-docs: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[docs]'
	@touch $@ $(VENV)/.made-train

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find globediff_torchrl tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
