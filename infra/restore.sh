#!/usr/bin/env bash
# Restores a backup of an environment's table into a new table. --help lists the options.
#   infra/restore.sh ENV --latest | --at TIME | --backup ARN
set -euo pipefail
exec "$(dirname "$0")/deployment/run.sh" restore.py "$@"
