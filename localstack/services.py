"""Background processes of the local stack: how they are started, found, awaited and stopped.

Each service has two files: `pids/NAME.pid` holds only the process id, for `kill $(cat ...)`. `pids/NAME.json` also
holds the start time, since the system may give the id of an ended process to another one.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

# The first line of each start in a log.
STARTED = "--- started"


class Failure(Exception):
    """Ends the command. The user sees only its text."""


def say(text: str) -> None:
    print(text, flush=True)


class Progress:
    """Prints a line every ten seconds of waiting."""

    def __init__(self) -> None:
        self.begun = self.printed = time.monotonic()

    def say(self, text: str) -> None:
        now = time.monotonic()
        if now - self.printed > 10:
            self.printed = now
            say(f"  {text} ({now - self.begun:.0f} s)")


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Expected failures end with a message and without a traceback."""
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"\nlonghand: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)


@dataclass
class Service:
    name: str
    argv: list[str]
    port: int
    health: str
    # Added to the environment that `Supervisor.start` gets.
    settings: dict[str, str] = field(default_factory=dict)
    ready_within: float = 60
    stop_within: float = 10
    # The setting of the port, for messages.
    port_setting: str = ""
    scheme: str = "http"

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def fingerprint(self) -> str:
        """Changes with the arguments, the settings and the build."""
        files = [os.stat(word).st_mtime_ns for word in self.argv if os.path.isfile(word)]
        return hashlib.sha256(json.dumps([self.argv, files, self.settings], sort_keys=True).encode()).hexdigest()


# What the emulators have in common.
EMULATOR = {"health": "/_localstack/health", "stop_within": 30, "port_setting": "EMULATOR_PORT"}


