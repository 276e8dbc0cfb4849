.PHONY: demo test lint docs clean
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
# Another Python and other constraints have an environment of their own.
VENV := .venv$(patsubst python3%,%,$(notdir $(PYTHON)))$(patsubst constraints%.txt,%,$(CONSTRAINTS))
BIN := $(VENV)/bin

demo: $(VENV)/demo.done
	$(BIN)/img2img-data sample demo/photos
	$(BIN)/img2img-data build demo
	$(BIN)/img2img-train --recipe demo

test: $(VENV)/dev.done
	$(BIN)/python -m pytest

lint: $(VENV)/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv* demo site

# One line where the Python is too old or missing; pip says it among many others.
OLD := $(PYTHON) is not Python 3.11 or later; name one, as in: make PYTHON=python3.12
IS_NEW = $(shell $(PYTHON) -c "import sys; print(sys.version_info >= (3, 11))" 2>/dev/null)
CHECK_PYTHON = $(if $(filter True,$(IS_NEW)),,$(error $(OLD)))

$(VENV)/demo.done: pyproject.toml $(CONSTRAINTS)
	$(CHECK_PYTHON)$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c $(CONSTRAINTS) -e '.[train,demo]'
	touch $@

$(VENV)/dev.done: pyproject.toml $(CONSTRAINTS)
	$(CHECK_PYTHON)$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c $(CONSTRAINTS) -e '.[train,demo,dev]'
	touch $@

$(VENV)/docs.done: pyproject.toml $(CONSTRAINTS)
	$(CHECK_PYTHON)$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c $(CONSTRAINTS) -e '.[train,docs]'
	touch $@
