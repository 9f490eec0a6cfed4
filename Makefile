# distilled-sd-serve: `make` lists the targets; each sets up what it needs.

PORT ?= 8000
TORCH_INDEX ?=
ARGS ?=
FAMILY ?= sd-v1
VARIANT ?=
TARGET ?= cpu
HOST ?=
IMAGE ?=
DIGESTS ?=
DIR ?= weights/$(FAMILY)
# The first Python that is new enough; PYTHON=... names another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# tests/conftest.py says which worker runs what.
PYTEST = $(BIN)/python -m pytest -n 2 --no-loadscope-reorder --durations 10
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# With httptools uvicorn loses the body of a request that offers an upgrade, as curl's --http2 and
# Java's HttpClient do by default; with h11, its other parser, it doesn't. With websockets it lets a
# POST that offers that upgrade wait for ever.
WITHOUT_UPGRADES = $(BIN)/python -m pip uninstall --quiet --yes httptools websockets

.DEFAULT_GOAL := help
.PHONY: help serve test thorough browser-test fuzz audit screenshots lint format weights bench overhead loadtest faults miniature measure image image-test release-manifests e2e clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: .venv/.serve  ## serve the miniature on 127.0.0.1:8000 (PORT=..., ARGS="--family sd-v1 ...")
	@exec $(BIN)/python -m serve --port $(PORT) $(ARGS)

test: .venv/.dev  ## run the tests (ARGS="-k engine")
	$(PYTEST) $(ARGS)

thorough: .venv/.dev  ## the tests that take long and aren't in `make test`
	$(PYTEST) -m thorough $(ARGS)

browser-test: .venv/.dev  ## the page in headless Chromium, all of it (ARGS="-k curl")
	$(BIN)/python -m pytest -m "" tests/browser tests/cluster/miniature/test_page.py $(ARGS)

fuzz: .venv/.dev  ## 10,000 requests from the OpenAPI document, hostile ones, and how fast they are refused
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=long --timeout=3000 $(ARGS)
	$(BIN)/python -m tests.fuzz

audit: .venv/.dev  ## known vulnerabilities of the pinned dependencies (exit 77: no data to be had)
	@$(BIN)/python deploy/audit.py

screenshots: .venv/.dev  ## the README's pictures of the page, drawn by the miniature
	$(BIN)/python -m tests.browser.screenshots docs

lint: .venv/.dev  ## ruff, mypy --strict, import-linter, hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile

format: .venv/.dev  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

weights: .venv/.serve  ## download real weights (FAMILY=sd-v1, VARIANT=distilled, DIR=..., ARGS=--update)
	$(BIN)/python -m serve.weights download $(DIR) --family $(FAMILY) $(if $(VARIANT),--variants $(VARIANT)) $(ARGS)

bench: .venv/.serve  ## measure engine and policies against stock diffusers (ARGS=--quick)
	$(BIN)/python -m loadtests.bench.engine $(ARGS)

overhead: .venv/.loadtest  ## measure what HTTP and Ray Serve cost, and another replica brings (ARGS=--quick)
	@$(BIN)/python -m loadtests.bench.serving $(ARGS)

loadtest: .venv/.loadtest  ## compare the variants over an endpoint, its own or HOST=http://... (ARGS=--quick)
	@$(BIN)/python -m loadtests.compare $(if $(HOST),--host $(HOST)) $(ARGS)

faults: .venv/.dev  ## faults while requests come, also on an overlay's pods (ARGS="--only placement")
	@$(BIN)/python -m tests.faults $(ARGS)

miniature: .venv/.serve  ## train the embedded miniature from nothing (ARGS="--device cuda")
	$(BIN)/python -m serve.miniature.training $(ARGS)

measure: .venv/.serve  ## measure the shipped miniature (ARGS=--quick)
	$(BIN)/python -m serve.miniature.training.measure $(ARGS)

image: .venv/.serve  ## build the container image, with its SBOM (TARGET=cuda or loadtest, ARGS="--stand-in-base --host-pip")
	@$(BIN)/python deploy/image.py build --target $(TARGET) $(ARGS)

image-test: .venv/.serve  ## run the image as the manifests do: read-only, pictures, SIGTERM
	@$(BIN)/python deploy/image.py test --target $(TARGET)

release-manifests: .venv/.dev  ## an overlay a file, in dist/ (IMAGE=REGISTRY/NAME DIGESTS="cpu=sha256:... cuda=... redis=...")
	@$(BIN)/python deploy/release.py --image "$(IMAGE)" --digests "$(DIGESTS)"

e2e: .venv/.dev  ## the overlays on a throw-away cluster (E2E_CONTEXT=kind-kind; exit 77: there is none)
	@$(BIN)/python -m tests.e2e $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	rm -rf tests/clients/.venv tests/clients/node_modules

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "distilled-sd-serve: needs Python 3.11 or newer, and found none; name it with PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi
	@echo "Making .venv with $(PYTHON) ..."
	@$(PYTHON) -m venv .venv

# torch first: alone, so that TORCH_INDEX concerns nothing else.
.venv/.serve: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing torch ..."
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	@echo "Installing the other dependencies ..."
	@$(PIP_INSTALL) -c constraints.txt -e .
	@$(WITHOUT_UPGRADES)
	@touch $@

.venv/.loadtest: .venv/.serve
	@echo "Installing what load tests need ..."
	@$(PIP_INSTALL) -c constraints.txt -e '.[loadtest]'
	@$(WITHOUT_UPGRADES)
	@touch $@

.venv/.dev: .venv/.serve
	@echo "Installing the development dependencies ..."
	@$(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@$(WITHOUT_UPGRADES)
	@touch $@
