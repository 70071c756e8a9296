#!/usr/bin/env bash
# Removes what infra/deploy.sh made. Asks; the table and the bucket stay, unless --data is given. --help lists the options.
#   infra/destroy.sh ENV [--data]
set -euo pipefail
exec "$(dirname "$0")/deployment/run.sh" destroy.py "$@"
