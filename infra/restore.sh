#!/usr/bin/env bash
# Makes a new table out of a backup of an environment's table, beside it. --help lists the options.
#   infra/restore.sh ENV --latest | --at TIME | --backup ARN
set -euo pipefail
exec "$(dirname "$0")/deployment/run.sh" restore.py "$@"
