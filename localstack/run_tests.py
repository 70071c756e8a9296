#!/usr/bin/env python3
"""Runs the tests in parallel. Each Python module and each Rust test program is a job with its own log.

usage: run_tests.py [--all]     `make test`: all but the long jobs. --all, `make test-all`: only the long jobs

The result of a job is printed when it ends, with the log if it failed. `make test-programs` builds the programs.
`stack.py test --` starts the emulator that the Rust tests share.

With TESTS_REPEAT=1, as in CI, a failed job is repeated once, alone, after all others. If it then passes, the run passes
and reports the job as FLAKY: its test has a defect that has to be corrected.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from provision import HERE, ROOT, local_directory
from services import processes_with, run_main, say

LOCAL = local_directory()
LOGS = LOCAL / "logs"
PROGRAMS = ("longhand", "longhand-api", "longhand-worker", "longhand-sim-asr")
# One more than the processors, since the tests wait about half of the time.
AT_ONCE = (os.cpu_count() or 2) + 1

# Python modules that take minutes, the longest first.
LONG = [
    "long_recordings",
    "test_deploy",
    "test_openapi",
    "test_outages",
    "test_asr_server",
    "test_whole_stack",
    "test_localstack",
    "long_model_servers",
    "long_console",
    "long_docs_page",
    "test_gateway",
    "test_scale",
]
# These build their programs, as `make up` does. The others use those of `make test-programs`.
BUILD = ("test_whole_stack", "test_localstack")
# The long tests of Rust test programs; an empty list means all tests of the program.
LONG_RUST = {"worker it": ["fuzz::"], "chaos one_of_each": [], "chaos small": []}
# These have deadlines, which they meet only without other jobs.
ALONE = "chaos "
# Not run on LocalStack: tests that need ministack's API Gateway, or are only about Redis, load or memory.
NOT_ON_LOCALSTACK = ("gateway", "in_memory", "cache::", "deploys::", "load::")
# Marks all processes of a run, including services in the background. Tests remove variables that begin with LONGHAND_.
MARK = "TESTS_RUN_BY"
# More failed jobs than these are not repeated.
REPEATED_AT_MOST = 3
# The counts that unittest and cargo print.
COUNTS = re.compile(r"^Ran (\d+) tests?|^test result: \S+ (\d+) passed", re.MULTILINE)


@dataclass
class Job:
    name: str
    command: list[str]
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    def run(self) -> bool:
        """Prints the result and returns whether the job passed."""
        log, began = LOGS / f"test-{self.name.replace(' ', '-')}.log", time.monotonic()
        environment = {**os.environ, MARK: str(os.getpid()), **self.settings}
        with log.open("w") as output:
            done = subprocess.run(self.command, cwd=self.folder, stdout=output, stderr=output, env=environment)
        text, passed = log.read_text(errors="replace"), done.returncode == 0
        count, seconds = sum(int(one or other) for one, other in COUNTS.findall(text)), time.monotonic() - began
        word = "passed" if passed else f"{text}\nFAILED"
        say(f"{word}  {self.name:<24}{count:5} tests{seconds:6.0f} s  {log}")
        return passed


def python(programs: Path, everything: bool) -> list[Job]:
    found = {path.stem: path for path in [*ROOT.glob("infra/tests/test_*.py"), *HERE.glob("tests/test_*.py")]}
    found |= {path.stem: path for path in HERE.glob("tests/long_*.py")}
    # test_iam is first, since it waits longest: for a line that a worker logs each minute.
    names = LONG if everything else sorted(found.keys() - set(LONG), key=lambda name: (name != "test_iam", name))
    given = {"LONGHAND_BIN_DIR": str(programs)}
    return [
        Job(name, [sys.executable, "-m", "unittest", "-v", name], found[name].parent, {} if name in BUILD else given)
        for name in names
    ]


def rust(everything: bool) -> list[Job]:
    """A job for each test program that cargo has built, the largest first, since it has most tests."""
    command = ["cargo", "test", "--workspace", "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    jobs = []
    for message in map(json.loads, built.stdout.splitlines()):
        if not message.get("executable") or not message["profile"]["test"]:
            continue
        folder, program = Path(message["manifest_path"]).parent, message["executable"]
        kind = "unit" if message["target"]["kind"] != ["test"] else message["target"]["name"]
        name = f"{folder.name} {kind}" + (" main" if message["target"]["kind"] == ["bin"] else "")
        settings = {"CARGO_MANIFEST_DIR": str(folder)}
        if name == "e2e it":
            # Its tests mostly wait.
            settings["RUST_TEST_THREADS"] = "6"
        long = LONG_RUST.get(name)
        skipped = [word for one in long or [] for word in ("--skip", one)]
        if everything and long is not None:
            jobs.append(Job(f"{name} long", [program, *long], folder, settings))
        elif not everything and long != []:
            jobs.append(Job(name, [program, *skipped], folder, settings))
        if everything and name == "e2e it":
            on = [sys.executable, str(HERE / "stack.py"), "test", "--", program]
            skipped = [word for one in NOT_ON_LOCALSTACK for word in ("--skip", one)]
            settings = {**settings, "EMULATOR": "localstack"}
            jobs.insert(0, Job("e2e on localstack", [*on, *skipped], folder, settings))
            jobs.append(Job("e2e on fauxqs", [*on, "--ignored", "fauxqs"], folder, settings))
    if everything:
        return [*jobs, Job("documentation", ["cargo", "test", "--workspace", "--doc"], ROOT)]
    return sorted(jobs, key=lambda job: -Path(job.command[0]).stat().st_size)


def main() -> int:
    everything = sys.argv[1:] == ["--all"]
    LOGS.mkdir(parents=True, exist_ok=True)
    waiting = rust(everything)
    # Copies, since a job may build the programs again.
    programs = LOCAL / "test-programs"
    programs.mkdir(exist_ok=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "debug"
    for program in PROGRAMS:
        shutil.copy2(target / program, programs / program)
    # Alternating: Rust jobs need the processor, Python jobs mostly wait.
    pairs = zip_longest(waiting, python(programs, everything))
    jobs = [job for pair in pairs for job in pair if job]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    alone = [job for job in jobs if job.name.startswith(ALONE)]
    jobs = [job for job in jobs if job not in alone]
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        results = [*map(Job.run, alone), *pool.map(Job.run, jobs)]
        failed = [job for job, passed in zip([*alone, *jobs], results, strict=True) if not passed]
        if os.environ.get("TESTS_REPEAT") == "1" and len(failed) <= REPEATED_AT_MOST:
            flaky = [job for job in failed if job.run()]
            failed = [job for job in failed if job not in flaky]
            for job in flaky:
                say(f"FLAKY: {job.name} failed once and passed when repeated alone. Its first log is above.")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        # Aborted tests do not stop their processes.
        for pid in processes_with(MARK, str(os.getpid())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    names = ", ".join(job.name for job in failed)
    say(f"FAILED: {names}" if failed else f"All {len(results)} jobs passed.")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
