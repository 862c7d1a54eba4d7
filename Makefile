# `make demo` does the whole thing; `make test` runs every test. Both make the environment first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
TEST_PACKAGES := chromium dicom3tools

.PHONY: demo test dev screenshots lint fmt clean

demo: $(READY)
	@$(BIN)/dicom-assets demo

test: $(READY)
	@.ci/install-packages $(TEST_PACKAGES)
	$(BIN)/pytest -n 2

dev: $(READY)
	@home=$$($(BIN)/python -c 'from dicom_assets.runner import dagster_home; print(dagster_home())'); \
	DAGSTER_HOME=$$home $(BIN)/dagster dev -w workspace.yaml --host 127.0.0.1 --port 3000

screenshots: $(READY)
	SCREENSHOTS=$(CURDIR)/docs $(BIN)/pytest dicom_assets_tests/defs/test_ui.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

fmt: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .dagster data/demo .pytest_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@.ci/install-packages --venv $(PYTHON)
	@echo "making the environment in .venv (a minute or two, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
