# Everything that a developer runs. `make` alone lists it.
PYTHON ?= python3
LOCAL ?= $(if $(LONGHAND_LOCAL_DIR),$(LONGHAND_LOCAL_DIR),.local)
TOOLS_DIR := $(if $(LONGHAND_TOOLS_DIR),$(LONGHAND_TOOLS_DIR),$(LOCAL))
TOOLS := $(TOOLS_DIR)/venv/bin
STACK := $(PYTHON) localstack/stack.py

.DEFAULT_GOAL := help
.PHONY: help demo test check bench load chaos capacity up down status logs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## start everything, transcribe six recordings as one job and score the transcript
	@$(STACK) up --keep-gateway
	@$(PYTHON) localstack/demo.py

test: ## all tests: Rust's with an emulator of their own, then the local stack's, a demo last
	@echo "== Building the programs that the tests start, as the local stack builds them"
	cargo build -p longhand-api -p longhand-worker -p longhand
	@$(STACK) redis
	@$(STACK) nginx
	@echo "== Rust tests, with a private emulator"
	$(STACK) test -- cargo test --workspace
	@echo "== Local stack tests: a stack of their own on free ports, a demo last"
	$(STACK) setup
	$(PYTHON) -m unittest discover -v -s localstack/tests

check: ## formatting, lints as errors, documentation, templates
	@echo "== Rust: formatting, lints, documentation"
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace
	@echo "== Python and CloudFormation"
	$(STACK) setup
	$(TOOLS)/ruff check localstack infra
	$(TOOLS)/ruff format --check localstack infra
	$(TOOLS)/cfn-lint infra/*.yaml
	$(STACK) checkov
	@# Nothing is fetched from or sent to checkov's platform: its own checks do.
	$(TOOLS_DIR)/checkov-venv/bin/checkov --directory infra --framework cloudformation --skip-download --quiet --compact

bench: ## one worker with 1,000 chunks of 5 MB in flight, 1,000 waiting clients: time, calls, peak memory, CPU
	@$(STACK) redis
	cargo build --release -p longhand-api -p longhand-worker -p longhand-e2e --bins
	$(STACK) test -- target/release/thousand --audio-bytes 20000
	$(STACK) test -- target/release/thousand
	$(STACK) test -- target/release/waiting
	$(STACK) test -- target/release/waiting --redis

load: ## jobs at a rate on a stack of their own: turnaround, AWS calls, memory, CPU (ARGS="--jobs 1000 --rate 20")
	@$(PYTHON) localstack/load.py $(ARGS)

chaos: SEED ?= 1,2,3,4,5
chaos: JOBS ?= 100
chaos: ## load while processes are killed and calls fail and are lost, then an audit (SEED=7 JOBS=30)
	cargo build --release -p longhand-api -p longhand-worker -p longhand-chaos
	@$(STACK) redis
	@$(STACK) nginx
	$(STACK) test -- target/release/chaos all --seed $(SEED) --jobs $(JOBS) --report target/chaos/report.json
	$(STACK) test -- target/release/chaos run --balanced --apis 3 --seed $(SEED) --jobs $(JOBS) --report target/chaos/nginx.json

capacity: ## the tables of CAPACITY.md: tasks, dollars, limits and waits, by the number of users
	@$(PYTHON) infra/capacity.py

up: ## start emulator, speech-to-text, api and worker; run again: only what is missing (GATEWAY=1)
	@$(STACK) up

down: ## stop them all; data and logs stay
	@$(STACK) down

status: ## what runs, and where
	@$(STACK) status

logs: ## follow the logs of all services
	@tail -n 20 -F $(LOCAL)/logs/*.log

clean: ## stop everything and remove data, logs, virtual environment and model
	@$(STACK) down --purge
