#!/usr/bin/env python3
"""Transcribes six recordings with a running service: uploads them, scores the transcript and erases the job.

usage: infra/smoke.py URL [--user USER]      LONGHAND_TOKEN is the token or API key, if the service needs one
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / "localstack" / "demo.py"


def fault(url: str) -> str | None:
    """Why the service is not ready."""
    try:
        urllib.request.urlopen(f"{url}/readyz", timeout=15).close()
    except urllib.error.HTTPError as error:
        return f"{url}/readyz answers {error.code}: {error.read().decode(errors='replace')[:500]}"
    except OSError as error:
        hint = f"An internal load balancer is reached only from its VPC: run infra/smoke.py {url} there."
        return f"{url}/readyz cannot be reached: {error}. {hint}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", metavar="URL", help="the address of the service")
    parser.add_argument("--user", help="the user of the job; by default that of the token or key")
    parser.add_argument("--within", type=float, default=0, help="seconds to wait until the service is ready")
    options = parser.parse_args()
    url = options.url.rstrip("/")
    # A token names its user.
    user = options.user or ("" if os.environ.get("LONGHAND_TOKEN") else "smoke")
    # After a deployment it may take minutes until the name resolves and the targets are healthy.
    deadline = time.monotonic() + options.within
    while (why := fault(url)) and time.monotonic() < deadline:
        time.sleep(5)
    if why:
        sys.exit(f"smoke: {why}")
    command = [sys.executable, str(DEMO), "--url", url, "--erase", *(["--user", user] if user else [])]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
