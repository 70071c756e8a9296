#!/usr/bin/env python3
"""Six recordings as one job through the running local stack: the transcript, its word error rate, the time taken."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from provision import HERE, ROOT, Binaries
from services import Failure
from wer import wer

SAMPLES = HERE / "samples"
HIGHEST_WER = 0.05


def stack_settings() -> dict[str, str]:
    """What `make up` wrote down: lines of the form `export NAME=value`."""
    file = Path(os.environ.get("LONGHAND_LOCAL_DIR") or ROOT / ".local").resolve() / "env"
    if not file.exists():
        sys.exit(f"{file} is not there: is the stack up? (make up)")
    return dict(word.split("=", 1) for word in shlex.split(file.read_text()) if word != "export")


def environment() -> dict[str, str]:
    settings = stack_settings()
    inherited = dict(os.environ)
    if "AWS_ACCESS_KEY_ID" in settings:
        # An emulator's: nothing of the user's AWS set-up may mix with it.
        inherited = {name: value for name, value in inherited.items() if not name.startswith("AWS_")}
    return {**inherited, **settings}


def spoken(program: str, user: str, environment: dict[str, str]) -> tuple[dict, float, float]:
    """All recordings as one job of `user`: the job, its word error rate, and the seconds that it took."""
    references = json.loads((SAMPLES / "references.json").read_text())
    # From the top of the repository, so that the progress shows short names.
    files = [str((SAMPLES / reference["file"]).relative_to(ROOT)) for reference in references]
    command = [program, "transcribe", *files, "--user", user, "--language", "en", "--wait", "--json"]
    begun = time.monotonic()
    # The progress of each chunk goes to the terminal by way of standard error.
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    took = time.monotonic() - begun
    if done.returncode != 0:
        raise Failure(f"longhand transcribe failed with exit code {done.returncode}.\n{done.stdout}")
    job = json.loads(done.stdout)
    return job, wer(" ".join(reference["text"] for reference in references), job["transcription"]), took


def main() -> int:
    print("\nTranscribing 6 recordings as one job\n", flush=True)
    try:
        job, rate, took = spoken(Binaries().path("longhand"), "demo", environment())
    except Failure as failure:
        sys.exit(f"{failure}The services' logs: make logs")

    print(f"\n{job['transcription']}\n")
    print(f"Job              {job['jobId']} ({job['jobStatus']})")
    print(f"Word error rate  {rate:.1%} (at most {HIGHEST_WER:.0%})")
    print(f"Time             {took:.1f} s, from the upload to the transcript")
    return 0 if rate <= HIGHEST_WER else 1


if __name__ == "__main__":
    sys.exit(main())
