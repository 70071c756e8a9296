#!/usr/bin/env python3
"""Runs `longhand load` on a separate stack with the simulated model, which is stopped at the end.

The stack has nginx in place of production's load balancer, and Redis in place of its cache. With Redis an api tells
waiting clients at once that a job has ended.

The arguments are those of `longhand load`. Settings in addition to those of stack.py:

  LOAD_LATENCY_MS    duration of a call of the simulated model: 5000..10000 (random) by default
  LOAD_CONCURRENCY   the worker's LONGHAND_CONCURRENCY, 256 by default. Needed: jobs/s x chunks x seconds of a call
  LOAD_EMULATOR      ministack (default) or localstack
  PROFILE            release by default

SCALE=3 loads three apis behind nginx and three workers with this concurrency each; 1 is the default. REDIS=none omits
Redis: then the apis poll the table for waiting clients.

The stack has a directory of its own (load/ in that of `make up`) and free ports.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

from provision import local_directory, lock
from scale import free_pairs
from services import free_port, run_main, say
from stack import Stack, number

PORTS = ("EMULATOR_PORT", "ASR_PORT", "API_PORT", "WORKER_PORT", "REDIS_PORT")


def own_stack() -> Stack:
    local = local_directory()
    os.environ.setdefault("LONGHAND_TOOLS_DIR", str(local))
    os.environ.setdefault("PROFILE", "release")
    scale = number("SCALE", 1, "a number of apis and workers, 1 to 20", highest=20)
    # These override the settings of another stack in this shell's environment.
    os.environ |= {
        "ASR": "sim",
        "EMULATOR": os.environ.get("LOAD_EMULATOR") or "ministack",
        "SCALE": str(scale),
        "LONGHAND_LOCAL_DIR": str(local / "load"),
        "LONGHAND_CONCURRENCY": os.environ.get("LOAD_CONCURRENCY") or "256",
        "SIM_LATENCY_MS": os.environ.get("LOAD_LATENCY_MS") or "5000..10000",
        **{name: str(free_port()) for name in PORTS},
        "SCALE_PORT": str(free_pairs(scale)),
    }
    return Stack()


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__, "\nOptions: longhand load --help")
        return 0
    # So that `finally` stops the stack.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda caught, _frame: sys.exit(128 + caught))
    stack = own_stack()
    # The lock is beside the directory, since the directory is removed.
    with lock(stack.local.with_suffix(".lock")):
        if stack.supervisor.names():
            say("Stopping the services of an aborted load")
            stack.down(purge=False)
        shutil.rmtree(stack.local)
        stack = Stack()
        code = 1
        try:
            count = stack.scale.count
            who = f"{count} apis behind nginx, as many workers" if count > 1 else "one api behind nginx, one worker"
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
    run_main(lambda: main(sys.argv[1:]))
