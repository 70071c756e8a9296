# shellcheck shell=bash
# Sourced: sets $here to infra/ and $python to a Python that has the packages of deployment/requirements.txt. The local
# stack's has them; where there is no local stack (a build server), a small virtual environment is made.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
local_dir="${LONGHAND_LOCAL_DIR:-$here/../.local}"
python="${LONGHAND_TOOLS_DIR:-$local_dir}/venv/bin/python"
if ! "$python" -c 'import boto3, yaml' 2>/dev/null; then
    python="$local_dir/deploy-venv/bin/python"
    if ! cmp -s "$here/deployment/requirements.txt" "$local_dir/deploy-venv/installed.txt"; then
        echo "Installing boto3 into $local_dir/deploy-venv" >&2
        "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
        "${PYTHON:-python3}" -m venv --clear "$local_dir/deploy-venv"
        "$python" -m pip --disable-pip-version-check --quiet install -r "$here/deployment/requirements.txt"
        # Last, so that an installation that was broken off is not taken for a whole one.
        cp "$here/deployment/requirements.txt" "$local_dir/deploy-venv/installed.txt"
    fi
fi
