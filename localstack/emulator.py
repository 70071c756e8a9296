"""The AWS emulators: how each is started, and one for the time of a single command."""

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
from services import Failure, Service, Supervisor, free_port, last_lines, say

# Any would do; these are what every SDK's documentation uses.
CREDENTIALS = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


def ministack(tools: Tools, number: int, state: Path, persist: bool) -> Service:
    (state / "tmp").mkdir(parents=True, exist_ok=True)
    settings = {
        "GATEWAY_PORT": str(number),
        # Its default is every address of the machine.
        "BIND_HOST": "127.0.0.1",
        # The host in the queue URLs that it hands out.
        "MINISTACK_HOST": "127.0.0.1",
        "TMPDIR": str(state / "tmp"),
        "LOG_LEVEL": os.environ.get("EMULATOR_LOG_LEVEL", "WARNING"),
        "PERSIST_STATE": "1" if persist else "0",
        "STATE_DIR": str(state / "state"),
        "S3_PERSIST": "1" if persist else "0",
        "S3_DATA_DIR": str(state / "s3"),
        # What the functions that it runs take for AWS.
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{number}",
    }
    return Service(
        name="emulator",
        argv=[str(tools.python), "-m", "ministack"],
        port=number,
        port_setting="EMULATOR_PORT",
        health="/_localstack/health",
        settings=settings,
        # It writes its state to disk when it is stopped, and only then.
        stop_within=30,
    )


def localstack_in_docker(number: int) -> Service:
    return Service(
        name="emulator",
        # In the foreground, so that it is a process like the others: ended by SIGTERM, its output in a log.
        argv=["docker", "compose", "-f", str(HERE / "compose.yaml"), "up", "--abort-on-container-exit"],
        port=number,
        port_setting="EMULATOR_PORT",
        health="/_localstack/health",
        settings={"EMULATOR_PORT": str(number)},
        ready_within=300,  # the first time the image is pulled
        stop_within=30,
    )


def check_docker() -> None:
    if shutil.which("docker") is None:
        raise Failure("EMULATOR=localstack-docker needs Docker, which is missing. EMULATOR=localstack needs none.")
    for arguments, lacking in (
        (["compose", "version"], "Docker's compose plugin is missing (on Debian and Ubuntu: docker-compose-v2)"),
        (["info"], "Docker is installed, but its engine does not answer"),
    ):
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr or done.stdout).strip().splitlines()[:1]
            raise Failure(
                f"EMULATOR=localstack-docker: {lacking}. {' '.join(reason)}\nEMULATOR=localstack needs no Docker."
            )


def at(endpoint: str, url: str) -> str:
    """`url` at `endpoint`: emulators remember, or invent, another host and port than the one they are reached by."""
    return endpoint + "/" + url.split("://", 1)[-1].split("/", 1)[1]


def without_aws() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def private_emulator(tools: Tools, parent: Path, command: list[str], kind: str) -> int:
    """Runs `command` with an emulator of its own, which is stopped whatever happens."""
    if not command:
        raise Failure("What shall be run? Usage: stack.py test -- COMMAND...")
    if kind == "localstack-docker":
        raise Failure("stack.py test starts an emulator of its own: EMULATOR can be ministack or localstack there.")
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

    # SIGTERM and SIGHUP are handed on to the command; when that ends, so does this. Ctrl-C reaches the command from
    # the terminal, and here it is only to be outlived.
    def hand_on(number, _frame):
        if process is None:
            raise SystemExit(128 + number)
        process.send_signal(number)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGHUP, hand_on)
    signal.signal(signal.SIGINT, lambda *_: None)
    code = 1
    try:
        supervisor.start(emulator, without_aws())
        supervisor.wait_ready([emulator])
        settings = {"AWS_ENDPOINT_URL": emulator.address, **CREDENTIALS, "LONGHAND_REPO": str(ROOT)}
        # Which of their differences a test has to expect.
        settings["TESTS_EMULATOR"] = kind
        fauxqs = Fauxqs(tools).command()
        settings |= {"TESTS_FAUXQS": fauxqs} if fauxqs else {}
        process = subprocess.Popen(command, env={**without_aws(), **settings})
        code = process.wait()
    except FileNotFoundError:
        raise Failure(f"There is no command {command[0]}.") from None
    finally:
        died = supervisor.running("emulator") is None
        if died:
            say(f"The emulator died meanwhile.\n{last_lines(supervisor.log('emulator'))}")
        supervisor.stop(["emulator"])
        if code == 0:
            shutil.rmtree(directory)
        else:
            say(f"The emulator's log is kept: {supervisor.log('emulator')}")
    # A command that a signal ended counts as the shell counts it.
    return code if code >= 0 else 128 - code
