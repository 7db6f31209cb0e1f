# Everything on a machine with only Python: `make demo`, `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GPU := $(shell command -v nvidia-smi 2>/dev/null)$(wildcard /proc/driver/nvidia/version)
# Installed only where $(PYTHON) has no torch >= 2.11.
TORCH ?= $(if $(GPU),torch>=2.11,torch==2.13.0)
DATASET ?= auto
OUT ?= demo
PYTEST_ARGS ?=
# Processes that run tests side by side, a thread each: threads that wait for each other in turn take the cores away.
WORKERS ?= 2
test: export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

ifeq ($(origin SPIKEFUSE_DATA),undefined)
ifneq ($(wildcard ../shared/data),)
export SPIKEFUSE_DATA := $(abspath ../shared/data)
endif
endif

ifeq ($(origin SPIKEFUSE_TORCH_HEADERS),undefined)
ifneq ($(wildcard ../shared/torch-headers),)
export SPIKEFUSE_TORCH_HEADERS := $(abspath ../shared/torch-headers)
endif
endif

NATIVE := $(wildcard csrc/*.* csrc/cpu/*.* csrc/cuda/*.*)
EMULATOR := $(wildcard tests/emulator/*.h tests/emulator/*.cpp tests/emulator/include/*.h)
# For single files; torch's folder is found without an import of torch, which would take seconds.
TORCH_FOLDER = $(shell $(BIN)/python -c "import importlib.util as u, os; print(os.path.dirname(u.find_spec('torch').origin))")
CXX_FLAGS = $(shell $(BIN)/python build_backend/native.py cxx $(TORCH_FOLDER))
# Written by every build, so it stands for the editable installation as a whole.
BUILT := spikefuse/_build_info.json
TEXT := '*.py' '*.cpp' '*.cu' '*.h' '*.cuh' '*.inl' '*.md' '*.toml' '*.yaml' '*.sh' Makefile
SANITIZED := build/sanitize
# Without the tests that measure memory, or start processes with another environment; on the emulator the largest
# products and the longest batches (of 130 steps and more) would take minutes.
SANITIZE_ARGS ?= -k "not instruction_set and not allocated and not (emulated and (column_tile or (sizes and 130) or 140))"
# Installed with --no-deps, because theirs would replace torch.
TESTED_PEERS := snntorch==1.0.0 spikingjelly==2.0.0 loguru lyon==1.0.0
OTHER_PEERS := norse==1.1.0 sinabs==3.1.3 nir==1.0.8 nirtorch==2.6 h5py==3.16.0 pbr==7.1.3
SANITIZE_TESTS ?= $(addprefix tests/,\
    functional/test_lif.py functional/test_lif_masked_loss.py test_packed.py functional/test_poisson.py \
    functional/test_spike_linear.py functional/test_lif_linear.py test_emulator.py test_online.py)

.PHONY: help install demo reproduce-quick test test-slow test-peers peers lint format cuda-compile cuda-table cuda-link cuda-headers sanitize clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 17

$(VENV)/.torch: tools/make_venv.sh
	tools/make_venv.sh "$(PYTHON)" "$(VENV)" "$(TORCH)"
	@touch $@

$(BUILT): $(VENV)/.torch setup.py pyproject.toml $(wildcard build_backend/*.py) $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable ".[app,test]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BUILT)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

install: $(BUILT) ## make the virtual environment and build spikefuse into it

demo: $(BUILT) ## train the autoencoder; DATASET=mnist|fashion-mnist|digits, OUT=folder
	$(BIN)/spikefuse demo --dataset $(DATASET) --out $(OUT)

reproduce-quick: $(BUILT) ## run the paper's experiments and our own, at smaller sizes; goes on where it was stopped
	$(BIN)/spikefuse reproduce --quick --out runs/reproduce-quick

test: $(BUILT) ## run the tests and the examples in docstrings; those that measure time come last, alone
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not serial" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m "serial and not slow" $(PYTEST_ARGS)

test-slow: $(BUILT) ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-peers: $(BUILT) ## compare with snnTorch, SpikingJelly and lyon
	$(BIN)/python -m pip install --quiet --no-deps $(TESTED_PEERS)
	$(BIN)/python -m pytest tests/test_peers.py tests/audio/test_lyon.py $(PYTEST_ARGS)

peers: $(BUILT) ## install the libraries that the benchmarks compare with
	$(BIN)/python -m pip install --quiet --no-deps $(TESTED_PEERS) $(OTHER_PEERS)

lint: $(VENV)/.dev ## check style and types, as .pre-commit-config.yaml does
	git diff --check $$(git hash-object -t tree /dev/null) HEAD -- $(TEXT)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy --strict spikefuse
	$(BIN)/clang-format --dry-run -Werror $(NATIVE) $(EMULATOR)
	for file in csrc/cpu/*.inl; do $(CXX) $(CXX_FLAGS) -fsyntax-only -x c++ $$file || exit 1; done

format: $(VENV)/.dev ## bring the sources into shape
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format
	$(BIN)/clang-format -i $(NATIVE) $(EMULATOR)

cuda-compile: $(BUILT) ## compile every CUDA kernel for every architecture; spills, and unknown registers, are errors
	$(BIN)/python tools/cuda_check.py compile

cuda-table: $(BUILT) ## write the table of the kernels' registers that cuda-compile compares with
	$(BIN)/python tools/cuda_check.py compile --write

cuda-link: $(BUILT) ## link the CUDA half without a CUDA torch, and see which ops it registers
	$(BIN)/python tools/cuda_check.py link

cuda-headers: $(BUILT) ## compile all of csrc with the headers of every supported torch (SPIKEFUSE_TORCH_HEADERS)
	$(BIN)/python tools/cuda_check.py headers

sanitize: $(VENV)/.dev ## run the op tests under AddressSanitizer and UndefinedBehaviorSanitizer
	tools/sanitize.sh "$(BIN)/python" "$(SANITIZED)" $(SANITIZE_ARGS) $(SANITIZE_TESTS)

clean: ## remove what was built, but not the virtual environment
	rm -rf build dist *.egg-info spikefuse/*.so $(BUILT)
