"""Background processes of the local stack: starting, watching, finding and stopping them.

A service is known by two files: `pids/NAME.pid`, which holds its process id and nothing else, so that
`kill $(cat ...)` works, and `pids/NAME.json` with what tells it from a stranger that was given the same id later.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

# Heads what each start adds to a log.
STARTED = "--- started"


class Failure(Exception):
    """Ends the command; its text is all that the user is shown."""


def say(text: str) -> None:
    print(text, flush=True)


@dataclass
class Service:
    name: str
    argv: list[str]
    port: int
    health: str
    # Added to the environment that `Supervisor.start` is given.
    settings: dict[str, str] = field(default_factory=dict)
    ready_within: float = 60
    stop_within: float = 10
    # The port's setting, named when the port is taken.
    port_setting: str = ""
    scheme: str = "http"

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def fingerprint(self) -> str:
        """Changes when a start would give something else than what runs: another port, another model, a newer build."""
        files = [os.stat(word).st_mtime_ns for word in self.argv if os.path.isfile(word)]
        return hashlib.sha256(json.dumps([self.argv, files, self.settings], sort_keys=True).encode()).hexdigest()


class Supervisor:
    """Keeps the services of one directory. It does not stay running itself: each command reads the files again."""

    def __init__(self, directory: Path):
        self.pids = directory / "pids"
        self.logs = directory / "logs"
        self.pids.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        # Started by this very process: to be reaped, or they would look alive as zombies.
        self.children: dict[int, subprocess.Popen] = {}

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def record(self, name: str) -> dict | None:
        """What was written down when `name` was started, whether it lives or not."""
        try:
            return json.loads((self.pids / f"{name}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def names(self) -> list[str]:
        return [path.stem for path in sorted(self.pids.glob("*.json"))]

    def running(self, name: str) -> int | None:
        """The process id of `name` if that very process is alive."""
        record = self.record(name)
        if record is None:
            return None
        pid = record["pid"]
        child = self.children.get(pid)
        if child is not None:
            child.poll()
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
                # Its own process group: Ctrl-C in the terminal spares it, and `stop` reaches its children.
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
        begun = last_word = time.monotonic()
        waiting = list(services)
        while waiting:
            for service in list(waiting):
                if self.running(service.name) is None:
                    self.forget(service.name)
                    raise Failure(f"{service.name} died while starting.\n{last_lines(self.log(service.name))}")
                if answers(service.address + service.health):
                    say(f"  {service.name} is ready on {service.address}")
                    waiting.remove(service)
                elif time.monotonic() - begun > service.ready_within:
                    raise Failure(
                        f"{service.name} was not ready within {service.ready_within:.0f} s: "
                        f"{service.address}{service.health} does not answer.\n{last_lines(self.log(service.name))}"
                    )
            if waiting:
                if time.monotonic() - last_word > 10:
                    last_word = time.monotonic()
                    say(f"  waiting for {' and '.join(s.name for s in waiting)} ({last_word - begun:.0f} s)")
                time.sleep(0.1)

    def stop(self, names: list[str]) -> None:
        """Asks all of `names` to end, then waits for each; kills what does not end in its time."""
        asked = {}
        for name in names:
            pid = self.running(name)
            if pid is None:
                self.forget(name)
                continue
            record = self.record(name)
            say(f"  stopping {name} (pid {pid})")
            signal_group(pid, signal.SIGTERM)
            asked[name] = (pid, time.monotonic() + record["stop_within"], record["stop_within"])
        last_word = time.monotonic()
        while asked:
            for name, (pid, deadline, allowed) in list(asked.items()):
                alive = self.running(name) is not None
                if alive and time.monotonic() < deadline:
                    continue
                if alive:
                    say(f"  {name} did not end within {allowed:.0f} s of SIGTERM: killed. Its log: {self.log(name)}")
                # Also when it ended by itself: a child of it may have stayed.
                signal_group(pid, signal.SIGKILL)
                self.forget(name)
                del asked[name]
            if asked:
                if time.monotonic() - last_word > 10:
                    last_word = time.monotonic()
                    say(f"  waiting for {' and '.join(asked)} to finish what is in hand")
                time.sleep(0.05)

    def forget(self, name: str) -> None:
        for suffix in ("pid", "json"):
            (self.pids / f"{name}.{suffix}").unlink(missing_ok=True)


def started_at(pid: int) -> str | None:
    """When process `pid` began, in the system's own unit; None if it does not exist or is a zombie."""
    if os.path.isdir("/proc/self"):
        try:
            # The second field is the program's name in brackets, which may itself hold spaces and brackets.
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, start = stat[0], stat[19]
        return None if state in "ZX" else start
    ps = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
    state, _, start = ps.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else start.strip()


