#!/usr/bin/env bash
# run.sh SCRIPT ARGUMENTS: runs a Python script of this folder with the local stack's virtual environment, or, where that
# does not exist (on a build server), with a small one for requirements.txt.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
local_dir="${LONGHAND_LOCAL_DIR:-$here/../../.local}"
python="${LONGHAND_TOOLS_DIR:-$local_dir}/venv/bin/python"
if ! "$python" -c 'import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, ("boto3", "yaml"))))' 2>/dev/null; then
    own="$local_dir/deploy-venv"
    python="$own/bin/python"
    if ! cmp -s "$here/requirements.txt" "$own/installed.txt"; then
        echo "Installing boto3 into $own" >&2
        "${PYTHON:-python3}" -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
        "${PYTHON:-python3}" -m venv --clear "$own"
        "$python" -m pip --disable-pip-version-check --quiet install -r "$here/requirements.txt"
        # Last, so that an aborted installation is repeated.
        cp "$here/requirements.txt" "$own/installed.txt"
    fi
fi
script="$1"
shift
exec "$python" "$here/$script" "$@"
