PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STORE  ?= demo-store/store
PORT   ?= 3000
DATA   ?=
FUZZ_SECONDS ?= 60

.PHONY: demo demo-agents serve install test test-slow test-ray mutants fuzz fuzz-gateway fuzz-store simulate lint lock proto peers adopt-fixtures root compare compare-full compare-agents stream soak sbom clean help

demo: $(BIN)/munet              ## evolve, serve, add a task while serving, measure, compare with baselines
	$(BIN)/munet demo

demo-agents: $(BIN)/munet       ## agents evolve while the gateway serves; one is killed; a multipath agent
	$(BIN)/python demo_agents.py

serve: $(BIN)/munet             ## the gateway on STORE (the demo's unless given)
	$(BIN)/munet serve --store $(STORE) --port $(PORT)

help:                           ## lists these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 16

install: $(BIN)/munet           ## the command .venv/bin/munet, and all that it needs

test: $(BIN)/munet              ## all tests but the slow ones; 9 to 12 minutes on 2 cores
	$(BIN)/pytest -m "not slow" -n 4 --dist loadscope

test-slow: $(BIN)/munet         ## the rest: minutes each
	$(BIN)/pytest -m slow

test-ray: .venv-ray/installed   ## agents on a Ray cluster of several nodes, one of which is killed
	.venv-ray/bin/pytest tests/evolution/agents/test_cluster.py

mutants: .venv-mutants/installed ## small changes of the core's meaning, 200 of them: which do the tests notice? hours, resumable
	.venv-mutants/bin/python -m tests.mutants $(MUTANTS)
MUTANTS ?=

fuzz: $(VENV)/installed         ## coverage-guided fuzzing of the store's parsers for FUZZ_SECONDS each
	$(BIN)/python -m tests.model_store.fuzzing --seconds $(FUZZ_SECONDS)

simulate: $(VENV)/installed     ## 100,000 histories of the store in a simulated world; hours
	$(BIN)/python -m tests.model_store.simulation --histories 100000
	$(BIN)/python -m tests.model_store.simulation --histories 100000 --without all

fuzz-store: $(VENV)/installed   ## 10 minutes of real processes at one store, killed and stopped at random
	$(BIN)/python -m tests.model_store.fuzzing_processes --seconds 600

fuzz-gateway: $(VENV)/installed ## 20,000 hostile requests against a real gateway; minutes
	$(BIN)/python -m tests.service.fuzzing --cases 20000

lint: $(VENV)/installed         ## formatting, ruff's rules, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

soak: $(VENV)/installed         ## 20 minutes of load while 1,000 tasks come and go
	$(BIN)/pytest -m slow -s tests/test_soak.py

# The shipped root is trained on EuroSAT and Omniglot. `make root DATA=folder` takes the raw files from
# folder/eurosat/… and folder/omniglot/…; without DATA, TFDS downloads them.
root: $(BIN)/munet         ## trains the shipped root again
	for name in eurosat omniglot; do \
	    $(BIN)/munet experiments prepare $$name --data-dir build/data $(if $(DATA),--source $(DATA)) || exit 1; \
	done
	$(BIN)/munet experiments root --data-dir build/data

CMATERDB := cmaterdb/bangla cmaterdb/devanagari cmaterdb/telugu
# Needs MNIST, EuroSAT, binary_alpha_digits and CMATERdb: DATA=folder has the raw files as folder/mnist/… and so
# on; without DATA, TFDS downloads them. Stopped, it goes on where it was.
COMPARED := linear-probe/fitted fitted finetune-all/fitted random-search/fitted mu2net-plus mu2net munet \
  finetune-all/mu2net adapters:32/fitted freeze:2/fitted