def signal_group(pid: int, number: int) -> None:
    # Gone already; macOS says "permission" where only a zombie is left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def processes_with(name: str, value: str) -> list[int]:
    """Every living process with this in its environment, by whomever it was started, where the system tells (Linux)."""
    mark, found = f"{name}={value}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue  # it ended meanwhile, or belongs to another user
    return found


# Whatever proxy the environment names, this machine is reached without it.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str) -> bool:
    if url.startswith("redis:"):
        return pongs(url.removeprefix("redis://"))
    try:
        with DIRECT.open(url, timeout=2) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False


def pongs(address: str) -> bool:
    """Whether a Redis answers."""
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2) as redis:
            redis.sendall(b"PING\r\n")
            return redis.recv(7).startswith(b"+PONG")
    except OSError:
        return False


def check_port_free(service: Service) -> None:
    with socket.socket() as probe:
        # A port in TIME_WAIT is free: the services listen with the same option.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", service.port))
        except OSError as error:
            if error.errno == errno.EACCES:
                raise Failure(f"{service.name} may not use port {service.port}: {error.strerror}.") from None
            owner = port_owner(service.port)
            raise Failure(
                f"{service.name} cannot start: port {service.port} is taken by {owner or 'another process'}.\n"
                f"Stop that, or choose another port: {service.port_setting}=NUMBER make up"
            ) from None


def port_owner(port: int) -> str | None:
    """The process that listens on `port`, where the system lets us see it."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            listening = columns[3] == "0A"
            if listening and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    for descriptor in glob.glob("/proc/[0-9]*/fd/*") if inodes else ():
        try:
            if os.readlink(descriptor) in inodes:
                pid = descriptor.split("/")[2]
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                return f"process {pid} ({command.strip()[:100]})"
        except OSError:
            continue  # it closed meanwhile, or belongs to another user
    if not inodes and shutil.which("lsof"):
        found = subprocess.run(["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"], capture_output=True, text=True)
        fields = {line[0]: line[1:] for line in found.stdout.splitlines()}
        if "p" in fields:
            return f"process {fields['p']} ({fields.get('c', '?')})"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def last_lines(log: Path, count: int = 15) -> str:
    """The end of what was logged since the last start."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    begins = max((number for number, line in enumerate(lines, start=1) if line.startswith(STARTED)), default=0)
    lines = [line for line in lines[begins:] if line.strip()][-count:] or ["(no output)"]
    return "\n".join("    " + line for line in lines) + f"\nThe whole log: {log}"


def run_step(label: str, argv: list[str], log: Path, cancelled: threading.Event) -> None:
    """Runs a long command with its output in `log`, and says every ten seconds how far it is."""
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = last_word = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                if cancelled.wait(0.1):
                    raise Failure(f"{label} was broken off.")
                if time.monotonic() - last_word > 10:
                    last_word = time.monotonic()
                    lines = log.read_text(errors="replace").split("\n")
                    now = next((line.strip() for line in reversed(lines) if line.strip()), "")
                    say(f"  {label} ({last_word - begun:.0f} s): {now[:90]}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        raise Failure(f"{label} failed (exit code {process.returncode}).\n{last_lines(log)}")
    if time.monotonic() - begun > 2:
        say(f"  {label}: done in {time.monotonic() - begun:.0f} s")
