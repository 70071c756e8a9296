#!/usr/bin/env python3
"""Six recordings as one job through the local stack, or the service at --url: the transcript, its word error rate."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

from provision import HERE, ROOT, Binaries
from services import Failure
from wer import wer

SAMPLES = HERE / "samples"
HIGHEST_WER = 0.05


def environment() -> dict[str, str]:
    """The user's, with what `make up` wrote down: lines of the form `export NAME=value`."""
    local = Path(os.environ.get("LONGHAND_LOCAL_DIR") or ROOT / ".local").resolve()
    if not (local / "env").exists():
        raise Failure(f"{local / 'env'} is missing: is the stack up? (make up)")
    settings = dict(word.split("=", 1) for word in shlex.split((local / "env").read_text()) if word != "export")
    # An emulator's: nothing of the user's AWS set-up may mix with it.
    ours = "AWS_" if "AWS_ACCESS_KEY_ID" in settings else "\0"
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | settings


def transcribe(user: str | None, settings: dict[str, str]) -> tuple[dict, float, float]:
    """All recordings as one job of `user`, or of the token's; its word error rate, and the seconds that it took."""
    references = json.loads((SAMPLES / "references.json").read_text())
    # From the top of the repository, so that the progress shows short names.
    files = [str((SAMPLES / reference["file"]).relative_to(ROOT)) for reference in references]
    command = [Binaries().path("longhand"), "transcribe", *files, "--language", "en", "--wait", "--json"]
    command += ["--user", user] if user else []
    begun = time.monotonic()
    # The progress of each chunk goes to the terminal by way of standard error.
    done = subprocess.run(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, text=True)
    took = time.monotonic() - begun
    if done.returncode != 0:
        raise Failure(f"longhand transcribe failed with exit code {done.returncode}.\n{done.stdout}")
    job = json.loads(done.stdout)
    return job, wer(" ".join(reference["text"] for reference in references), job["transcription"]), took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="where the service is, in place of the local stack")
    parser.add_argument("--user", help="whose job it is")
    parser.add_argument("--erase", action="store_true", help="erase the job at the end")
    options = parser.parse_args()
    if options.url:
        settings = {**os.environ, "LONGHAND_URL": options.url}
        Binaries().check(["longhand"])
        Binaries().build(["longhand"], ROOT / ".local" / "logs" / "build.log", threading.Event())
    else:
        settings = environment()
        print("\nTranscribing 6 recordings as one job\n", flush=True)
    job, rate, took = transcribe(options.user or (None if options.url else "demo"), settings)
    if options.erase:
        print(f"  six recordings: {job['jobStatus']} in {took:.1f} s, word error rate {rate:.1%}", flush=True)
        # Nobody's words are kept; and erasing is tried as well.
        erase = [Binaries().path("longhand"), "delete", job["jobId"], "--yes"]
        if subprocess.run(erase, env=settings).returncode != 0:
            raise Failure(f"job {job['jobId']} could not be erased")
    else:
        print(f"\n{job['transcription']}\n")
        print(f"Job              {job['jobId']} ({job['jobStatus']})")
        print(f"Word error rate  {rate:.1%} (at most {HIGHEST_WER:.0%})")
        print(f"Time             {took:.1f} s, from the upload to the transcript")
    return 0 if rate <= HIGHEST_WER else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"{failure}\nThe local stack's logs: make logs")
    except KeyboardInterrupt:
        sys.exit(130)
