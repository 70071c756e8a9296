#!/usr/bin/env python3
"""All tests, in groups side by side: they wait more than they work. `make test` builds what they need before.

Each group writes to a log of its own. What it came to is shown when it ends: its results, or the whole log when it
failed. Python tests that are in none of GROUPS are found by their names, test_*.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from services import processes_with, say

HERE = Path(__file__).resolve().parent
TESTS = HERE / "tests"
LOGS = Path(os.environ.get("LONGHAND_LOCAL_DIR") or HERE.parent / ".local").resolve() / "logs"

# Python tests that take minutes, most of them waiting.
GROUPS = {
    "python api": ["test_openapi", "test_outages"],
    "python infra": ["test_deploy", "test_deployment_files", "test_iam", "test_templates"],
}
# In the environment of all that a run starts, services in the background too.
# Not LONGHAND_..: that would be a setting, and tests take those away.
MARK = "TESTS_RUN_BY"
# What cargo and unittest say that counts.
RESULTS = re.compile(r"^(     Running |   Doc-tests |test result: |Ran \d+ tests? |OK|FAILED)", re.MULTILINE)


class Group:
    def __init__(self, name: str, command: list[str], folder: Path):
        self.name = name
        self.log = LOGS / f"test-{name.replace(' ', '-')}.log"
        self.began = time.monotonic()
        with self.log.open("w") as log:
            environment = {**os.environ, MARK: str(os.getpid())}
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment)
        say(f"{name}: {' '.join(command)}\n  log: {self.log}")

    def wait_for_first_test(self) -> None:
        while self.process.poll() is None and "     Running " not in self.log.read_text(errors="replace"):
            time.sleep(0.1)

    def end(self) -> str:
        """Tells what it came to; a line for the summary."""
        seconds = time.monotonic() - self.began
        text = self.log.read_text(errors="replace")
        failed = self.process.returncode != 0
        say(f"\n== {self.name}: {'FAILED' if failed else 'passed'}, {seconds:.0f} s")
        lines = text.splitlines()
        say("\n".join(lines if failed else filter(RESULTS.match, lines)))
        return f"{'FAILED' if failed else 'passed':<8}{self.name:<16}{seconds:5.0f} s  {self.log}"


def main() -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    grouped = sum(GROUPS.values(), [])
    others = sorted(path.stem for path in TESTS.glob("test_*.py") if path.stem not in grouped)
    unittest = [sys.executable, "-m", "unittest", "-v"]
    # Whoever is told to end lets the groups put their stacks and emulators away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    groups: list[Group] = []
    try:
        rust = [sys.executable, str(HERE / "stack.py"), "test", "--", "cargo", "test", "--workspace"]
        groups.append(Group("rust", rust, HERE.parent))
        # cargo puts its programs into place now; the stacks' own cargo puts the same ones, built with fewer features.
        groups[0].wait_for_first_test()
        for name, tests in {**GROUPS, "python stack": others}.items():
            groups.append(Group(name, [*unittest, *tests], TESTS))
        running, summary = list(groups), []
        while running:
            for group in [group for group in running if group.process.poll() is not None]:
                running.remove(group)
                summary.append(group.end())
            time.sleep(0.2)
    finally:
        for group in groups:
            if group.process.poll() is None:
                group.process.terminate()
        for group in groups:
            group.process.wait()
        # Python's tests put nothing away when they are broken off.
        for pid in processes_with(MARK, str(os.getpid())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    say("\n" + "\n".join(summary))
    return 0 if all(group.process.returncode == 0 for group in groups) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
