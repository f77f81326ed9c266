# make serve   set up and start the daemon with the bundled model (MODEL=folder PORT=8000 ARGS='--api-key …')
# make test    set up and run the tests that are not marked slow
# make check   set up and run lint, format and types
# make bench   measure speed beside the peers that are installed; see benchmarks/README.md
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin

.PHONY: serve test check bench clean

serve: .venv/.installed
	$(BIN)/deltaloop serve $(MODEL) --port $(PORT) $(ARGS)

test: .venv/.installed-dev
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks.cpu $(ARGS)

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"deltaloop needs Python 3.11 or newer, this is {v[0]}.{v[1]}: try make PYTHON=python3.12") if v < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.installed
