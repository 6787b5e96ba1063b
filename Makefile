# `make` alone lists the targets. Every target stops at the first failure.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
# An active virtual or conda environment is used as it is; otherwise .venv is made.
ENV := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX),$(CURDIR)/.venv)
BIN := $(ENV)/bin
export PATH := $(BIN):$(PATH)
READY := $(ENV)/.topgap-ready
FOLDER ?= notebooks

.PHONY: help setup reproduce real paper readme test quick lab book slides student handout lint bench lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install the locked versions into the active environment, or into .venv

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	    { echo "$(PYTHON) is not Python 3.11 to 3.13: name another, as in make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(ENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

reproduce: setup  ## train, run every notebook, write figures/demo/ and print the scoreboard
	topgap run --profile demo
	topgap report --profile demo

real: setup  ## pets, cub and cifar10 from TOPGAP_DATA on a CPU, into figures/real/
	topgap run --profile real/pets
	topgap run --profile real/cub
	topgap run --profile real/cifar10

paper: setup  ## the same at the paper's scale: a GPU and hours
	topgap run --profile paper
	topgap report --profile paper

readme: reproduce  ## write the README's tables from the records of the last run
	topgap report --profile demo --readme

test: setup  ## run every test, and every notebook once in the smoke profile
	@test -d tests || { echo "this copy has no tests: they hold answers to the exercises"; exit 1; }
	@$(MAKE) --no-print-directory lint
	python -m pytest -q -n auto --dist worksteal -m "not browser"
	python -m pytest -q -m browser

quick: setup  ## lint and the fast tests, while you work
	@$(MAKE) --no-print-directory lint
	python -m pytest -q -n auto -m "not (slow or browser or cluster or gpu)"

lint: setup  ## check style of the package, the tests and the notebooks
	ruff check
	ruff format --check

lab: setup  ## open JupyterLab on the notebooks, or FOLDER=student; OPTIONS="..." are JupyterLab's
	JUPYTER_PREFER_ENV_PATH=1 jupyter lab --notebook-dir $(FOLDER) $(OPTIONS)

book: setup  ## build the notebooks that `make reproduce` executed into a site
	topgap book

slides: setup  ## turn the notebooks that `make reproduce` executed into presentations
	topgap slides

student: setup  ## write the notebooks without the solutions of their exercises into student/
	topgap student

handout: setup  ## the whole workbook without solutions and tests as handout.zip, for a class
	topgap student --handout

bench: setup  ## print our speed beside that of peers
	for file in benchmarks/*.py; do python $$file; done

lock:  ## resolve requirements.in into requirements.lock again
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --override overrides.txt requirements.in --output-file requirements.lock

clean:  ## delete trained networks, records and executed notebooks
	rm -rf runs build *.egg-info .pytest_cache .hypothesis .ruff_cache
