# make demo     train and evaluate on the ORL faces: results under runs/demo/
# make test     the test suite, without what takes minutes
# make slow     the rest of it
# make bench    speed beside a plain baseline, as ratios: benchmarks/out/bench.json
# make check    ruff, mypy, all tests: what CI runs
# make clean    remove the environment and the demo's data and results
#
# Each command first creates .venv and installs what it needs. PYTHON=python3.12 picks another Python.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lint check bench clean

demo: .venv/installed
	$(BIN)/python -m torchkit.data.prepare demo --out Data/demo --model-root model
	$(BIN)/python train.py --config configs/demo.yaml --resume
	$(BIN)/python validation/val_main.py --backbone-resume runs/demo/client.pth \
		--data-root Data/demo/validation --datasets orl --out runs/demo/validation

test: .venv/installed-dev
	$(BIN)/python -m pytest

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow -n 0

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test slow

bench: .venv/installed-dev
	$(BIN)/python benchmarks/bench.py

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --requirement requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv Data/demo runs/demo
