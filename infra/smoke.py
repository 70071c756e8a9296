#!/usr/bin/env python3
"""Six real recordings through a running service, as a client from outside: uploaded, transcribed, scored, erased.

usage: infra/smoke.py URL [--user USER]      LONGHAND_TOKEN is sent where the service asks who is calling
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
        with urllib.request.urlopen(f"{url}/readyz", timeout=15) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        return f"{url}/readyz answers {error.code}: {error.read().decode(errors='replace')[:500]}"
    except OSError as error:
        return (
            f"{url}/readyz cannot be reached: {error}. An internal load balancer is reached from inside its VPC only: "
            f"run infra/smoke.py {url} there."
        )
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", metavar="URL", help="where the service is")
    parser.add_argument("--user", help="whose job it is; by default the token's, or the key's")
    parser.add_argument("--within", type=float, default=0, help="seconds that the service may take to become ready")
    options = parser.parse_args()
    url = options.url.rstrip("/")
    # Who is known by a token needs no name.
    user = options.user or ("" if os.environ.get("LONGHAND_TOKEN") else "smoke")
    # What was just deployed may take minutes to be found by its name, and to be let through to.
    deadline = time.monotonic() + options.within
    while (why := fault(url)) and time.monotonic() < deadline:
        time.sleep(5)
    if why:
        sys.exit(f"smoke: {why}")
    whose = ["--user", user] if user else []
    return subprocess.run([sys.executable, DEMO, "--url", url, "--erase", *whose]).returncode


if __name__ == "__main__":
    sys.exit(main())
