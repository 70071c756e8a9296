"""The AWS emulators of the local stack, and a private one for a single command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from fauxqs import Fauxqs
from localstack_native import Native
from provision import HERE, ROOT, Tools, ensure_tools
from services import EMULATOR, Failure, Service, Supervisor, free_port, last_lines, say

# The emulators accept any credentials.
CREDENTIALS = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


def ministack(tools: Tools, number: int, state: Path, persist: bool) -> Service:
    (state / "tmp").mkdir(parents=True, exist_ok=True)
    settings = {
        "GATEWAY_PORT": str(number),
        # By default it listens on all addresses of the machine.
        "BIND_HOST": "127.0.0.1",
        # The host in its queue URLs.
        "MINISTACK_HOST": "127.0.0.1",
        "TMPDIR": str(state / "tmp"),
        "LOG_LEVEL": os.environ.get("EMULATOR_LOG_LEVEL", "WARNING"),
        "PERSIST_STATE": "1" if persist else "0",
        "STATE_DIR": str(state / "state"),
        "S3_PERSIST": "1" if persist else "0",
        "S3_DATA_DIR": str(state / "s3"),
        # For the Lambda functions that it runs.
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{number}",
    }
    return Service("emulator", [str(tools.python), "-m", "ministack"], number, settings=settings, **EMULATOR)


def localstack_in_docker(number: int) -> Service:
    # In the foreground, so that SIGTERM stops it and its output is in a log, as with the other services.
    argv = ["docker", "compose", "-f", str(HERE / "compose.yaml"), "up", "--abort-on-container-exit"]
    # It may have to pull the image.
    return Service("emulator", argv, number, settings={"EMULATOR_PORT": str(number)}, ready_within=300, **EMULATOR)


def check_docker() -> None:
    if shutil.which("docker") is None:
        raise Failure("EMULATOR=localstack-docker needs Docker, which is missing. EMULATOR=localstack does not.")
    for arguments, lacking in (
        (["compose", "version"], "Docker's compose plugin is missing (on Debian and Ubuntu: docker-compose-v2)"),
        (["info"], "Docker is installed, but its engine does not answer"),
    ):
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            [reason] = (done.stderr or done.stdout).strip().splitlines()[:1] or [""]
            raise Failure(f"EMULATOR=localstack-docker: {lacking}. {reason}\nEMULATOR=localstack needs no Docker.")


def at(endpoint: str, url: str) -> str:
    """`url` with the host and port of `endpoint`, since an emulator's URLs may have others."""
    return endpoint + "/" + url.split("://", 1)[-1].split("/", 1)[1]


def without_aws() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def private_emulator(tools: Tools, parent: Path, command: list[str], kind: str) -> int:
    """Runs `command` with a new emulator, which is stopped in any case."""
    if not command:
        raise Failure("The command is missing. Usage: stack.py test -- COMMAND...")
    if kind == "localstack-docker":
        can = "EMULATOR can be ministack or localstack, not localstack-docker."
        raise Failure(f"stack.py test starts an emulator of its own: {can}")
    ensure_tools(tools)
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=parent))
    supervisor = Supervisor(directory)
    if kind == "localstack":
        native = Native(tools)
        native.ensure()
        emulator = native.service(free_port(), directory)
    else:
        kind = "ministack"
        emulator = ministack(tools, free_port(), directory / "emulator", persist=False)
    process = None

    # SIGTERM and SIGHUP are forwarded to the command. Ctrl-C reaches it from the terminal, and is ignored here.
    def forward(number, _frame):
        if process is None:
            raise SystemExit(128 + number)
        process.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    signal.signal(signal.SIGINT, lambda *_: None)
    code = 1
    try:
        supervisor.start(emulator, without_aws())
        supervisor.wait_ready([emulator])
        # TESTS_EMULATOR: tests expect different behaviour of each emulator.
        settings = {"AWS_ENDPOINT_URL": emulator.address, "LONGHAND_REPO": str(ROOT), "TESTS_EMULATOR": kind}
        fauxqs = Fauxqs(tools).command()
        settings |= CREDENTIALS | ({"TESTS_FAUXQS": fauxqs} if fauxqs else {})
        process = subprocess.Popen(command, env={**without_aws(), **settings})
        code = process.wait()
    except FileNotFoundError:
        raise Failure(f"There is no command {command[0]}.") from None
    finally:
        if supervisor.running("emulator") is None:
            say(f"The emulator has ended unexpectedly.\n{last_lines(supervisor.log('emulator'))}")
        supervisor.stop(["emulator"])
        if code == 0:
            shutil.rmtree(directory)
        else:
            say(f"The emulator's log is kept: {supervisor.log('emulator')}")
    # As in a shell: 128 plus the signal that ended the command.
    return code if code >= 0 else 128 - code
