# `make demo` and `make test` are all a newcomer needs; both prepare .venv first, and only when it is missing or stale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: environment demo test test-chaos test-yard test-long pictures lint lock modules docs clean help
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

# Asked every time, done when needed: a changed lock or another Python makes the environment stale, a touched file does not.
environment:  ## make .venv from requirements.lock, where it is missing or stale; the others do that first
	@.ci/environment $(PYTHON) $(VENV)

demo: environment  ## train on signals made on the spot, then a splat of a video made on the spot (6 minutes on 2 cores)
	@$(BIN)/yard demo

# Two processes of one thread each: two of two threads each would wait for one another, see docs/performance.md.
# No new process for one that was killed: xdist 3.8 with `loadfile` then waits for ever for the tests of the old one.
test: environment lint  ## lint, types and every test that needs no GPU (about 10 minutes on 2 cores)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --max-worker-restart 0 -m "not long and not yard and not gpu"

test-chaos: environment  ## 24 runs on a real server and two workers, all killed at random (2 minutes; part of test-yard)
	@$(BIN)/pytest -q -s tests/chaos/test_chaos.py

test-yard: environment system-packages  ## a real yard: runs, workers and servers killed at random, pipelines cut off, a browser's walk
	@$(BIN)/pytest -q -m "yard and not long and not gpu"

pictures: environment system-packages  ## the screenshots in docs/pictures, taken on that walk
	@TRAINYARD_PICTURES=$(CURDIR)/docs/pictures $(BIN)/pytest -q tests/ui

# Debian's Chromium for the walk, PostgreSQL for the stack, rsync for the inbox, Prometheus for the metrics, Caddy and Redis for
# the lab, Slurm and munge for runs on a cluster: asked for only where they are missing. None of these is to run by itself.
.PHONY: system-packages
system-packages:  ## install Debian's Chromium, PostgreSQL, Prometheus, rsync, Caddy, Redis and Slurm by apt-get, where they are missing (as root)
	@test -x /usr/bin/chromium -a -x /usr/bin/rsync -a -x /usr/bin/promtool -a -x /usr/bin/caddy -a -x /usr/bin/redis-server \
	  -a -x /usr/bin/sbatch -a -x /usr/sbin/munged && \
	  ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || \
	  (apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu-core postgresql rsync >/dev/null && \
	   apt-get install -y -qq --no-install-recommends prometheus caddy redis-server slurm-wlm munge >/dev/null)

test-long: environment  ## the checks that take minutes: sixty kills, a compiled model cut and resumed, an installed wheel, the newest versions
	@$(BIN)/pytest -q -m "long and not gpu"

lint: environment  ## ruff and mypy alone
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lock: environment  ## resolve requirements.lock again from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --quiet --upgrade -o requirements.lock

modules:  ## write docs/modules.md anew: a line on every module, from its docstring
	@$(PYTHON) -m tests.module_table

docs: environment  ## the pages of docs/ as a site in site/, with an API made from the docstrings
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

clean:  ## remove the environment and the state of the local yard
	rm -rf $(VENV) .yard
