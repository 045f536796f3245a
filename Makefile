# Portcullis: `make audit` shows what it does, `make test` shows that it works. Both install by themselves.
# Only relative paths are used, so a checkout below a folder with spaces works.

PYTHON ?= python3
# Another Python than the usual one gets an environment of its own, so that each can be tested: make test PYTHON=python3.13
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread a process: the grid and the tests run one process a core instead.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: audit test slow servers everyday check docs install clean help

help:
	@echo "make audit    audit the embedded default and write portcullis-audit/report.html"
	@echo "make test     run the tests; with PYTHON=python3.13 on that one, in an environment of its own"
	@echo "make check    ruff, mypy"
	@echo "make docs     write the pages of docs/ that follow from the code"
	@echo "make slow     the tests that are left out of \`make test\` because they train for minutes"
	@echo "make servers  the tests in front of MLServer, BentoML and other model servers, each in an environment of its own"
	@echo "make everyday the tests of files of XGBoost, LightGBM, Keras and others, in an environment of their own"
	@echo "make clean    remove .venv, .venv-* and caches"

audit: $(STAMP)
	$(BIN)/portcullis audit $(ARGS)

test: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m "not slow and not servers" $(ARGS)

slow: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m "slow and not servers" $(ARGS)

# Model servers want other versions of the same packages, so each has an environment of its own.
servers: $(STAMP)
	for list in tests/servers/*.txt; do \
		home=.venv-servers/$$(basename "$$list" .txt); \
		cmp -s "$$list" "$$home/installed.txt" && continue; \
		$(PYTHON) -m venv "$$home" && \
		"$$home/bin/python" -m pip install --quiet --disable-pip-version-check -r "$$list" && \
		cp "$$list" "$$home/installed.txt" || exit 1; \
	done
	$(ONE_THREAD) PORTCULLIS_SERVERS=.venv-servers $(BIN)/python -m pytest -m servers $(ARGS)

# Where LightGBM or XGBoost is installed, `auto` has one family more; so they get an environment of their own.
everyday:
	test -x .venv-everyday/bin/python || $(PYTHON) -m venv .venv-everyday
	.venv-everyday/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	.venv-everyday/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,everyday]'
	$(ONE_THREAD) .venv-everyday/bin/python -m pytest tests/models/test_booster_files.py tests/models/test_keras_files.py \
		tests/test_own_models.py $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python scripts/generate_docs.py

install: $(STAMP)

# PyTorch first and at a fixed version: a looser range may fetch gigabytes of CUDA packages where a CPU build would do.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Portcullis needs Python 3.11 or newer, and there is no '$(PYTHON)'. Install it or name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Portcullis needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Portcullis needs Python's venv module. On Debian: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $(STAMP)

clean:
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
