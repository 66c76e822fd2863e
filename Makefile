# make demo | make test | make help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
NAME ?= demo
CLUSTER := PYTHONPATH=cluster $(PYTHON) -m trimtab_cluster
WHEELS := $(firstword $(wildcard $(PIP_FIND_LINKS)/*.whl ../shared/wheels/*.whl))
export UV_FIND_LINKS ?= $(if $(WHEELS),$(dir $(WHEELS)))

.PHONY: help demo demo-down test bench check fmt install cluster-up cluster-down images crds lock

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: install ## The main job on a real Kubernetes, started here; it stays up until `make demo-down`
	@PYTHONPATH=cluster $(BIN)/python demo --name $(NAME)

demo-down: install ## Remove the demo
	@PYTHONPATH=cluster $(BIN)/python demo --name $(NAME) --down

test: install ## All tests: unit, API server, a real node (the last two need root on Linux)
	@$(BIN)/pytest

bench: install ## Measure, and write docs/benchmarks.md (an hour; ONLY="rollback ..." for some)
	@PYTHONPATH=cluster:demo:tests/support $(BIN)/python tests/bench $(ONLY)

check: install ## Format, lint, types, import rules (no cluster needed)
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

fmt: install ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

install: $(VENV)/.installed ## The development environment, with the versions of requirements.lock

$(VENV)/.installed: pyproject.toml requirements.lock
	@echo "installing the development environment into $(VENV)"
	@$(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c requirements.lock -e '.[cli]' --group test --group lint
	@touch $@

cluster-up: ## Only the cluster
	@$(CLUSTER) up --name $(NAME)

cluster-down: ## Remove it
	@$(CLUSTER) down --name $(NAME)

images: ## Build the images and copy them to the cluster's registry
	@$(CLUSTER) images --name $(NAME)

crds: ## Copy the CRDs into the chart
	@cp crds/*.yaml charts/trimtab/crds/

lock: install ## Write requirements.lock and runtime/requirements-tensorflow.lock anew
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --group test --group lint \
		--no-header --no-annotate pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 -c requirements.lock \
		--no-emit-package tensorflow --no-emit-package libclang --no-header --no-annotate \
		runtime/requirements-tensorflow.in -o runtime/requirements-tensorflow.lock
