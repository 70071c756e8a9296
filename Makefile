# Everything that a developer runs. `make` alone lists it.
PYTHON ?= python3
LOCAL ?= $(if $(LONGHAND_LOCAL_DIR),$(LONGHAND_LOCAL_DIR),.local)
TOOLS_DIR := $(if $(LONGHAND_TOOLS_DIR),$(LONGHAND_TOOLS_DIR),$(LOCAL))
TOOLS := $(TOOLS_DIR)/venv/bin
STACK := $(PYTHON) localstack/stack.py

.DEFAULT_GOAL := help
.PHONY: help demo test check bench load chaos capacity deploy destroy up down status logs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## start everything, transcribe six recordings as one job and score the transcript
	@$(STACK) up --as-it-is
	@$(PYTHON) localstack/demo.py

test: ## all tests: Rust's with an emulator of their own, the local stack's beside them, a demo among those
	@echo "== Building the tests, and the programs that they start as the local stack builds them"
	cargo test --workspace --no-run
	cargo build -p longhand-api -p longhand-worker -p longhand -p longhand-sim-asr
	@$(STACK) redis
	@$(STACK) nginx
	@$(STACK) setup
	@echo "== Tests, in groups side by side"
	@$(PYTHON) localstack/run_tests.py

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

deploy: ## into AWS, as infra/env/ENV.env says: ENV=staging, PLAN=1 only shows it; README, "On AWS"
	@infra/deploy.sh $(or $(ENV),$(error which environment? make deploy ENV=staging)) $(if $(PLAN),--plan)

destroy: ## remove that from AWS again; asks, and keeps the data: ENV=staging
	@infra/destroy.sh $(or $(ENV),$(error which environment? make destroy ENV=staging))

up: ## start emulator, speech-to-text, api and worker; run again: only what is missing (GATEWAY=1, SCALE=3, ASR=sim)
	@$(STACK) up

down: ## stop them all; data and logs stay
	@$(STACK) down

status: ## what runs, and where
	@$(STACK) status

logs: ## follow the logs of all services
	@tail -n 20 -F $(LOCAL)/logs/*.log

clean: ## stop everything and remove data, logs, virtual environment and model
	@$(STACK) down --purge
