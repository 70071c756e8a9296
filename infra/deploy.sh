#!/usr/bin/env bash
# Deploys Longhand into an AWS account, as infra/env/ENV.env says. Safe to repeat. --help lists the options.
#   infra/deploy.sh ENV [--plan]
set -euo pipefail
exec "$(dirname "$0")/deployment/run.sh" deploy.py "$@"
