#!/usr/bin/env bash
# Removes an environment after a confirmation. Its data stays without --data. --help lists the options.
#   infra/destroy.sh ENV [--data]
set -euo pipefail
exec "$(dirname "$0")/deployment/run.sh" destroy.py "$@"
