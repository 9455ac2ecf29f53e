# Plain enough for the GNU make 3.81 that macOS ships: no .ONESHELL, no grouped targets, recipes in POSIX sh.
# Not covered: GPUs. On a GPU machine call torchrun yourself (docs/guide.md, "GPUs").

PYTHON ?= python3
BUDGET ?= 120
VENV := .venv
PY := $(VENV)/bin/python
GOLF := $(VENV)/bin/golf
PIP := $(PY) -m pip install --disable-pip-version-check -c constraints.txt

# One worker a core, up to eight. A file's tests stay with one worker, which makes what they share once; the costliest
# files come first (tests/conftest.py), which pytest-xdist would reorder by the number of tests.
PYTEST := $(PY) -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder --timeout 900 --durations 10
EXTRA := redteam or browser or slurm or long

# OpenMP threads that spin while they wait would take the second core from whatever else runs on it.
OMP_WAIT_POLICY ?= passive
export OMP_WAIT_POLICY

# Some machines set this for all; then each of the hundreds of programs that the tests start would compile its sources.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run smoke quick test test-all redteam fuzz site hook venv
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: BUDGET=$(BUDGET) (seconds of training), PYTHON=$(PYTHON) (makes $(VENV); 3.11 or newer)"

run: $(VENV)/.run ## set up, then train for BUDGET seconds, pack and score the pocket model
	$(GOLF) run --budget $(BUDGET)

smoke: $(VENV)/.run ## set up, then a first score of a tiny model: two minutes after installing
	$(GOLF) smoke

quick: $(VENV)/.test ## style, types, and the tests that start no Python (about a minute)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PYTEST) --quick -m "not (slow or $(EXTRA))"

test: $(VENV)/.test ## the tests to run before a commit
	$(PYTEST) -m "not ($(EXTRA))"

test-all: $(VENV)/.test ## all tests: also the red team, a browser, Slurm and the long ones
	$(PYTEST)

redteam: $(VENV)/.test ## score artifacts that cheat, and honest ones that look odd
	$(PY) -m tests.redteam

fuzz: $(VENV)/.test ## 2,000 mutated files of each kind through their readers, 50 through the commands
	$(PY) -m tests.redteam.fuzz

site: $(VENV)/.run ## write the leaderboard as pages for a browser: site/index.html
	$(GOLF) board --site

hook: $(VENV)/.run ## from now on, git push checks the records that are pushed
	$(GOLF) check --install-hook

venv: $(VENV)/.run $(VENV)/.test ## only make .venv and install what run and test need

# Stamp files: each step runs again only when what it read has changed.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) found: install Python 3.11 or newer, or name one: make venv PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make: $(PYTHON) is Python %d.%d, but 3.11 or newer is needed: name one, as in make venv PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) cannot make a virtual environment (on Debian or Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@touch $@

# The repository is installed as it lies here (-e), for the golf command; its dependencies are requirements.txt.
$(VENV)/.run: $(VENV)/.made requirements.txt constraints.txt pyproject.toml
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run tests/requirements.txt
	$(PIP) -r tests/requirements.txt
	@touch $@
