# Everything the project can do, one verb each; continuous integration calls the same ones.

PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
DEPLOYING := .venv/.deploying
PHANTOM := runs/phantom-data

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-deploy check bench docs

help:  ## print the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## create .venv and install what constraints.txt says

demo: setup $(PHANTOM)  ## train four phantom hospitals together and write a report
	$(BIN)/consilium sim run recipes/phantom.yaml --data $(PHANTOM)

# Tests run side by side in processes: one thread each.
test test-deploy docs: export OMP_NUM_THREADS := 1

test: setup  ## run the tests
	$(BIN)/pytest -m "not slow and not deploy" -n 2

test-deploy: $(DEPLOYING)  ## run real federations, in processes and containers (deploy/ci-tools)
	$(BIN)/pytest -m deploy tests/deploy

check: setup  ## style, format, types, and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/lint-imports

bench: setup  ## time us against the floor, side by side
	$(BIN)/python -m bench.jobs
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.aggregation
	$(BIN)/python -m bench.secagg
	$(BIN)/python -m bench.deployment

docs: setup  ## run every command and every snippet that the documents show
	$(BIN)/pytest tests/test_docs.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(DEPLOYING): $(INSTALLED)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev,deploy]'
	touch $@

$(PHANTOM): | setup
	rm -rf $@.partial
	$(BIN)/consilium sim phantom $@.partial
	mv $@.partial $@
