# The daily commands. Each does its own set-up: Python 3.11+ and make are all a machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MAIN ?= main
# A process a core, each with a thread: most tests wait for services that they start. Files stay whole.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
WEB := gateway/web/dist/index.html
WEB_SOURCES := Makefile $(shell find gateway/web protos -type f \
  -not -path '*/node_modules/*' -not -path '*/dist/*' -not -path '*/src/gen/*' -not -path '*/__pycache__/*')

export HF_HUB_OFFLINE ?= 1
export PYTHONDONTWRITEBYTECODE ?=

.PHONY: demo up web test test-slow soak guide-images lint format gen bench clean help

help:
	@echo "make demo   forty pictures in, a fine-tuned model out, pictures from it: out/demo/"
	@echo "make up     run the studio in the foreground, data under ./data;  make web   build its pages"
	@echo "make test   all tests;  make lint   every check;  make format   write the formatting"
	@echo "make gen    regenerate gen/ from protos/;  make bench   the benchmarks: out/bench/"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Atelier needs Python 3.11 or newer"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m atelier_client.demo

up: $(READY) $(WEB)
	HF_HUB_OFFLINE=0 $(BIN)/atelier up

# The browser's app: built again only when its sources or the contracts have changed.
web: $(WEB)

$(WEB): $(WEB_SOURCES) | $(READY)
	gateway/web/build.sh $(BIN)/python

test: $(READY) $(WEB)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' $(PARALLEL)

test-slow: $(READY) $(WEB)
	$(BIN)/python -m pytest -m slow

# Random requests for minutes: python -m tests.soak --help.
soak: $(READY)
	$(BIN)/python -m tests.soak --minutes 10

# The guides' pictures, taken anew: look at them before they are committed.
guide-images: $(READY) $(WEB)
	rm -rf out/guide
	$(BIN)/python -m pytest -m slow tests/browser/test_guide.py
	for language in en fr; do mkdir -p docs/images/guide/$$language && cp out/guide/$$language/*.webp docs/images/guide/$$language/; done

lint: $(READY) .imports
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check .
	$(BIN)/mypy services gateway clients/python protos/gather.py benchmarks assets seed_models.py
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos
	protos/breaking.sh $(BIN)/buf $(MAIN)
	protos/check_fresh.sh $(BIN)/python
	cd gateway/web && ../../$(BIN)/oxlint -c .oxlintrc.json --deny-warnings src
	gateway/web/build.sh $(BIN)/python check

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write protos

.imports: $(READY) protos/gather.py
	$(BIN)/python protos/gather.py .imports
	@touch $@

gen: $(READY)
	protos/generate.sh $(BIN)/python gen

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf out build dist gateway/web/dist gateway/web/src/gen .imports .mypy_cache .ruff_cache .pytest_cache
