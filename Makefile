# make demo    a pocket internet on loopback; one domain per fault; what was enforced against what was expected
# make run     the relay with ./config.toml
# make check   ruff, mypy --strict, import-linter
# make test    all tests; as root it installs the real servers first, else what is not installed is skipped by name
# make bench   the relay beside Postfix; writes docs/performance.md (as root; BENCH="--row one-domain --turns 1" for a part)
# make bench-growth   how throughput, CPU time and memory grow, and the calculation for more; part of a whole make bench
# The others: venv, apt, bench-parts, bytecodes (a message's, by file; as root), conformance, lock, clean.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TESTS ?= tests

.PHONY: help venv demo run check test bench bench-growth bench-parts bytecodes conformance lock apt clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# //p' Makefile

# Stamp files keep what is done already from being done again. The runtime lock alone is enough to run.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV) || { .ci/apt python3-venv && $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

$(VENV)/.runtime: requirements.txt pyproject.toml | $(VENV)/.made
	$(PIP) install --require-hashes -r requirements.txt
	$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt | $(VENV)/.runtime
	$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@

venv: $(VENV)/.runtime $(VENV)/.dev

demo: $(VENV)/.runtime
	$(BIN)/mta-sts-relay demo

run: $(VENV)/.runtime
	$(BIN)/mta-sts-relay serve --config config.toml

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A group of tests that share one set of servers stays in one process (xdist_group).
test: venv apt
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(TESTS)

$(VENV)/.bench: requirements-bench.txt | $(VENV)/.dev
	$(PIP) install --require-hashes -r requirements-bench.txt
	@touch $@

bench: venv apt $(VENV)/.bench
	PYTHONPATH=tests/real $(BIN)/python tests/bench/bench.py $(BENCH)
	$(if $(BENCH),,$(MAKE) bench-growth)

bench-growth: venv apt $(VENV)/.bench
	PYTHONPATH=.:tests:tests/real $(BIN)/python tests/bench/growth.py $(GROWTH)
	$(if $(GROWTH),,PYTHONPATH=tests/real $(BIN)/python tests/bench/bench.py --page)

# What a message costs in Python bytecodes, by file and function; steadier than time.
bytecodes: venv
	PYTHONPATH=tests/real $(BIN)/python tests/bench/bytecodes.py

# What single parts of the relay cost; they only print.
bench-parts: venv
	set -e; for file in tests/bench/bench_*.py; do echo "== $$file"; PYTHONPATH=.:tests $(BIN)/python "$$file"; done

conformance: venv
	$(BIN)/python tests/conformance/report.py

# Pinned, with hashes, and without any registry's address.
LOCK := uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --quiet --python-version 3.11
lock: venv
	$(PIP) install uv
	$(BIN)/$(LOCK) pyproject.toml --extra fast -o requirements.txt
	$(BIN)/$(LOCK) pyproject.toml --extra fast --group dev -o requirements-dev.txt
	$(BIN)/$(LOCK) --group pyproject.toml:bench -c requirements-dev.txt -o requirements-bench.txt
	echo 'setuptools>=77' | $(BIN)/$(LOCK) - -o docker/requirements-build.txt

apt: | $(VENV)/.made
	@if [ "$$(id -u)" = 0 ]; then .ci/apt $$(sed 's/#.*//' tests/real/packages.txt); \
	else echo "not root: tests with real servers that are not installed will be skipped"; fi

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
