#!/usr/bin/env bash
# Deploys Longhand into an AWS account, as infra/env/ENV.env says: infra/deploy.sh ENV [--plan]. Safe to repeat.
# The work is done by infra/deployment/deploy.py; this finds it a Python with boto3. `--help` lists the options.
set -euo pipefail
. "$(dirname "$0")/deployment/python.sh"
exec "$python" "$here/deployment/deploy.py" "$@"
