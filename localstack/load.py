#!/usr/bin/env python3
"""`longhand load` against a stack of its own with the simulated speech model, which is taken down again at the end.

Arguments are those of `longhand load`. Settings, beside those of stack.py:

  LOAD_LATENCY_MS    how long a call of the simulated model takes: 5000..10000 (by chance) by default
  LOAD_CONCURRENCY   the worker's LONGHAND_CONCURRENCY: 256 by default. It takes jobs/s x chunks x seconds a call
  PROFILE            release by default

SCALE=3 loads three apis and three workers, each with that many slots, behind nginx.

It is kept apart from the stack of `make up` by its directory (load/ in that one's) and by free ports.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from provision import ROOT, lock
from scale import free_pairs
from services import Failure, free_port, say
from stack import Stack, number

PORTS = ("EMULATOR_PORT", "ASR_PORT", "API_PORT", "WORKER_PORT", "REDIS_PORT")


def own_stack() -> Stack:
    local = Path(os.environ.get("LONGHAND_LOCAL_DIR") or ROOT / ".local").resolve()
    os.environ.setdefault("LONGHAND_TOOLS_DIR", str(local))
    os.environ.setdefault("PROFILE", "release")
    scale = number("SCALE", 1, "how many apis and workers to run, 1 to 20", highest=20)
    # Whatever a stack that is up has left in this shell's environment.
    os.environ |= {
        "ASR": "sim",
        "EMULATOR": "ministack",
        "LONGHAND_LOCAL_DIR": str(local / "load"),
        "LONGHAND_CONCURRENCY": os.environ.get("LOAD_CONCURRENCY") or "256",
        "SIM_LATENCY_MS": os.environ.get("LOAD_LATENCY_MS") or "5000..10000",
        **{name: str(free_port()) for name in PORTS},
        "SCALE_PORT": str(free_pairs(scale)),
    }
    return Stack()


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__, "\nIts own options: longhand load --help")
        return 0
    # So that the stack is taken down then too.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda caught, _frame: sys.exit(128 + caught))
    stack = own_stack()
    # A lock beside the directory, which is removed: two loads would take each other's stack down.
    with lock(stack.local.with_suffix(".lock")):
        if stack.supervisor.names():
            say("Stopping what a load that was broken off has left")
            stack.down(purge=False)
        shutil.rmtree(stack.local)
        stack = Stack()
        code = 1
        try:
            who = f"{stack.scale.count} apis behind nginx, as many workers" if stack.scale else "one worker"
            say(
                f"A stack of its own in {stack.local}: simulated model, {os.environ['SIM_LATENCY_MS']} ms a call, "
                f"{who} with {os.environ['LONGHAND_CONCURRENCY']} slots, {os.environ['PROFILE']} build"
            )
            settings = stack.up()
            command = [stack.binaries.path("longhand"), "load", *arguments]
            say(f"\n$ longhand {' '.join(command[1:])}")
            code = subprocess.run(command, env={**stack.environment(), **settings}).returncode
            say("")
        finally:
            stack.down(purge=code == 0)
            if code != 0:
                say(f"The logs are kept until the next load: {stack.supervisor.logs}/")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        sys.exit(f"\nlonghand: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
