#!/usr/bin/env bash
# Removes what infra/deploy.sh made; the table and the bucket stay, unless --data is given: infra/destroy.sh ENV [--data]
set -euo pipefail
. "$(dirname "$0")/deployment/python.sh"
exec "$python" "$here/deployment/destroy.py" "$@"
