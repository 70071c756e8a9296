"""A local stack for a test: its own directory, its own ports, and everything stopped at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path

LOCALSTACK = Path(__file__).resolve().parents[1]
ROOT = LOCALSTACK.parent
sys.path.insert(0, str(LOCALSTACK))

from provision import read_settings  # noqa: E402 - found by the path above
from services import free_port, processes_with  # noqa: E402

# Installed once, for all tests and for the developer's own stack.
TOOLS = Path(os.environ.get("LONGHAND_TOOLS_DIR") or ROOT / ".local").resolve()
PYTHON = TOOLS / "venv" / "bin" / "python"

# Stands in for a Rust program: answers every GET with 200 where the settings say that it listens, and dies by SIGTERM.
STAND_IN = f"""#!{sys.executable}
import http.server, os, sys
listen = {{
    "longhand-api": os.environ.get("LONGHAND_LISTEN"),
    "longhand-worker": os.environ.get("LONGHAND_HEALTH_LISTEN"),
}}.get(os.path.basename(sys.argv[0])) or sys.argv[2]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
host, port = listen.split(":")
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""
DIES = """#!/bin/sh
echo "LONGHAND_TABLE is not to its liking" >&2
exit 3
"""
WILL_NOT_STOP = STAND_IN.replace(
    "import http", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nimport http"
)


def eventually(what: str, condition: Callable[[], object], within: float = 60) -> None:
    """Waits until `condition` holds; fails when it does not do so in time."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.05)


# What of the developer's own environment would make it another stack.
OURS = (
    "AWS_",
    "LONGHAND_",
    "ASR",
    "EMULATOR",
    "API_PORT",
    "WORKER_PORT",
    "WEBHOOK_PORT",
    "GATEWAY",
    "SCALE",
    "REDIS",
    "MAKE",
)


class LocalStack:
    def __init__(self, test: unittest.TestCase, **settings: str):
        self.directory = Path(tempfile.mkdtemp(prefix="longhand-test-"))
        self.local = self.directory / "local"
        names = ("EMULATOR_PORT", "ASR_PORT", "API_PORT", "WORKER_PORT", "WEBHOOK_PORT")
        self.ports = {name: free_port() for name in names}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environment = {
            **clean,
            **{name: str(number) for name, number in self.ports.items()},
            "LONGHAND_LOCAL_DIR": str(self.local),
            "LONGHAND_TOOLS_DIR": str(TOOLS),
            # Of tests that are run side by side: ready-made programs.
            **{name: os.environ[name] for name in ("LONGHAND_BIN_DIR",) if os.environ.get(name)},
            **settings,
        }
        test.addCleanup(self.clean_up)

    def with_stand_ins(self) -> None:
        """No Rust and no model: for what is about processes and not about speech."""
        programs = self.directory / "bin"
        programs.mkdir()
        self.environment |= {"ASR": "sim", "LONGHAND_BIN_DIR": str(programs)}
        for name in ("longhand", "longhand-api", "longhand-worker", "longhand-sim-asr"):
            self.program(name, STAND_IN)

    def program(self, name: str, text: str) -> None:
        path = self.directory / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *arguments: str, script: str = "stack.py", **settings: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(LOCALSTACK / script), *arguments]
        environment = {**self.environment, **settings}
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
        )

    def succeeds(self, *arguments: str, script: str = "stack.py", **settings: str) -> str:
        done = self.run(*arguments, script=script, **settings)
        if done.returncode != 0:
            raise AssertionError(f"{script} {' '.join(arguments)} failed with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def settings(self) -> dict[str, str]:
        return read_settings(self.local)

    def pid(self, name: str) -> int | None:
        try:
            return int((self.local / "pids" / f"{name}.pid").read_text())
        except FileNotFoundError:
            return None

    def pids(self) -> dict[str, int | None]:
        return {name: self.pid(name) for name in ("emulator", "asr", "api", "worker")}

    def processes(self) -> list[int]:
        """Every living process that was started, by whomever, for this stack: all of them inherit its directory."""
        return processes_with("LONGHAND_LOCAL_DIR", str(self.local))

    def clean_up(self) -> None:
        self.run("down")
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)
