# make serve   set up and start the daemon with the bundled model (MODEL=folder PORT=8000 ARGS='--api-key …')
# make test    set up and run the tests that are not marked slow or agents, in two processes (WORKERS=0: in one)
# make agents  set up real agents (.venv-agents, .clients; some need npm) and run them against the daemon
# make check   set up and run lint, format and types
# make sanitize  run the C++ kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer (g++; takes minutes)
# make bench   measure speed beside the peers that are installed; see benchmarks/README.md
PYTHON ?= python3
PORT ?= 8000
WORKERS ?= 2
BIN := .venv/bin

.PHONY: serve test agents check sanitize bench clean

serve: .venv/.installed
	$(BIN)/deltaloop serve $(MODEL) --port $(PORT) $(ARGS)

test: .venv/.installed-dev
	$(BIN)/python -m pytest -m "not slow and not agents" -n $(WORKERS) --dist worksteal $(ARGS)

# Other modules there import packages that the agents' environment cannot have beside them.
agents: .venv-agents/.installed
	.venv-agents/bin/python -m tests.support.client_installs
	.venv-agents/bin/python -m pytest -m agents $$(grep -l pytest.mark.agents tests/clients/test_*.py) $(ARGS)

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The last -O counts: with the usual one, compiling takes several times as long. Python has no sanitizer in it, so
# theirs must be loaded first, and with it what it needs to hand on exceptions. Its reports bypass sys.stderr.
sanitize: .venv/.installed-dev
	CXX='sh -c "LD_PRELOAD= exec g++ \"$$@\" -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined" g++' \
	DELTALOOP_KERNELS_CACHE=build/sanitize ASAN_OPTIONS=detect_leaks=0 OMP_WAIT_POLICY=passive \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
	$(BIN)/python -m pytest --capture=sys -m "not slow" tests/kernels $(ARGS)

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks.cpu $(ARGS)

clean:
	rm -rf .venv .venv-agents .clients build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"deltaloop needs Python 3.11 or newer, this is {v[0]}.{v[1]}: try make PYTHON=python3.12") if v < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.installed

.venv-agents/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m venv .venv-agents
	.venv-agents/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[agents]'
	@touch $@
