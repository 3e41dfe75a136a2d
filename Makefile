# SPDX-License-Identifier: Apache-2.0
# demo   build, and let the shipped model continue PROMPT; without a GPU no CUDA kernel is compiled
# test   build everything that this machine has a compiler for, and run the tests
# bench  run every benchmark against its roofline
# gpu-check  on a machine with a GPU: build, test, compare with the simulator, measure; one results file
# lint   formatting, style and types
# Each works in the virtual environment VENV, set up on the first use.
PYTHON ?= python3
VENV   ?= .venv
PROMPT ?= It was a bright cold morning, and
GPU    := $(wildcard /dev/nvidia0)
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
# Processes that run tests: one a core, and some 3 GiB each. Each has as many threads as there are
# cores: those that wait must not spin.
WORKERS ?= $(shell n=$$(nproc) && echo $$((n < 8 ? n : 8)))
PIP    := $(BIN)/python -m pip -q --disable-pip-version-check
BUILD  := $(PIP) install --no-build-isolation --no-warn-conflicts -e
# Only the headers in it are of use, not the Python that it depends on, of which pip would warn.
CUTLASS = $(PIP) install --no-deps nvidia-cutlass==4.2.0.0
# The simulator reads PTX; machine code would double the time to compile.
SIMULATED = WARPWEAVE_SIMULATION=ON WARPWEAVE_CUDA_ARCHS='80-virtual;90a-virtual;120-virtual'

.PHONY: demo test bench gpu-check lint
demo: $(VENV)/ready
	$(if $(GPU),$(CUTLASS))
	$(if $(GPU),,WARPWEAVE_CUDA=OFF) $(BUILD) .
	$(BIN)/warpweave generate "$(PROMPT)" --temperature 0.6 --top-p 0.9 --seed 1 --max-new-tokens 200

test: $(VENV)/ready
	$(CUTLASS)
	$(if $(GPU),WARPWEAVE_SIMULATION=ON,$(SIMULATED)) $(BUILD) '.[test]'
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

bench: $(VENV)/ready
	$(CUTLASS)
	$(BUILD) .
	$(BIN)/python bench/run.py

gpu-check: $(VENV)/ready
	$(CUTLASS)
	$(BIN)/python bench/gpu_check.py

lint: $(VENV)/ready
	$(BUILD) '.[lint]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.inc' 'csrc/*.cu' 'csrc/*.cuh' 'tests/ptxsim/src/*' | \
	  xargs $(BIN)/clang-format --dry-run -Werror

$(VENV)/ready:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	$(PIP) install 'scikit-build-core>=0.11' 'pybind11>=3.0' cmake ninja
	touch $@
