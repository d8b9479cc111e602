# make demo, make test: each sets up all it needs in .venv on a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
# torch and torchvision must match, and timm imports torchvision.
TORCH ?= torch==2.14.1 torchvision==0.29.1
DEMO := runs/demo

.PHONY: help install chromium demo test test-slow test-all bench check docs clean

help:
	@echo "make demo    install, train on the synthetic catalogue, evaluate, write a report with pictures, index, search"
	@echo "make test    install, also Chromium by apt-get (with sudo -n if needed), run all tests except the slow ones"
	@echo "make test-slow  the slow tests of the index, the page and the exports"
	@echo "make test-all  all tests, with whole training runs, sweeps and conversions: twice as long"
	@echo "make bench   install the peers, run the benchmarks, write their table (about 75 minutes, nothing else running)"
	@echo "make check   ruff and mypy"
	@echo "make docs    build the documentation into docs/_build/html; executes the notebooks"
	@echo "make clean   remove .venv and the demo's run"

install: .venv/installed

# What a user needs; the tests need more.
.venv/usable: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable '.[offline,serve]'
	@touch $@

.venv/installed: .venv/usable
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: .venv/usable
	rm -rf $(DEMO)
	$(BIN)/modiste train experiment=demo hydra.run.dir=$(DEMO)
	$(BIN)/modiste evaluate run=$(DEMO)
	$(BIN)/modiste index run=$(DEMO) out=$(DEMO)/index
	$(BIN)/modiste search index=$(DEMO)/index "a red dress" k=5
	@echo
	@echo "Curves, searches and metrics with intervals: $(DEMO)/report.html"
	@echo "Try next:"
	@echo "  $(BIN)/modiste serve index=$(DEMO)/index                                the search page in a browser"
	@echo "  $(BIN)/modiste data shop.csv                                            your own table: columns, bad rows"
	@echo "  $(BIN)/modiste train data=table data.catalogue.path=shop.csv data.catalogue.images=photos image=lite text=minilm data.batch_size=64"
	@echo "The rest of the way to a search over your own products: docs/start/own_catalogue.md"

# One process per core, of one thread each: two processes of two threads would wait for each other.
test: install chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

# Of the index, the page and the exports.
test-slow: install chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m slow tests/search tests/serve tests/export

test-all: install chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# The page's tests look at it in a browser, which apt-get installs system-wide if there is none; without one they are skipped
# and say so.
chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { apt-get install -y -qq chromium || \
		sudo -n apt-get install -y -qq chromium; } >/dev/null 2>&1 || echo "No Chromium: the page's tests are skipped"

bench: install
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/run.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# -E: the pages of source code of a changed module are not made again otherwise.
docs: install
	$(BIN)/pip install --quiet --editable '.[docs]'
	$(BIN)/python -m sphinx -E -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv $(DEMO)
