VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: wire-record help dev demo test test-postgresql forgetting lint fuzz offline drills protos docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / ## /' | awk -F ' ## ' '{printf "%-16s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[train,coordinator,hsm,postgresql,s3,ray]" --group test --group lint
	@touch $@

dev: $(VENV)/.installed ## make the virtual environment and install everything

demo: $(VENV)/.installed ## one coordinator, three hospitals, the whole story (DATA=path for other images)
	$(BIN)/python -m demo $(if $(DATA),--data "$(DATA)") $(if $(SEED),--seed $(SEED))

test: $(VENV)/.installed ## run the test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-postgresql: $(VENV)/.installed ## run what has a coordinator with its state in PostgreSQL
	$(BIN)/python -m pytest --state=postgresql --must-run=postgresql \
	  tests/coordinator tests/exchange tests/ops tests/attack tests/e2e $(ARGS)

forgetting: $(VENV)/.installed ## exact forgetting whole: every hospital of four, every mode, in process and on Ray
	FORGETTING=whole $(BIN)/python -m pytest --must-run=ray tests/e2e/test_exact_forgetting.py $(ARGS)

lint: $(VENV)/.installed ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

FUZZ_EXAMPLES ?= 2000
fuzz: $(VENV)/.installed ## mutate 100,000 blueprints and fuzz every parser (SEED=n, 0 draws one; FUZZ_EXAMPLES=n)
	$(BIN)/python -m tests.fuzz.mutation $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.fuzz.models $(if $(SEED),--seed $(SEED))
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/fuzz $(ARGS)

offline: $(VENV)/.installed ## the suite again with no network but loopback
	unshare --map-root-user --net sh -c 'ip link set lo up && $(BIN)/python -m pytest $(ARGS)'

drills: $(VENV)/.installed ## break it on purpose, and print what was seen (ARGS="--only kill --table FILE")
	$(BIN)/python -m tests.drills $(ARGS)

protos: $(VENV)/.installed ## generate the stubs of the wire contract
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/exchange.proto

wire-record: $(VENV)/.installed ## record contract and messages of a release (only when one is cut)
	$(BIN)/python -m tests.vectors.record_wire

docs: $(VENV)/.installed ## write the command reference from --help
	$(BIN)/python docs/reference/write_cli.py

clean: ## remove the virtual environment and what the demo made
	rm -rf $(VENV) demo/work demo/summary.json
