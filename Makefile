# Plain enough for the GNU make 3.81 that macOS ships: no .ONESHELL, no grouped targets, recipes in POSIX sh.
# Not covered: GPUs. On a GPU machine call torchrun yourself (README.md, "On GPUs").

PYTHON ?= python3
BUDGET ?= 120
VENV := .venv
PY := $(VENV)/bin/python

# OpenMP threads that spin while they wait would take the second core from whatever else runs on it.
OMP_WAIT_POLICY ?= passive
export OMP_WAIT_POLICY

.PHONY: help run test site venv redteam fuzz hook
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: BUDGET=$(BUDGET) (seconds of training), PYTHON=$(PYTHON) (makes $(VENV); 3.11 or newer)"

run: $(VENV)/.run ## set up, then train for BUDGET seconds, pack and score the pocket model
	$(PY) -m golf run --budget $(BUDGET)

test: $(VENV)/.test ## set up, then run all tests (under 10 minutes on two cores)
	$(PY) -m pytest tests --timeout=600 --durations=10

redteam: $(VENV)/.test ## score artifacts that cheat, and honest ones that look odd (under 10 minutes)
	$(PY) -m tests.redteam

fuzz: $(VENV)/.test ## 10,000 mutated artifacts through the scorer's reader
	$(PY) -m tests.redteam.fuzz

site: $(VENV)/.run ## write the leaderboard as pages for a browser: site/index.html
	$(PY) -m golf board --site

hook: $(VENV)/.run ## from now on, git push checks the records that are pushed
	$(PY) -m golf check --install-hook

venv: $(VENV)/.run $(VENV)/.test ## only make .venv and install what run and test need

# Stamp files: each step runs again only when what it read has changed.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) found: install Python 3.11 or newer, or name one: make venv PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make: $(PYTHON) is Python %d.%d, but 3.11 or newer is needed: name one, as in make venv PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) cannot make a virtual environment (on Debian or Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements.txt
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.test: $(VENV)/.run tests/requirements.txt
	$(PY) -m pip install --disable-pip-version-check -r tests/requirements.txt
	@touch $@
