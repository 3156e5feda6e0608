# What one does with a checkout. `make` alone lists it.

PYTHON ?= python3
# Environments are made here; the ones without PyTorch and for the documentation stand beside it.
VENV ?= .venv
# A package index that offers the PyTorch build to use, beside the usual one. The CPU build of the PyTorch
# project is far smaller than the default one: make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Test processes, with one thread each.
WORKERS ?= 2
# More arguments for pytest, e.g. make test ARGS='-k policy'
ARGS ?=

EDGE_VENV := $(VENV)-edge
DOCS_VENV := $(VENV)-docs
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check
EDGE_BOX := build/edge-box

.DEFAULT_GOAL := help
.PHONY: help venv demo test slow lint edge-test zoo docs wheel clean ci

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

venv: $(VENV)/.installed ## make or update .venv

# PyTorch comes first and alone, so that the build of TORCH_INDEX is there before anything asks for one.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Sentio needs Python 3.11 or newer, this is %d.%d; name another: make test PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Installing into $(VENV); the first time that can take some minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/python $(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: venv ## show everything once: sounds, training, exits, listening, export, report (3 minutes)
	rm -rf build/demo
	$(BIN)/sentio demo --out build/demo $(ARGS)

test: venv ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

slow: venv ## run the tests that take more than a minute
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: venv ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

edge-test: wheel ## install the wheel without PyTorch and compare answers
	rm -rf $(EDGE_VENV) $(EDGE_BOX)
	$(BIN)/python tests/edge_environment/make_box.py $(EDGE_BOX)
	$(PYTHON) -m venv $(EDGE_VENV)
	$(EDGE_VENV)/bin/python $(PIP) install -c constraints.txt dist/sentio-*.whl
	$(EDGE_VENV)/bin/python tests/edge_environment/check_box.py $(EDGE_BOX)

zoo: venv ## train the models that ship with Sentio again, e.g. make zoo ARGS=street-sounds
	$(BIN)/python zoo/build.py $(ARGS)
	$(BIN)/python docs/make_shelf_reference.py

docs: $(DOCS_VENV)/.installed ## build the documentation into site/
	$(DOCS_VENV)/bin/mkdocs build --strict

$(DOCS_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python $(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@

wheel: venv ## build the wheel into dist/
	rm -rf dist
	$(BIN)/python $(PIP) wheel --no-deps -w dist .

clean: ## remove what was built; environments stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

ci: ## do what continuous integration does, in environments of its own
	.ci/run
