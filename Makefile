# `make demo` does the whole thing, `make demo-options` by every way in; `make test` runs every test.
# Each makes the environment first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
SERVER_PACKAGES := orthanc orthanc-dicomweb $(if $(shell command -v npm),,nodejs npm)
TEST_PACKAGES := chromium dcmtk dicom3tools $(SERVER_PACKAGES)
SERVERS := dicom_assets_tests/servers
SERVERS_READY := $(SERVERS)/node_modules/.ready
# what is there already, from Debian or not, is taken; what cannot be had is left out, and told so
BENCH_PACKAGES := chromium dcmtk $(SERVER_PACKAGES) $(SPARK_PACKAGES)
BENCH_READY := .venv/.bench-ready
SPARK_PACKAGES := $(if $(shell command -v java),,default-jre-headless) \
	$(if $(shell command -v mvn),,maven)
SPARK_READY := .venv/.spark-ready

# each process would compile the same modules again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-options test test-spark torture fuzz bench bench-spark profile dev screenshots \
	lint fmt clean

demo: $(READY)
	@$(BIN)/dicom-assets demo

# the same by every other way in: on an Orthanc and an Azurite, which it starts and ends
demo-options: $(READY)
	@.ci/install-packages $(SERVER_PACKAGES)
	@$(MAKE) --no-print-directory $(SERVERS_READY)
	@$(BIN)/python -m dicom_assets_tests.demo_options

# the Spark engine's tests with the others, where Java is; else pytest names them as left out
test: $(READY)
	@.ci/install-packages $(TEST_PACKAGES) $(if $(shell command -v java),$(SPARK_PACKAGES))
	@$(MAKE) --no-print-directory $(SERVERS_READY)
	$(if $(shell command -v java),-@$(MAKE) --no-print-directory $(SPARK_READY))
	$(BIN)/pytest -n 3

# the Spark engine alone, part of it on a cluster of one master and two workers
test-spark: $(READY)
	@.ci/install-packages $(SPARK_PACKAGES)
	@$(MAKE) --no-print-directory $(SPARK_READY)
	@$(BIN)/python -c 'import sys; from benchmarks.spark_cluster import missing; sys.exit(missing())'
	$(BIN)/pytest -n 0 dicom_assets_tests/spark

# each target for FUZZ_SECONDS; what is found is kept as a test in dicom_assets_tests/fuzz/corpus
FUZZ_SECONDS ?= 180
fuzz: $(READY)
	@$(BIN)/python -m dicom_assets_tests.fuzz header $(FUZZ_SECONDS)
	@$(BIN)/python -m dicom_assets_tests.fuzz archive $(FUZZ_SECONDS)

# kills and faults of every kind, more than 2,000; writes its results into docs/guarantees.md
torture: $(READY)
	$(BIN)/python -m dicom_assets_tests.faults.torture --write $(TORTURE)

# some 10 GB of disk for a while; BENCH=--quick tries it all in a few minutes and writes nothing
bench: $(BENCH_READY)
	$(BIN)/python -m benchmarks $(BENCH)

# the engines side by side, half an hour, some 10 GB for a while; BENCH=--quick as above
bench-spark: $(READY)
	@.ci/install-packages $(SPARK_PACKAGES)
	@$(MAKE) --no-print-directory $(SPARK_READY)
	@$(BIN)/pip install --quiet --constraint constraints.txt psutil
	$(BIN)/python -m benchmarks.engines $(BENCH)

profile: $(BENCH_READY)
	$(BIN)/python -m benchmarks.flame_graph --output docs/profile

dev: $(READY)
	@home=$$($(BIN)/python -c 'from dicom_assets.runner import dagster_home; print(dagster_home())'); \
	umask 027; DAGSTER_HOME=$$home $(BIN)/dagster dev -w workspace.yaml --host 127.0.0.1 --port 3000

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
	rm -rf .venv .dagster data/demo data/demo-options .pytest_cache .ruff_cache .hypothesis
	rm -rf spark_jars/*.jar benchmarks/.cache benchmarks/node/node_modules $(SERVERS)/node_modules

$(READY): pyproject.toml constraints.txt
	@.ci/install-packages --venv $(PYTHON)
	@echo "making the environment in .venv (a minute or two, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m compileall -q -j 0 dicom_assets
	@touch $@

# Azurite; where it cannot be had, its tests are left out, and told so
$(SERVERS_READY): $(SERVERS)/package.json
	-@cd $(SERVERS) && npm install --silent --no-package-lock --no-audit --no-fund && \
		touch node_modules/.ready

# Delta's jars come from where Maven's own settings say
$(SPARK_READY): $(READY) spark_jars/pom.xml
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[spark]'
	@rm -f spark_jars/*.jar
	@mvn --quiet --batch-mode -f spark_jars/pom.xml dependency:copy-dependencies \
		-DincludeScope=runtime -DincludeGroupIds=io.delta,io.unitycatalog \
		-DoutputDirectory=$(CURDIR)/spark_jars
	@touch $@

$(BENCH_READY): $(READY) benchmarks/node/package.json
	@.ci/install-packages $(BENCH_PACKAGES)
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	-@cd benchmarks/node && npm install --silent --no-package-lock --no-audit --no-fund
	-@$(MAKE) --no-print-directory $(SPARK_READY)
	@touch $@
