# All targets for developers. `make` alone lists them.
PYTHON ?= python3
LOCAL ?= $(if $(LONGHAND_LOCAL_DIR),$(LONGHAND_LOCAL_DIR),.local)
TOOLS_DIR := $(if $(LONGHAND_TOOLS_DIR),$(LONGHAND_TOOLS_DIR),$(LOCAL))
TOOLS := $(TOOLS_DIR)/venv/bin
STACK := $(PYTHON) localstack/stack.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check bench load chaos chaos-mixed capacity deploy destroy restore up down status logs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## start everything, transcribe six recordings as one job, score the transcript
	@$(STACK) up --as-it-is
	@$(PYTHON) localstack/demo.py

.PHONY: test-programs
test-programs:
	@echo "== Building the tests and their programs"
	cargo test --workspace --no-run
	@$(STACK) install python redis nginx ffmpeg

test: test-programs ## the quick tests, in parallel; they start their own emulator
	@$(STACK) test -- $(PYTHON) localstack/run_tests.py

test-all: test-programs ## the long tests: deployment, outages, the demo, LocalStack, other model servers
	@$(STACK) install localstack fauxqs chromium browser
	@$(STACK) test -- $(PYTHON) localstack/run_tests.py --all

check: ## formatting, lints as errors, documentation, templates, words
	@echo "== Words and line lengths"
	$(PYTHON) localstack/words.py
	@echo "== Rust: formatting, lints, documentation"
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace
	$(PYTHON) localstack/module_circles.py
	@# The CLI is built without what only servers need: the feature `server` of shared.
	cargo check -p longhand
	! cargo tree -p longhand -e normal | grep -E 'redis|opentelemetry|moka|metrics-exporter'
	@echo "== Python and CloudFormation"
	$(STACK) install python checkov
	$(TOOLS)/ruff check localstack infra
	$(TOOLS)/ruff format --check localstack infra
	$(TOOLS)/cfn-lint infra/*.yaml
	@# --skip-download: no contact with checkov's platform.
	$(TOOLS_DIR)/checkov-venv/bin/checkov --directory infra --skip-path tests --framework cloudformation --skip-download --quiet --compact

bench: ## one worker with 1,000 chunks in flight, and 1,000 waiting clients: time, calls, memory, CPU
	@$(STACK) install redis
	cargo build --release -p longhand-api -p longhand-worker -p longhand-e2e --bins
	$(STACK) test -- target/release/thousand --audio-bytes 20000
	$(STACK) test -- target/release/thousand
	$(STACK) test -- target/release/waiting
	$(STACK) test -- target/release/waiting --redis

load: ## submit jobs at a rate on a separate stack: turnaround, AWS calls, memory, CPU (ARGS="--jobs 1000 --rate 20")
	@$(PYTHON) localstack/load.py $(ARGS)

chaos: SEED ?= 1,2,3,4,5
chaos: JOBS ?= 100
chaos: ## load while processes are killed and calls fail, then an audit (SEED=7 JOBS=30)
	cargo build --release -p longhand-api -p longhand-worker -p longhand-chaos
	@$(STACK) install redis nginx
	$(STACK) test -- target/release/chaos all --seed $(SEED) --jobs $(JOBS) --report target/chaos/report.json
	$(STACK) test -- target/release/chaos run --balanced --apis 3 --seed $(SEED) --jobs $(JOBS) --report target/chaos/nginx.json

chaos-mixed: SEED ?= 1
chaos-mixed: JOBS ?= 40
chaos-mixed: ## the same with apis and workers of 0.1.0 and of this version (SEED=1,2 JOBS=40)
	cargo build -p longhand-api -p longhand-worker -p longhand-chaos
	@$(STACK) install redis old-programs
	$(STACK) test -- target/debug/chaos mixed --old $(TOOLS_DIR)/0.1.0/target/debug --workers 4 \
	    --seed $(SEED) --jobs $(JOBS) --report target/chaos/mixed.json

capacity: ## print the capacity model: tasks, dollars, limits and waits by number of users
	@$(PYTHON) infra/capacity.py

deploy: ## deploy to AWS with infra/env/ENV.env: ENV=staging, PLAN=1 shows the changes; see docs/deploy-aws.md
	@infra/deploy.sh $(or $(ENV),$(error ENV is missing: make deploy ENV=staging)) $(if $(PLAN),--plan)

destroy: ## remove an environment from AWS after a confirmation, and keep its data: ENV=staging
	@infra/destroy.sh $(or $(ENV),$(error ENV is missing: make destroy ENV=staging))

restore: ## create a new table from a backup: ENV=staging FROM=--latest, or FROM="--backup ARN"
	@infra/restore.sh $(or $(ENV),$(error ENV is missing: make restore ENV=staging FROM=--latest)) $(FROM)

up: ## start the services that are not running: emulator, model, api, worker (GATEWAY=1, SCALE=3, ASR=sim)
	@$(STACK) up

down: ## stop all services, keep data and logs
	@$(STACK) down

status: ## show the running services and their addresses
	@$(STACK) status

logs: ## follow the logs of all services
	@tail -n 20 -F $(LOCAL)/logs/*.log

clean: ## stop everything and remove data, logs, virtual environment and model
	@$(STACK) down --purge
