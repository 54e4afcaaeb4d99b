# Everything runs in .venv, which is made from pyproject.toml and constraints.txt when they change.
# The pinned CPU build of torch exists for Python 3.11, so that one is taken where it is found.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
PEERS := .peers
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test test-cluster lint format reference picture benchmark report status new-experiment clean

run: $(VENV)/installed
	snakemake --cores $(CORES)

test: $(VENV)/installed
	pytest $(PYTEST_ARGS)

# A Slurm of two nodes on this machine, and the workflow on it: apt install slurm-wlm munge
test-cluster: $(VENV)/installed
	pytest tests/cluster $(PYTEST_ARGS)

lint: $(VENV)/installed
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow/rules
	snakemake --lint
	codespell

format: $(VENV)/installed
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow/rules

# The schemas and config/README.md, from workflow/lib/unetflow/settings.py
reference: $(VENV)/installed
	python -m unetflow.reference

# The README's picture, from a finished demo
picture: $(VENV)/installed
	python -m unetflow.report.picture results docs/demo.png

# Times our own code against its peers, one after the other; writes results/benchmarks and the
# README's tables. Peers that do not install are left out with the reason.
benchmark: $(VENV)/installed $(PEERS)/installed
	for each in tests/benchmarks/bench_*.py; do OMP_NUM_THREADS=1 PYTHONPATH=$(PEERS) python $$each || exit 1; done

# Reads the results folder as it is, beside a running workflow too
report status: $(VENV)/installed
	@snakemake --nolock --cores 1 --quiet all -- $@

# make new-experiment NAME=cells IMAGES='data/images/*.tif' MASKS='data/masks/*.tif'
new-experiment: $(VENV)/installed
	@python -m unetflow.new_experiment '$(NAME)' --images '$(IMAGES)' --masks '$(MASKS)'

clean:
	rm -rf $(VENV) $(PEERS) .snakemake

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(PEERS)/installed: tests/benchmarks/peers.txt | $(VENV)/installed
	mkdir -p $(PEERS)
	while read -r peer; do $(BIN)/python -m pip install --quiet --no-deps --target $(PEERS) $$peer || true; done < $<
	touch $@
