# The whole house in a few targets. VENV and PYTHON can be set from outside.
VENV ?= .venv
PYTHON ?= python3.11
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*/pyproject.toml)

.PHONY: install quickstart test lint bench evaluate docs clean

# Torch first and pinned: left to the resolver it pulls gigabytes of CUDA packages.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt $(PLUGINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]' $(foreach p,$(PLUGINS),-e $(dir $(p)))
	touch $@

# Real purchases where ../shared/data is present, else a synthetic world; EVENTS=path for your own.
quickstart: install
	$(BIN)/python examples/quickstart.py $(if $(EVENTS),--events $(EVENTS))

# A worker per core, one thread each; whole files, because a file's tests share what they trained,
# in the order of conftest.py: xdist would start those of many tests first, which are not the long ones.
test: install docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Side by side with the rivals, one thread; hours. See benchmarks/RESULTS.md.
bench: install
	bash benchmarks/rivals/setup.sh
	$(BIN)/python benchmarks/compare.py all

# Every paper and baseline on three data sets, and shuffled labels as a control; hours, and resumable.
DATA_SETS := online-retail dunnhumby ml-1m
evaluate: install
	for name in $(DATA_SETS); do \
	  folder=examples/evaluation/$$name; \
	  $(BIN)/python examples/evaluation/make_specs.py $$name || exit 1; \
	  $(BIN)/unirep evaluate $$folder/tasks.yaml $$folder/specs/*.yaml $$folder/specs/made/*.yaml || exit 1; \
	  $(BIN)/unirep evaluate $$folder/tasks.yaml $$folder/specs/made/tfidf.yaml --control \
	    --work $$folder/data/control || exit 1; \
	done
	$(BIN)/python benchmarks/leaderboard.py

# The site, into site/, without a warning or a dead link; and the examples in docstrings, which are run.
# Those of the README and the tutorial are run by tests/integration/test_readme.py and test_tutorial.py.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -f docs/mkdocs.yml
	$(BIN)/python -m pytest -q --doctest-modules unirep_feast $(wildcard plugins/*/unirep_feast_*)

clean:
	rm -rf $(VENV) quickstart site .mypy_cache .pytest_cache .ruff_cache .hypothesis