class Supervisor:
    """The services of one directory. It is not a daemon: each command reads the files again."""

    def __init__(self, directory: Path):
        self.pids = directory / "pids"
        self.logs = directory / "logs"
        self.pids.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        # Children of this process have to be reaped, or they would remain as zombies.
        self.children: dict[int, subprocess.Popen] = {}

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def record(self, name: str) -> dict | None:
        """What was stored when `name` was started, even if it has ended."""
        try:
            return json.loads((self.pids / f"{name}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def names(self) -> list[str]:
        return [path.stem for path in sorted(self.pids.glob("*.json"))]

    def running(self, name: str) -> int | None:
        """The process id of `name`, if that process is alive."""
        record = self.record(name)
        if record is None:
            return None
        pid = record["pid"]
        if pid in self.children:
            self.children[pid].poll()
        started = started_at(pid)
        return pid if started is not None and started == record["started"] else None

    def start(self, service: Service, environment: dict[str, str]) -> None:
        log = self.log(service.name)
        with log.open("ab") as output:
            output.write(f"\n{STARTED} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            output.flush()
            process = subprocess.Popen(
                service.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, **service.settings},
                # A separate process group: Ctrl-C in the terminal does not reach it, and `stop` reaches its children.
                start_new_session=True,
            )
        self.children[process.pid] = process
        record = {
            "pid": process.pid,
            "started": started_at(process.pid),
            "address": service.address,
            "health": service.health,
            "program": os.path.basename(service.argv[0]),
            "stop_within": service.stop_within,
            "fingerprint": service.fingerprint,
        }
        (self.pids / f"{service.name}.json").write_text(json.dumps(record))
        (self.pids / f"{service.name}.pid").write_text(f"{process.pid}\n")

    def wait_ready(self, services: list[Service]) -> None:
        progress, waiting = Progress(), list(services)
        while waiting:
            for service in list(waiting):
                if self.running(service.name) is None:
                    self.forget(service.name)
                    raise Failure(f"{service.name} ended while starting.\n{last_lines(self.log(service.name))}")
                if answers(service.address + service.health):
                    say(f"  {service.name} is ready on {service.address}")
                    waiting.remove(service)
                elif time.monotonic() - progress.begun > service.ready_within:
                    raise Failure(
                        f"{service.name} was not ready within {service.ready_within:.0f} s: "
                        f"{service.address}{service.health} does not answer.\n{last_lines(self.log(service.name))}"
                    )
            if waiting:
                progress.say(f"waiting for {' and '.join(service.name for service in waiting)}")
                time.sleep(0.1)

    def stop(self, names: list[str]) -> None:
        """Sends SIGTERM to all of `names` and waits; kills those that do not end in time."""
        stopping, progress = {}, Progress()
        for name in names:
            if (pid := self.running(name)) is None:
                self.forget(name)
                continue
            say(f"  stopping {name} (pid {pid})")
            signal_group(pid, signal.SIGTERM)
            stopping[name] = (pid, self.record(name)["stop_within"])
        while stopping:
            for name, (pid, within) in list(stopping.items()):
                alive = self.running(name) is not None
                if alive and time.monotonic() < progress.begun + within:
                    continue
                if alive:
                    say(f"  {name} did not end within {within:.0f} s of SIGTERM: killed. Its log: {self.log(name)}")
                # Also if it has ended, since its children may remain.
                signal_group(pid, signal.SIGKILL)
                self.forget(name)
                del stopping[name]
            if stopping:
                progress.say(f"waiting for {' and '.join(stopping)} to finish")
                time.sleep(0.05)

    def forget(self, name: str) -> None:
        for suffix in ("pid", "json"):
            (self.pids / f"{name}.{suffix}").unlink(missing_ok=True)


def started_at(pid: int) -> str | None:
    """When process `pid` started, in the system's unit. None if it does not exist or is a zombie."""
    if os.path.isdir("/proc/self"):
        try:
            # The second field is the program's name in brackets, which may contain spaces and brackets.
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if stat[0] in "ZX" else stat[19]
    ps = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
    state, _, start = ps.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else start.strip()


def signal_group(pid: int, number: int) -> None:
    # It may have ended. macOS denies permission if only a zombie is left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def processes_with(name: str, value: str) -> list[int]:
    """All living processes with this variable in their environment (only on Linux)."""
    mark, found = f"{name}={value}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


# Without the proxy that the environment may name.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str) -> bool:
    if url.startswith("redis:"):
        return redis_answers(url.removeprefix("redis://"))
    try:
        with DIRECT.open(url, timeout=2) as response:
            return response.status == 200
    except (OSError, ValueError):
        return False


def redis_answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2) as redis:
            redis.sendall(b"PING\r\n")
            return redis.recv(7).startswith(b"+PONG")
    except OSError:
        return False


def check_port_free(service: Service) -> None:
    with socket.socket() as probe:
        # As the services do, so that a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", service.port))
        except OSError as error:
            if error.errno == errno.EACCES:
                raise Failure(f"{service.name} may not use port {service.port}: {error.strerror}.") from None
            owner = port_owner(service.port)
            raise Failure(
                f"{service.name} cannot start: port {service.port} is taken by {owner or 'another process'}.\n"
                f"Stop it, or choose another port: {service.port_setting}=NUMBER make up"
            ) from None


def port_owner(port: int) -> str | None:
    """The process that listens on `port` (only on Linux)."""
    rows = [row.split() for table in glob.glob("/proc/net/tcp*") for row in Path(table).read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for descriptor in glob.glob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if os.readlink(descriptor) in {f"socket:[{inode}]" for inode in inodes}:
                pid = descriptor.split("/")[2]
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                return f"process {pid} ({command.strip()[:100]})"
    return None


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# Below the ports that the system assigns, since a connection could get such a port before the service starts.
PORTS = itertools.count(random.randrange(20_000, 32_000))


def free_port() -> int:
    """A port that is free. Each call returns another one."""
    return next(port for port in PORTS if is_free(port))


def last_lines(log: Path, count: int = 15) -> str:
    """The last lines that were logged since the last start."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    begins = max((number for number, line in enumerate(lines, start=1) if line.startswith(STARTED)), default=0)
    lines = [line for line in lines[begins:] if line.strip()][-count:] or ["(no output)"]
    return "\n".join("    " + line for line in lines) + f"\nThe whole log: {log}"


def run_step(label: str, argv: list[str], log: Path, cancelled: threading.Event | None = None) -> None:
    """Runs a long command with its output in `log`, and prints its last line every ten seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress()
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if cancelled and cancelled.is_set():
                    raise Failure(f"{label} was cancelled.")
                lines = log.read_text(errors="replace").split("\n")
                progress.say(f"{label}: {next((line.strip() for line in reversed(lines) if line.strip()), '')[:90]}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        raise Failure(f"{label} failed (exit code {process.returncode}).\n{last_lines(log)}")
    if (took := time.monotonic() - progress.begun) > 2:
        say(f"  {label}: done in {took:.0f} s")
