.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SUITES = foundation circuit_breaker websocket browser benchmarks packaging docs deployment
ARGS ?=

help:  ## Show what there is
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## Start the demo: a chat, who is online, private notifications, a live dashboard
	@$(BIN)/python -m examples.demo $(ARGS)

test:  ## Check everything: linters and all tests; installs and starts what they need
	@$(MAKE) --no-print-directory -j3 lint tools
	@tests/all_suites.sh $(BIN)/python "$(ARGS)" $(SUITES)

test-all: tools  ## Run the tests with every Python from 3.10 on that is found
	@PYTHON=$(PYTHON) tests/all_pythons.sh

lint: $(VENV)/.dev  ## Check style, types and the walls between the packages
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev  ## Format the code
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/ruff format -q .

bench: $(VENV)/.bench  ## Measure against gevent-websocket and the limit, and the breaker against others; five minutes
	@$(BIN)/python -m benchmarks $(ARGS)
	@$(BIN)/python -m benchmarks breaker $(ARGS)

bench-peers: $(VENV)/.bench  ## Measure against everybody else who installs here; eight minutes
	@$(BIN)/python -m benchmarks peers $(ARGS)

bench-echo: $(VENV)/.bench  ## Measure echoes against everybody else who installs here, and publishing clients; three minutes
	@$(BIN)/python -m benchmarks echo $(ARGS)

bench-memory: $(VENV)/.bench  ## Measure the memory of idle connections; a minute
	@$(BIN)/python -m benchmarks memory $(ARGS)

bench-writers: $(VENV)/.bench  ## Measure the ways to write to sockets against the limit; a minute
	@$(BIN)/python -m benchmarks writers $(ARGS)

bench-profile: $(VENV)/.bench  ## Draw flame graphs of fan-out, echo and handshakes; two minutes
	@$(BIN)/python -m benchmarks profile $(ARGS)

bench-scale: $(VENV)/.bench  ## Measure several workers and several servers, and compute what millions need; six minutes
	@$(BIN)/python -m benchmarks scale $(ARGS)

bench-100k: $(VENV)/.bench  ## Hold a hundred thousand connections for ten minutes
	@$(BIN)/python -m benchmarks 100k $(ARGS)

bench-history: $(VENV)/.bench  ## Measure what histories cost, and a hot restart; two minutes
	@$(BIN)/python -m benchmarks history $(ARGS)

bench-soak: $(VENV)/.bench  ## Let clients come, go, read nothing and vanish for half an hour
	@$(BIN)/python -m benchmarks soak $(ARGS)

autobahn: $(VENV)/.dev  ## Run the Autobahn test suite against both transports
	@$(BIN)/python tests/autobahn/run.py $(ARGS)

fuzz: EXAMPLES = 20000
fuzz: $(VENV)/.dev  ## Feed the server random bytes, handshakes and messages; minutes, EXAMPLES=100000 for longer
	@FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q --timeout 0 tests/websocket/test_fuzz.py tests/websocket/test_reading.py tests/websocket/test_switching.py $(ARGS)

chaos: SECONDS = 3600
chaos: $(VENV)/.dev  ## Let three nodes and a Redis live through bad networks for an hour; SECONDS=60 for less
	@ALPHAVEL_CHAOS_SECONDS=$(SECONDS) ALPHAVEL_CHAOS_SEED=$${ALPHAVEL_CHAOS_SEED:-$$(date +%s)} \
		$(BIN)/python -m pytest -q -s --timeout 0 tests/websocket/test_chaos.py $(ARGS)

soak-breaker: $(VENV)/.dev  ## Let the circuit breaker face a failing HTTP server for longer than in `make test`
	@ALPHAVEL_SOAK_SECONDS=15 $(BIN)/python -m pytest -q tests/circuit_breaker/test_soak.py --timeout 600 $(ARGS)

docs: $(VENV)/.dev reference  ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)
	@echo "site/index.html"

docs-serve: $(VENV)/.dev  ## Show the documentation while it is being written
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve $(ARGS)

reference: $(VENV)/.dev  ## Write the configuration files and the reference from the code
	@$(BIN)/python -m scripts.reference

wheels: DIST = dist
wheels: $(VENV)/.dev  ## Build the wheels of the three packages into dist/
	@$(BIN)/python -m scripts.wheels $(DIST)

audit: $(VENV)/.dev  ## Look up known vulnerabilities of what is installed; needs the index's database, ARGS=--strict insists on it
	@test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && \
		$(VENV)-audit/bin/python -m pip install -q --disable-pip-version-check 'pip-audit>=2.7'; }
	@$(BIN)/python -m scripts.audit $(VENV)-audit/bin/pip-audit $(ARGS)

tools: $(VENV)/.dev programs
	@# Where there was no compiler before, the C extensions are still to be built.
	@$(BIN)/python -c 'from alphavel.websocket.transports import _reading, _writing' 2>/dev/null || \
		$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .

programs:
	@tests/install_tools.sh

clean:  ## Remove what the commands above made
	rm -rf .venv* build dist site alphavel/websocket/transports/*.so benchmarks/.build benchmarks/results *.egg-info .autobahn .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf tests/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: EXTRA = all
$(VENV)/.dev: EXTRA = dev
$(VENV)/.bench: EXTRA = bench
$(VENV)/.demo $(VENV)/.dev $(VENV)/.bench: setup.cfg setup.py pyproject.toml alphavel/websocket/transports/_reading.c alphavel/websocket/transports/_writing.c
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing alphavel[$(EXTRA)] and what it needs into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[$(EXTRA)]'
	@touch $@

.PHONY: help demo test test-all lint format bench bench-peers bench-echo bench-memory bench-writers bench-profile bench-scale bench-history bench-100k bench-soak autobahn fuzz chaos tools programs clean soak-breaker wheels docs docs-serve reference audit
