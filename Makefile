# Everything runs in .venv, which is made from pyproject.toml and constraints.txt when they change; what only
# tests, documentation or the viewer need is added to it where they are asked for.
# The pinned CPU build of torch exists for Python 3.11, so that one is taken where it is found.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
CORES ?= all
PEERS := .peers
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test test-cluster lint format docs reference picture benchmark report status view new-experiment clean

run: $(VENV)/installed
	snakemake --cores $(CORES)

# In two processes of one thread each
test: $(VENV)/dev
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

# A Slurm of two nodes on this machine, and the workflow on it: apt install slurm-wlm munge
test-cluster: $(VENV)/dev
	pytest tests/cluster $(PYTEST_ARGS)

lint: $(VENV)/dev
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow/rules
	snakemake --lint
	codespell

format: $(VENV)/dev
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow/rules

# The schemas and config/README.md, from workflow/lib/unetflow/settings/
reference: $(VENV)/dev
	python -m unetflow.reference

# The README's picture, from a finished demo
picture: $(VENV)/dev
	python -m unetflow.report.picture results docs/demo.png

# The pages of docs/, as site/index.html; a warning is an error
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

# Times our own code against its peers, one after the other; writes results/benchmarks and the
# tables of docs/comparison.md. Peers that do not install are left out with the reason.
benchmark: $(VENV)/dev $(PEERS)/installed
	for each in tests/benchmarks/bench_*.py; do OMP_NUM_THREADS=1 PYTHONPATH=$(PEERS) python $$each || exit 1; done

# Reads the results folder as it is, beside a running workflow too
report status: $(VENV)/installed
	@snakemake --nolock --cores 1 --quiet all -- $@

# Volumes in a browser: make view VOLUME=ARCHIVE/VOLUME PORT=8000, or of all that are done
view: $(VENV)/view
	@trap '' INT; snakemake --nolock --cores 1 --quiet all --config 'view=$(VOLUME)' view_port=$(or $(PORT),0) -- view

# make new-experiment NAME=cells IMAGES='data/images/*.tif' MASKS='data/masks/*.tif'
new-experiment: $(VENV)/installed
	@python -m unetflow.new_experiment '$(NAME)' --images '$(IMAGES)' --masks '$(MASKS)'

clean:
	rm -rf $(VENV) $(PEERS) .snakemake site

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

# The extras of pyproject.toml of these names
$(addprefix $(VENV)/,dev docs view): $(VENV)/%: $(VENV)/installed
	$(INSTALL) --editable '.[$*]'
	touch $@

$(PEERS)/installed: tests/benchmarks/peers.txt | $(VENV)/installed
	mkdir -p $(PEERS)
	while read -r peer; do $(BIN)/python -m pip install --quiet --no-deps --target $(PEERS) $$peer || true; done < $<
	touch $@
