PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STORE  ?= demo-store
PORT   ?= 3000
DATA   ?=

.PHONY: demo serve test test-slow lint lock root soak clean

demo: $(VENV)/installed         ## evolve, publish, serve, add a task while serving, measure
	$(BIN)/python demo.py

serve: $(VENV)/installed        ## the gateway on STORE (the demo's unless given)
	MUNET_STORE=$(abspath $(STORE)) BENTOML_HOME=$(abspath $(STORE))/.bentoml BENTOML_DO_NOT_TRACK=True \
	  $(BIN)/bentoml serve . --port $(PORT)

test: $(VENV)/installed         ## all tests but the slow ones; under 10 minutes on 2 cores
	$(BIN)/pytest -m "not slow"

test-slow: $(VENV)/installed    ## the rest: minutes each
	$(BIN)/pytest -m slow

lint: $(VENV)/installed         ## formatting, ruff's rules, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

soak: $(VENV)/installed         ## 10 minutes of mixed load with a publish every 5 seconds
	$(BIN)/pytest -m slow -s tests/test_soak.py

# The shipped root is trained on Omniglot. `make root DATA=folder` takes the raw files from there;
# without DATA, TFDS downloads them.
root: $(VENV)/installed         ## trains the shipped root anew
	$(BIN)/python -m evolution prepare omniglot --data-dir build/data $(if $(DATA),--source $(DATA))
	$(BIN)/python -m evolution root --data-dir build/data

# Everything runs from the checkout: only the locked dependencies are installed.
$(VENV)/installed: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	touch $@

lock: $(VENV)/installed         ## resolves the two lock files anew
	$(BIN)/uv pip compile pyproject.toml --extra train --extra dev $(LOCK_FLAGS) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK_FLAGS) -c requirements.lock -o requirements-serve.lock
LOCK_FLAGS := --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --quiet

clean:
	rm -rf demo-store build dist
