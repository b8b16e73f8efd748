# Verbs: run, test, lint, types, format, bench, demo, clean, and rehearse with its kin. Each does the set-up it needs; run twice, it redoes nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test lint types format bench demo rehearse rehearse-arm64 rehearse-container rehearse-limit rehearse-monitoring rehearse-proxies clean

help:  ## What there is
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed 's/:.*##/\t/'

run: $(VENV)/.run  ## Start the daemon on loopback; the first time, install it and fetch the default model
	$(BIN)/lars-agent serve

test: lint types $(VENV)/.clients  ## Lint, check the types, run all tests; three at a time, as many of them wait
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test  ## ruff, format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.test  ## mypy --strict on both packages
	$(BIN)/mypy

format: $(VENV)/.test  ## Put the source into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test  ## Memory and quality against PEFT; write the tables of README.md and docs/benchmarks.md (hours)
	$(BIN)/python -m bench memory --goals
	$(BIN)/python -m bench quality
	$(BIN)/python -m bench sweep
	$(BIN)/python -m bench report

demo: $(VENV)/.run  ## The whole loop on the real default model, within 20 minutes
	$(BIN)/python -m examples.demo

rehearse:  ## Installation, updates and removal, in a container with a real systemd (root, Debian)
	tests/deploy/rehearse.sh

rehearse-arm64:  ## The wheels, a reply and an adaptation on an emulated Raspberry Pi; what differs there (root, Debian)
	tests/deploy/arm64.sh

rehearse-container:  ## The image of deploy/Containerfile, built and run by podman (root, Debian)
	tests/deploy/rehearse_container.sh

rehearse-limit:  ## The worker's memory limit, in a virtual machine with a kernel and a systemd of its own (root, Debian)
	tests/deploy/limit_in_vm.sh

rehearse-monitoring: $(VENV)/.run  ## The alerts, the board's queries and the journal, with a real Prometheus and journald (root, Debian)
	PYTHON=$(BIN)/python tests/deploy/rehearse_monitoring.sh

rehearse-proxies: $(VENV)/.test  ## Caddy and nginx as deploy/ sets them up, before the daemon (root, Debian)
	command -v caddy && command -v nginx || apt-get install --yes caddy nginx
	$(BIN)/python -m pytest -n 0 tests/deploy/test_proxies.py

clean:  ## Remove the virtual environment and all caches
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache *.egg-info

$(VENV)/.venv:
	$(PYTHON) -c 'import sys; sys.exit("lars-agent needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	touch $@

# PyTorch first: without an NVIDIA GPU its build for the CPU, gigabytes smaller; TORCH_INDEX says from where.
$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/.venv
	$(BIN)/python deploy/torch_wheels.py constraints.txt
	$(PIP) --editable .
	touch $@

# By uv, which takes seconds where pip takes minutes; but for torch, which pip finds in more places.
$(VENV)/.test: $(VENV)/.run
	$(PIP) uv
	$(BIN)/uv --quiet pip install --python $(BIN)/python --constraint constraints.txt --editable '.[test,bench]'
	touch $@

# The clients of docs/clients.md, apart from the daemon's own libraries.
$(VENV)/.clients: $(wildcard tests/clients/*.txt tests/clients/*.json) | $(VENV)/.test
	$(BIN)/uv --quiet venv --clear $(VENV)/clients
	$(BIN)/uv --quiet pip install --python $(VENV)/clients/bin/python --requirement tests/clients/requirements.txt
	cp tests/clients/*.json $(VENV)/clients && cd $(VENV)/clients && npm ci --silent --no-audit --no-fund
	touch $@
