# Two commands on a fresh machine with Python >= 3.11, git and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
REFERENCE ?= .venv-reference
STAC ?= .venv-stac
TORCH_INDEX ?=
# ^ another package index for torch, e.g. a CUDA build; empty = the configured indexes
PYTEST_PARALLEL ?= -n 3 --dist loadscope
# ^ three on two cores, as tests of flows mostly wait; loadscope keeps the tests of a module together, so that its
#   country or server is made once
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all lint schemas bench reference reference-checkpoints reference-bench mapping-bench clean

demo: $(VENV)/.run
	$(VENV)/bin/terramosaic demo demo

# Everything but whole runs, servers and killed processes; docs/testing.md says what each tier proves.
test: lint
	$(VENV)/bin/python -m pytest $(PYTEST_PARALLEL) -m "not production" $(PYTEST_ARGS)

# The whole: also servers and workers that are killed, maps of every task, 500 fault seeds, 10 000 mutated documents, 1000 wrong catalogs.
test-all: lint
	TERRAMOSAIC_NIGHTLY=1 $(VENV)/bin/python -m pytest $(PYTEST_PARALLEL) $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# The JSON Schemas of what the commands print with --json.
schemas: $(VENV)/.run
	$(VENV)/bin/python -m flows.run.schemas docs

bench: $(VENV)/.test
	$(VENV)/bin/python -m tests.benchmarks

# TerraTorch beside our model, in a venv of its own (1.1 GB): parity, then the ratios of speed.
reference: $(REFERENCE)/.ready
	$(REFERENCE)/bin/python -m pytest tests/reference $(PYTEST_ARGS)

# The same with TerraTorch's tasks, which write checkpoints (1 GB more).
reference-checkpoints: $(REFERENCE)/.tasks
	$(REFERENCE)/bin/python -m pytest tests/reference/test_checkpoints.py $(PYTEST_ARGS)

reference-bench: $(REFERENCE)/.ready
	$(REFERENCE)/bin/python -m tests.benchmarks.model $(BENCH_ARGS)
	$(REFERENCE)/bin/python -m tests.benchmarks.tiling

# Whole runs beside the script that a user writes today; hours, and 20 GB under TMPDIR.
mapping-bench: $(VENV)/.test $(REFERENCE)/.ready
	for name in endtoend footprint; do \
		$(VENV)/bin/python -m tests.benchmarks.$$name --theirs $(REFERENCE)/bin/python || exit; done
	for name in roofline graphics; do $(VENV)/bin/python -m tests.benchmarks.$$name || exit; done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "terramosaic needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and pinned: an open range pulls gigabytes of CUDA packages.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) install -c constraints.txt -e '.[test]'
	touch $@

# Its own resolver finds no solution on Python 3.11, so terratorch comes last and alone.
$(REFERENCE)/.ready: tests/reference/requirements.txt constraints.txt
	$(PYTHON) -m venv $(REFERENCE)
	@pip="$(REFERENCE)/bin/python -m pip --disable-pip-version-check --quiet"; \
	{ $$pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch && \
	  $$pip install -r tests/reference/requirements.txt && \
	  $$pip install --no-deps terratorch==1.2.13; } || \
	{ echo "make $(MAKECMDGOALS) has to fetch torch, terratorch 1.2.13 and what tests/reference/requirements.txt" \
	       "names; pip says above what failed. It wants a package index, or PIP_FIND_LINKS=<folder of wheels>" >&2; exit 2; }
	touch $@

# torchgeo and lightly state other versions of Python and of packages than those with which they work here.
$(REFERENCE)/.tasks: tests/reference/tasks.txt $(REFERENCE)/.ready
	$(REFERENCE)/bin/python -m pip --disable-pip-version-check --quiet install -r tests/reference/tasks.txt
	$(REFERENCE)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --ignore-requires-python \
		torchgeo==0.9.0 lightly==1.5.22
	touch $@

# A real STAC API for the tests that find one, beside Debian's postgresql and postgresql-postgis.
stac-server: $(STAC)/.ready

$(STAC)/.ready: tests/servers/requirements.txt
	$(PYTHON) -m venv $(STAC)
	$(STAC)/bin/python -m pip --disable-pip-version-check --quiet install -r tests/servers/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(REFERENCE) $(STAC) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
