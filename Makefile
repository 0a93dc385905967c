# Each target makes or updates .venv first, when it has to.
#   make lab    open the first lab in JupyterLab
#   make run    run every lab headless, with a summary
#   make test   what CI runs (lint, types, unit, notebooks, browser)
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LAB    ?= 00

.PHONY: lab run test test-all lint format build clean

lab: .ready
	@$(BIN)/labs open $(LAB)

run: .ready
	@$(BIN)/labs run

test: .ready
	@$(BIN)/labs test

test-all: .ready
	@$(BIN)/labs test --all

lint: .ready
	@echo "Linting and type-checking ..."
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: .ready
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

build: .ready
	@$(BIN)/labs build

clean:
	@echo "Removing $(VENV) (your work in my_labs/ stays) ..."
	@rm -rf $(VENV)

.PHONY: .ready
.ready:
	@$(PYTHON) labsupport/install.py $(VENV)
