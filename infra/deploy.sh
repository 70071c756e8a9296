#!/usr/bin/env bash
# Deploys Longhand to an AWS account with infra/env/ENV.env. Safe to repeat. --help lists the options.
#   infra/deploy.sh ENV [--plan]
set -euo pipefail
exec "$(dirname "$0")/deployment/run.sh" deploy.py "$@"
