# Everything here makes its own environment in .venv if there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_HOME ?= .demo

.PHONY: demo test check fmt proto blocking schemas bench faults env web clean

# The main job: a real TCAD deck to a verified optimum, on an embedded PostgreSQL.
demo: env
	BIN=$(BIN) DEMO_HOME=$(DEMO_HOME) sh examples/demo.sh

# Two processes side by side, each with a PostgreSQL and a suite of its own; a file's tests stay
# together and in order.
test: env
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The slow fault and soak tests, about an hour; their table goes to a file as well.
FAULTS_REPORT ?= faults-report.md
faults: env
	VISTAFLOW_FAULTS_REPORT=$(FAULTS_REPORT) $(BIN)/python -m pytest -m slow

check: env
	$(BIN)/python client/generate_blocking.py --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy client services
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format -d --exit-code
	@if git rev-parse -q --verify origin/main >/dev/null && git ls-tree origin/main protos | grep -q .; then \
	    $(BIN)/buf breaking --against '.git#ref=refs/remotes/origin/main'; fi

fmt: env blocking
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format -w

proto:
	sh protos/generate.sh
	sh protos/openapi.sh || test $$? -eq 77

# The blocking client from the asynchronous one.
blocking: env
	$(BIN)/python client/generate_blocking.py

# The JSON Schemas of deck.yaml and kit.yaml that the client ships.
schemas: env
	$(BIN)/python tests/contract/schemas.py

# Each prints a table; the other files of the folder are what they share.
# mosfet.py needs a former commit of the history and some minutes: it is run by itself.
BENCHES := $(filter-out benchmarks/mosfet.py,$(wildcard benchmarks/*.py) $(wildcard $(addprefix benchmarks/registry/,append.py watch.py memory.py reads.py replicas.py interceptors.py stalls.py large_kits.py)))

bench: env
	$(BIN)/python -m pip install --quiet --group bench
	for each in $(BENCHES); do $(BIN)/python $$each || exit 1; done

# Where the page cannot be built, everything else works, and `/` says what is missing.
env: $(VENV)/.installed
	@$(MAKE) --no-print-directory web || echo 'make: the page is not built; everything else works' >&2

# The page for browsers, by the Node of the machine, else by that of PyPI.
PAGE := services/vistaflow_services/gateway/page/built
web: $(PAGE)/index.html

$(PAGE)/index.html: $(VENV)/.installed $(shell find client/web -path '*/node_modules' -prune -o -type f -print)
	PYTHON=$(BIN)/python sh client/web/build.sh $(PAGE)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vistaflow needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -e '.[all]' --group dev
	touch $@

clean:
	rm -rf $(VENV) .codegen .demo build dist client/web/node_modules $(PAGE)
