# Every target makes the virtual environment first when it is missing or older than the package's metadata.
PYTHON ?= python3
BIN := .venv/bin
RUN := TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python

.PHONY: demo test test-slow test-lowest lint bench docs

.venv: setup.py pyproject.toml keras_robust/version.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch .venv

demo: .venv
	$(RUN) launch/train.py --config=configs/mnist_small_alp.py --workdir=runs/demo
	$(RUN) launch/evaluate.py --model=runs/demo/best.keras --dataset=mnist_small --attack=pgd --epsilon=0.3 \
		--steps=40 --step_size=0.01 --restarts=5 --output=runs/demo/report
	$(RUN) launch/export.py --model=runs/demo/best.keras --output=runs/demo/export

# A file stays in one process, so that what its tests share is made once. `make test COVERAGE=--cov` measures coverage.
test: .venv
	TF_NUM_INTRAOP_THREADS=1 $(RUN) -m pytest --numprocesses=2 --dist=loadfile --durations=10 $(COVERAGE)

# `make test-slow SECONDS_FOR_SLOW=600` skips what has not begun after ten minutes; `TESTS=tests/data` runs a part.
test-slow: .venv
	KERAS_ROBUST_TEST_SECONDS=$(SECONDS_FOR_SLOW) $(RUN) -m pytest -rs -m 'slow or shared_data' $(TESTS)

# What depends most on Keras, on the lowest versions of Keras and TensorFlow that setup.py allows.
test-lowest: .venv-lowest
	TF_CPP_MIN_LOG_LEVEL=3 TF_NUM_INTRAOP_THREADS=1 .venv-lowest/bin/python -m pytest --numprocesses=2 --dist=loadfile \
		tests/core tests/methods/test_template.py tests/methods/test_keras_features.py tests/methods/test_first_batch.py \
		tests/methods/test_saving.py tests/methods/test_method_formulas.py tests/methods/test_perturbation_formulas.py

.venv-lowest: setup.py pyproject.toml keras_robust/version.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --editable '.[test]' \
		$(shell sed -nE 's/^ *"(keras|tensorflow)>=([0-9.]+),<.*/\1==\2.0/p' setup.py)
	touch .venv-lowest

lint: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: .venv
	$(RUN) benchmarks/step_cost.py
	$(RUN) benchmarks/beside.py
