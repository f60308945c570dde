# make demo   a search over Python's own documentation, from a bare clone
# make test   every check and the whole test suite, from a bare clone
# make test-lowest test-highest   the adapters with the lowest frameworks that pyproject.toml allows, and the highest there are

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test test-lowest test-highest check format bench wheel clean

demo: $(VENV)/.demo
	$(BIN)/mgte-rag demo

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The first releases of llama-index-core 0.14 have fields that new releases of pydantic warn of.
test-lowest: IGNORED := -W ignore::pydantic.warnings.UnsupportedFieldAttributeWarning
test-lowest test-highest: test-%: $(VENV)-%/.ready
	$(VENV)-$*/bin/python -m pytest -n 2 --dist loadfile $(IGNORED) tests/integrations/langchain tests/integrations/llama_index

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The peers that the benchmarks compare with live in an environment of their own.
bench: $(VENV)/.dev $(VENV)-peers/.ready
	for name in encode query_latency rerank late_interaction concurrency start_up; do \
		$(VENV)-peers/bin/python benchmarks/$$name.py || exit 1; \
	done

wheel: $(VENV)/.dev
	$(BIN)/python -m hatchling build

clean:
	rm -rf $(VENV) $(VENV)-peers $(VENV)-lowest $(VENV)-highest dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mgte-rag needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# torch goes first: a build that is already there then satisfies every other package's range.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) -e ".[demo]"
	touch $@

$(VENV)-lowest/.ready: FRAMEWORKS := -c constraints-lowest.txt
$(VENV)-lowest/.ready $(VENV)-highest/.ready: pyproject.toml constraints.txt constraints-lowest.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt torch
	$(@D)/bin/python -m pip --disable-pip-version-check install -q $(FRAMEWORKS) -e ".[dev]"
	touch $@

$(VENV)-peers/.ready: benchmarks/requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt torch
	$(VENV)-peers/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt \
		-r benchmarks/requirements.txt -e ".[mini,qdrant]"
	$(VENV)-peers/bin/python -m pip --disable-pip-version-check install -q --no-deps pylate==1.6.0
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) -e ".[dev]"
	touch $@
