# make run: the app on the demo model.  make test: every check.  Both set everything up first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check setup setup-dev browser benchmark clean

run: setup
	$(BIN)/python -m streamlit run app/main.py

# Tiny models compute on one thread, so two processes share out the tests. The browser's come by
# themselves: its timeouts are those of a person in front of it.
test: setup-dev browser check
	$(BIN)/python -m pytest --ignore=tests/browser --numprocesses=2 --dist=loadfile
	$(BIN)/python -m pytest tests/browser

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: setup-dev
	$(BIN)/python -m tests.benchmarks.resumed_evaluation
	$(BIN)/python -m tests.benchmarks.scoring
	$(BIN)/python -m tests.benchmarks.methods
	$(BIN)/python -m tests.benchmarks.solver
	$(BIN)/python -m tests.benchmarks.repair
	$(BIN)/python -m tests.benchmarks.demo_start

setup: $(VENV)/.run
setup-dev: $(VENV)/.dev

$(VENV)/.run: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $(VENV)/.run $@

# The browser tests drive the system's Chromium; without one, try the two usual ways to get it.
browser: setup-dev
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| (apt-get update -qq && apt-get install -y -qq chromium) \
		|| $(BIN)/python -m playwright install --with-deps chromium

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