compare: $(BIN)/munet      ## four methods and their baselines on eight small tasks, three seeds each
compare-full: $(BIN)/munet ## the same on sixteen tasks with four times the training: hours
compare compare-full:
	for name in mnist eurosat binary_alpha_digits $(CMATERDB); do \
	  $(BIN)/munet experiments prepare $$name --data-dir build/data $(if $(DATA),--source $(DATA)) || exit 1; \
	done
	export TFDS_DATA_DIR=build/data; for seed in 0 1 2; do for compared in $(COMPARED); do \
	  name=$$(echo $$compared | tr :/ -)-$$seed experiment=$${compared##*/}-$@; \
	  case $$compared in */*) what="baseline $${compared%/*}";; *) what=run;; esac; \
	  if $(BIN)/munet runs show $$name --store build/$@ >/dev/null 2>&1; \
	  then $(BIN)/munet experiments resume $$name --store build/$@ || exit 1; \
	  else $(BIN)/munet experiments $$what $$experiment --store build/$@ --seed $$seed --name $$name || exit 1; fi; \
	done; done
	$(BIN)/munet experiments analyse --store build/$@ --out build/$@-page

# The same method with and without earlier tasks' paths. Stopped, it goes on where it was. DATA as above.
stream: $(BIN)/munet       ## do later tasks gain from earlier ones? 20 small tasks in three orders
	for name in mnist omniglot eurosat binary_alpha_digits $(CMATERDB); do \
	  $(BIN)/munet experiments prepare $$name --data-dir build/data $(if $(DATA),--source $(DATA)) || exit 1; \
	done
	export TFDS_DATA_DIR=build/data; for seed in 0 1 2; do \
	  for name in fitted-stream fitted-stream-alone; do \
	    if $(BIN)/munet runs show $$name-$$seed --store build/stream >/dev/null 2>&1; \
	    then $(BIN)/munet experiments resume $$name-$$seed --store build/stream || exit 1; \
	    else $(BIN)/munet experiments run $$name --store build/stream --seed $$seed --name $$name-$$seed || exit 1; fi; \
	  done; \
	done
	$(BIN)/munet experiments analyse --store build/stream --out build/stream-page

# The same data: 80 children of one loop over the tasks, or of five agents that compute by turns or
# two at a time; and then multipath agents. `time -p` tells each one's seconds.
CHARS5 := mnist omniglot $(CMATERDB)
SEEDS  ?= 0
compare-agents: SHELL := /bin/bash
compare-agents: $(BIN)/munet ## agents next to the sequential loop at equal compute
	for name in $(CHARS5); do \
	  $(BIN)/munet experiments prepare $$name --data-dir build/data $(if $(DATA),--source $(DATA)) || exit 1; \
	done
	rm -rf build/agents
	export TFDS_DATA_DIR=build/data; for seed in $(SEEDS); do \
	  time -p $(BIN)/munet experiments run mu2net-plus-chars5-tuned --store build/agents/loop-$$seed --seed $$seed \
	    --set passes=2 || exit 1; \
	  for jobs in 1 2; do \
	    time -p $(BIN)/munet experiments agents --store build/agents/jobs-$$jobs-$$seed --seed $$seed --jobs $$jobs \
	      --cycles 2 $(CHARS5:%=--agent chars5-vit:%) || exit 1; \
	  done; \
	  $(BIN)/munet experiments agents --store build/agents/jobs-2-$$seed --seed $$seed --jobs 2 \
	    $(CHARS5:%=--agent chars5-multivit:%) || exit 1; \
	  for store in loop jobs-1 jobs-2; do \
	    COLUMNS=160 $(BIN)/munet experiments leaderboard --store build/agents/$$store-$$seed; \
	  done; \
	done

# Everything runs from the checkout: only the locked dependencies are installed.
$(VENV)/installed: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	touch $@

# Found from any working directory, and through links to it.
$(BIN)/munet: $(VENV)/installed
	printf '#!/bin/sh\nexec "%s" "%s" "$$@"\n' '$(abspath $(BIN))/python' '$(CURDIR)/munet.py' > $@
	chmod +x $@

# A node of a Ray cluster needs requirements-ray.lock; its tests need pytest and an S3 server next to.
.venv-ray/installed: requirements.lock requirements-ray.lock
	$(PYTHON) -m venv .venv-ray
	for lock in requirements.lock requirements-ray.lock; do \
	  .venv-ray/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $$lock || exit 1; \
	done
	touch $@

.venv-mutants/installed: requirements.lock tests/mutants/requirements.lock
	$(PYTHON) -m venv .venv-mutants
	for lock in $^; do \
	  .venv-mutants/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $$lock || exit 1; \
	done
	touch $@

lock: $(VENV)/installed         ## resolves the lock files again
	$(BIN)/uv pip compile pyproject.toml --extra train --extra dev $(LOCK_FLAGS) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK_FLAGS) -c requirements.lock -o requirements-serve.lock
	$(BIN)/uv pip compile pyproject.toml --extra train --extra ray $(LOCK_FLAGS) -c requirements.lock -o requirements-ray.lock
	$(BIN)/uv pip compile tests/mutants/requirements.txt $(LOCK_FLAGS) -c requirements.lock -o tests/mutants/requirements.lock
	for name in loadtests/peers loadtests/peers-triton tests/evolution/adopting/fixtures; do \
	  $(BIN)/uv pip compile $$name.txt $(LOCK_FLAGS) -o $$name.lock || exit 1; \
	done
LOCK_FLAGS := --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --quiet

# CycloneDX, of what a gateway's image installs; each part with version, hashes and licence.
sbom: $(VENV)/installed         ## writes build/sbom.json: what the gateway is made of
	mkdir -p build
	$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements requirements-serve.lock \
	  --pyproject pyproject.toml --output-reproducible -o build/sbom.json

# In a descriptor pool of its own: a process may hold the messages of another client as well.
proto: $(VENV)/installed        ## makes the messages of service/open_inference/inference.proto again
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. service/open_inference/inference.proto
	sed -i -e 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' \
	  -e '1i # Made by `make proto` of inference.proto.' service/open_inference/inference_pb2.py
	sed -i '1i # Made by `make proto` of inference.proto.' service/open_inference/inference_pb2.pyi

peers: .venv-peers/installed .venv-peers-triton/installed ## the servers that `munet loadtest peers` and `noop` compare

.venv-peers/installed .venv-peers-triton/installed: .venv-%/installed: loadtests/%.lock
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	touch $@

# PyTorch, transformers, timm and peft, which nothing else here needs. `make test` reads what it made.
ADOPT_VENV  ?= build/adopt-venv
adopt-fixtures: $(ADOPT_VENV)/installed $(BIN)/munet  ## tiny networks of other libraries, and their logits, for the tests of munet adopt; opens exports there
	$(ADOPT_VENV)/bin/python tests/evolution/adopting/make_fixtures.py tests/evolution/adopting/fixtures
	rm -rf build/exports
	$(BIN)/python -m tests.evolution.adopting.exported build/exports
	$(ADOPT_VENV)/bin/python tests/evolution/adopting/open_exports.py build/exports

$(ADOPT_VENV)/installed: tests/evolution/adopting/fixtures.lock
	$(PYTHON) -m venv $(ADOPT_VENV)
	$(ADOPT_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	touch $@

clean:
	rm -rf demo-store demo-agents-store build dist
