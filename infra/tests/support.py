"""What tests of infra/ start: an emulator, and the local stack as a command."""

from __future__ import annotations

import contextlib
import os
import shutil
import site
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
LOCALSTACK = ROOT / "localstack"
# `make test-programs` installs them.
TOOLS = Path(os.environ.get("LONGHAND_TOOLS_DIR") or ROOT / ".local").resolve()
PYTHON = TOOLS / "venv" / "bin" / "python"
if not PYTHON.exists():
    raise SystemExit(f"{PYTHON} is missing: python3 localstack/stack.py install python")
# The tests run with the Python that the virtual environment was made of; its packages are there.
site.addsitedir(str(next((TOOLS / "venv" / "lib").glob(f"python3.{sys.version_info.minor}"), TOOLS) / "site-packages"))
sys.path.insert(0, str(INFRA / "deployment"))
sys.path.append(str(LOCALSTACK))

from services import free_port  # noqa: E402

CREDENTIALS = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
PORTS = ("EMULATOR_PORT", "ASR_PORT", "API_PORT", "WORKER_PORT", "WEBHOOK_PORT")
# What of the developer's own environment would make it another stack.
OURS = ("AWS_", "LONGHAND_", "ASR", "EMULATOR", "GATEWAY", "SCALE", "REDIS", "MAKE", *PORTS)


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).status == 200
    return False


def eventually(what: str, condition: Callable[[], object], within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.05)


def programs() -> Path:
    given = os.environ.get("LONGHAND_BIN_DIR")
    return Path(given or Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug").resolve()


def folder(clean_up: Callable) -> Path:
    made = Path(tempfile.mkdtemp(prefix="longhand-test-"))
    clean_up(shutil.rmtree, made, ignore_errors=True)
    return made


class Emulator:
    """ministack, until the test or the class that `clean_up` belongs to has ended."""

    def __init__(self, clean_up: Callable, **settings: str):
        directory, port = folder(clean_up), free_port()
        (directory / "tmp").mkdir()
        own = {
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "127.0.0.1",
            "TMPDIR": str(directory / "tmp"),
            "LOG_LEVEL": "WARNING",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }
        self.address = own["AWS_ENDPOINT_URL"]
        log = (directory / "emulator.log").open("w")
        clean_up(log.close)
        process = subprocess.Popen(
            [PYTHON, "-m", "ministack"], env={**clean(), **own, **settings}, stdout=log, stderr=log
        )
        clean_up(process.wait)
        clean_up(process.kill)
        eventually("the emulator is ready", lambda: answers(f"{self.address}/_ministack/health"))

    def reset(self) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/_ministack/reset", method="POST"), timeout=60)


class LocalStack:
    """`localstack/stack.py`, as a command with a folder and ports of its own."""

    def __init__(self, test: unittest.TestCase, **settings: str):
        self.directory = folder(test.addCleanup)
        self.ports = {name: str(free_port()) for name in PORTS}
        local = {"LONGHAND_LOCAL_DIR": str(self.directory / "local"), "LONGHAND_TOOLS_DIR": str(TOOLS)}
        if os.environ.get("LONGHAND_BIN_DIR"):
            local["LONGHAND_BIN_DIR"] = os.environ["LONGHAND_BIN_DIR"]
        self.environment = {**clean(), **self.ports, **local, **settings}
        test.addCleanup(self.run, "down")

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(LOCALSTACK / "stack.py"), *arguments]
        environment = {**self.environment, **settings}
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
        )
