#!/usr/bin/env python3
"""Six real recordings through a running service, as a client from outside: uploaded, transcribed, scored, erased.

usage: infra/smoke.py URL [--user USER]      LONGHAND_TOKEN is sent where the service wants to know who is calling
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "localstack"))

from demo import HIGHEST_WER, spoken  # noqa: E402 - found by the path above
from provision import Binaries  # noqa: E402
from services import Failure  # noqa: E402


def subject(token: str) -> str | None:
    """Whom a JWT is about; the service checks the rest of it."""
    try:
        payload = token.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None


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


def ready(url: str, within: float) -> None:
    """What was just deployed may take minutes to be found by its name, and to be let through to."""
    deadline = time.monotonic() + within
    while (why := fault(url)) and time.monotonic() < deadline:
        time.sleep(5)
    if why:
        raise Failure(why)


def smoke(url: str, user: str | None = None, within: float = 180) -> None:
    """Raises `Failure` when the service at `url` does not do its work."""
    url = url.rstrip("/")
    token = os.environ.get("LONGHAND_TOKEN", "")
    user = user or subject(token) or ("" if token else "smoke")
    if not user:
        raise Failure("LONGHAND_TOKEN does not say whose it is, as an API key does not: say so with --user")
    ready(url, within)
    binaries = Binaries()
    binaries.check(["longhand"])
    binaries.build(["longhand"], ROOT / ".local" / "logs" / "build.log", threading.Event())
    program, settings = binaries.path("longhand"), {**os.environ, "LONGHAND_URL": url}
    job, rate, took = spoken(program, user, settings)
    print(f"  six recordings: {job['jobStatus']} in {took:.1f} s, word error rate {rate:.1%}", flush=True)
    if rate > HIGHEST_WER:
        raise Failure(f"the word error rate is more than {HIGHEST_WER:.0%}:\n{job['transcription']}")
    # Nobody's words are kept; and erasing is tried as well.
    if subprocess.run([program, "delete", job["jobId"], "--yes"], env=settings).returncode != 0:
        raise Failure(f"job {job['jobId']} could not be erased")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", metavar="URL", help="where the service is")
    parser.add_argument("--user", help="whose job it is; by default the token's subject. With an API key, its user")
    arguments = parser.parse_args()
    smoke(arguments.url, arguments.user, within=0)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"smoke: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
