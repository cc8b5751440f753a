# `make` alone lists the targets. Targets that run something first install what is missing, into .venv.
.PHONY: help ready setup test test-slow simulate mutation lint format lock demo demo-once

bin = .venv/bin
args =

help:
	@echo 'make setup      .venv with every package, ready to use'
	@echo 'make test       lint, types and tests           make test args="-k windows"'
	@echo 'make test-slow  tests that take minutes: kills of the stream, Online Retail through the whole loop'
	@echo 'make simulate   10,000 seeded stories of crashes, replays, outages, evictions and poison; failing seeds become regression tests'
	@echo 'make mutation   faults planted in the core, and which of them no test notices: hours; args="--sample 6" draws some'
	@echo 'make lint       lint and types only             make format   fixes what can be fixed'
	@echo 'make demo       the whole loop on a laptop      make demo-once   checks it, and ends'
	@echo 'make lock       requirements.in -> requirements.lock'

ready:
	@sh .ci/setup.sh

setup: ready
	@echo 'Ready. $(bin)/headrace --help shows what it does; . $(bin)/activate puts it on your PATH.'

# Tests run even if lint fails: one run shows everything. Files keep their order, so that those of integration, which take minutes
# each, begin first: xdist would begin with the files of many tests, and wait for a few long ones at the end.
test: ready
	@status=0; \
	$(MAKE) --silent --no-print-directory lint || status=1; \
	$(bin)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m 'not slow' $(args) || status=1; \
	exit $$status

test-slow: ready
	@$(bin)/pytest -m slow $(args)

simulate: ready
	@$(bin)/python tests/simulation/stories.py --seeds 10000 --keep tests/parity/simulation_seeds.txt $(args)

mutation: ready
	@$(bin)/python tests/mutation/core.py $(args)

lint: ready
	@status=0; \
	$(bin)/ruff check --quiet --output-format concise . || status=1; \
	$(bin)/ruff format --check --quiet --output-format concise . || { echo 'make format mends these'; status=1; }; \
	$(bin)/mypy || status=1; \
	exit $$status

format: ready
	@$(bin)/ruff check --fix --quiet . || true
	@$(bin)/ruff format .

# To take newer versions, delete requirements.lock first. No hashes or addresses: those name hosts.
lock: ready
	@$(bin)/uv pip compile --quiet --system-certs --no-header --no-annotate --python-version 3.11 requirements.in -o requirements.lock

demo: ready
	@$(bin)/headrace demo $(args)

demo-once: ready
	@$(bin)/headrace demo --once --json $(args)
