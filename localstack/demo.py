#!/usr/bin/env python3
"""Transcribes six recordings as one job, on the local stack or the service at --url, and scores the transcript."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time

from provision import HERE, ROOT, Binaries, local_directory, read_settings
from services import Failure, run_main
from wer import wer

SAMPLES = HERE / "samples"
HIGHEST_WER = 0.05


def environment() -> dict[str, str]:
    """The user's environment with the settings of `make up`."""
    local = local_directory()
    if not (local / "env").exists():
        raise Failure(f"{local / 'env'} is missing. Start the stack first: make up")
    settings = read_settings(local)
    # The user's AWS settings must not apply to an emulator.
    dropped = "AWS_" if "AWS_ACCESS_KEY_ID" in settings else "\0"
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)} | settings


def transcribe(user: str | None, settings: dict[str, str], logs: str) -> tuple[dict, float, float]:
    """The finished job, the word error rate of its transcript, and the seconds that it took. `logs`: where they are."""
    references = json.loads((SAMPLES / "references.json").read_text())
    # Relative to the repository, so that the progress shows short names.
    files = [str((SAMPLES / reference["file"]).relative_to(ROOT)) for reference in references]
    command = [Binaries().path("longhand"), "transcribe", *files, "--language", "en", "--wait", "--json"]
    command += ["--user", user] if user else []
    begun = time.monotonic()
    # The progress of each chunk goes to standard error and so to the terminal.
    done = subprocess.run(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, text=True)
    took = time.monotonic() - begun
    if done.returncode != 0:
        raise Failure(f"longhand transcribe failed with exit code {done.returncode}. {logs}\n{done.stdout}")
    job = json.loads(done.stdout)
    return job, wer(" ".join(reference["text"] for reference in references), job["transcription"]), took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="the service to use instead of the local stack")
    parser.add_argument("--user", help="the user of the job")
    parser.add_argument("--erase", action="store_true", help="erase the job at the end")
    options = parser.parse_args()
    if options.url:
        logs = "See the logs of the api and the workers."
        settings = {**os.environ, "LONGHAND_URL": options.url}
        Binaries().check(["longhand"])
        Binaries().build(["longhand"], local_directory() / "logs" / "build.log")
    else:
        logs, settings = "The stack's logs: make logs", environment()
        print("\nTranscribing 6 recordings as one job\n", flush=True)
    job, rate, took = transcribe(options.user or (None if options.url else "demo"), settings, logs)
    if options.erase:
        print(f"  six recordings: {job['jobStatus']} in {took:.1f} s, word error rate {rate:.1%}", flush=True)
        # No audio or text stays on the service. This also tests erasure.
        erase = [Binaries().path("longhand"), "delete", job["jobId"], "--audio", "--yes"]
        if subprocess.run(erase, env=settings).returncode != 0:
            raise Failure(f"job {job['jobId']} could not be erased")
    else:
        print(f"\n{job['transcription']}\n")
        print(f"Job              {job['jobId']} ({job['jobStatus']})")
        print(f"Word error rate  {rate:.1%} (at most {HIGHEST_WER:.0%})")
        print(f"Time             {took:.1f} s, from the upload to the transcript")
    return 0 if rate <= HIGHEST_WER else 1


if __name__ == "__main__":
    run_main(main)
