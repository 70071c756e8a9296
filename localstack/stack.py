#!/usr/bin/env python3
"""Runs Longhand on one machine: AWS emulator, speech-to-text server, api and worker.

It needs Python and cargo, and installs the rest under .local/. Settings come from the environment:

  ASR                whisper (default): a real model. sim: the simulated one, which tests and load use.
                     none: the server that ASR_BASE_URL, ASR_API_KEY and ASR_MODEL name
  EMULATOR           ministack (default), localstack (a program, with Java), localstack-docker (its Docker image),
                     or none: use the AWS endpoints and resources that the environment names
  EMULATOR_PORT      4566      API_PORT       8080
  ASR_PORT           8790      WORKER_PORT    8081 (the worker's health)
  WEBHOOK_PORT       9099 (callbackUrl may name http://127.0.0.1:9099)
  SIM_LATENCY_MS     duration of a call of the simulated model: 250, or 5000..10000 (random); 0 by default
  SCALE              3: three apis and three workers, with nginx at API_PORT in front of the apis; off by default
  SCALE_PORT         8100: first port of these: api-1 on 8100, worker-1 (its health) on 8101, api-2 on 8102
  REDIS              with SCALE: own (default) starts one at REDIS_PORT (6390), none omits it. REDIS_URL names another
  PROFILE            dev (default) or release: how the Rust programs are built
  GATEWAY            1: run the api as a Lambda function behind API Gateway, both in the emulator, not as a server
  LONGHAND_BIN_DIR   a directory of compiled programs to use instead of building them
  LONGHAND_LOCAL_DIR the directory for all files, .local by default; another one allows a second stack
  LONGHAND_TOOLS_DIR the directory of the virtual environment and the model, LONGHAND_LOCAL_DIR by default
  WHISPER_MODEL      a model directory, or a name on the model hub, instead of the model that `up` downloads

Other LONGHAND_*, ASR_*, REDIS_URL and RUST_LOG settings reach the api and the worker unchanged.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - older versions get this message
    sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}. Run it as: make PYTHON=python3.11 ...")

import argparse
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import gateway
from cloud import Cloud
from emulator import CREDENTIALS, at, check_docker, localstack_in_docker, ministack, private_emulator, without_aws
from fauxqs import Fauxqs
from localstack_native import Native
from old_programs import OldPrograms
from provision import (
    HERE,
    ROOT,
    SIM,
    Binaries,
    Tools,
    ensure,
    ensure_program,
    ensure_tools,
    lock,
)
from scale import Scale, ensure_nginx, in_order, kind
from services import Failure, Service, Supervisor, answers, check_port_free, say

STACK_NAME = "longhand"
GATEWAY_URL = "gateway.url"
# What EMULATOR=none takes from the environment instead of deploying it.
RESOURCES = ["LONGHAND_TABLE", "LONGHAND_QUEUE_URL", "LONGHAND_DLQ_URL", "LONGHAND_AUDIO_BUCKETS"]
# A laptop works on two calls at a time, and a chunk of five minutes takes half a minute and more. Two more calls may
# wait, so that the model never does, and each has time for both rounds. Elsewhere the worker's own defaults do.
PACE = {
    "whisper": {
        "LONGHAND_CONCURRENCY": "4",
        "ASR_TIMEOUT_SECONDS": "150",
        # That for the first call, each of three retries and a probe, and the pauses between: the worker insists.
        "LONGHAND_MAX_CHUNK_SECONDS": "820",
    },
    "sim": {"LONGHAND_CONCURRENCY": "32"},
    "none": {"LONGHAND_CONCURRENCY": "32"},
}


NEEDED = "Some tests need it."
# Optional tools, which the stack does not always need.
INSTALL = {
    "python": lambda stack: ensure_tools(stack.tools, model=True),
    "checkov": lambda stack: ensure_tools(stack.tools, checkov=True),
    "localstack": lambda stack: Native(stack.tools).ensure(),
    "fauxqs": lambda stack: Fauxqs(stack.tools).ensure(),
    "old-programs": lambda stack: say(f"The programs of 0.1.0: {OldPrograms(stack.tools).ensure()}"),
    "redis": lambda stack: ensure_program("redis-server", "redis-server", NEEDED, stack.supervisor.log("redis")),
    "nginx": lambda stack: ensure_nginx(stack.supervisor.log("nginx")),
    "chromium": lambda stack: ensure_program(
        # It brings the browser of its own version.
        "chromedriver",
        "chromium-driver",
        NEEDED,
        stack.supervisor.log("chromium"),
    ),
    "ffmpeg": lambda stack: ensure_program("ffmpeg", "ffmpeg", NEEDED, stack.supervisor.log("ffmpeg")),
}


def choice(name: str, allowed: list[str]) -> str:
    value = os.environ.get(name) or allowed[0]
    if value not in allowed:
        raise Failure(f"{name} is {value!r}; it can be {', '.join(allowed)}.")
    return value


def number(name: str, default: int, what: str = "a port number", highest: int = 65535) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdigit() or not 0 < int(value) <= highest:
        raise Failure(f"{name} is {value!r}; it has to be {what}.")
    return int(value)


class Stack:
    def __init__(self) -> None:
        self.local = local_directory()
        self.tools = Tools(Path(os.environ.get("LONGHAND_TOOLS_DIR") or self.local).resolve())
        self.binaries = Binaries()
        self.supervisor = Supervisor(self.local)
        self.emulator = choice("EMULATOR", ["ministack", "localstack", "localstack-docker", "none"])
        self.asr = choice("ASR", ["whisper", "sim", "none"])
        self.asr_model = os.environ.get("ASR_MODEL") or "whisper-base"
        self.emulator_port = number("EMULATOR_PORT", 4566)
        self.asr_port = number("ASR_PORT", 8790)
        self.api_port = number("API_PORT", 8080)
        self.worker_port = number("WORKER_PORT", 8081)
        # Where a receiver of webhooks may listen.
        self.webhook_port = number("WEBHOOK_PORT", 9099)
        self.gateway = gateway.wanted(os.environ.get("GATEWAY", ""))
        # That the gateway is up, and where: what `status` and the next `up` know of it.
        self.gateway_url = self.local / GATEWAY_URL
        self.scale = None
        if os.environ.get("SCALE"):
            if self.gateway:
                raise Failure("GATEWAY=1 and SCALE exclude each other: as a Lambda function the api is not a process.")
            ports = {name: number(name, default) for name, default in (("SCALE_PORT", 8100), ("REDIS_PORT", 6390))}
            count = number("SCALE", 1, "how many apis and workers to run, 1 to 20", highest=20)
            self.scale = Scale(count, self.local, {**ports, "API_PORT": self.api_port})

    def environment(self) -> dict[str, str]:
        """Ours; with an emulator less all of AWS, so that no profile of the user's sends us to a real account."""
        return dict(os.environ) if self.emulator == "none" else without_aws()

    # ---- the services -------------------------------------------------------------------------------------------

    def emulator_service(self) -> Service:
        if self.emulator == "localstack-docker":
            return localstack_in_docker(self.emulator_port)
        if self.emulator == "localstack":
            return Native(self.tools).service(self.emulator_port, self.local / "emulator")
        return ministack(self.tools, self.emulator_port, self.local / "emulator", persist=True)

    def asr_service(self) -> Service:
        if self.asr == "sim":
            argv = [self.binaries.path(SIM), "--listen", f"127.0.0.1:{self.asr_port}"]
            if os.environ.get("SIM_LATENCY_MS"):
                argv += ["--latency-ms", os.environ["SIM_LATENCY_MS"]]
        else:
            model = os.environ.get("WHISPER_MODEL") or str(self.tools.model)
            server = [str(self.tools.python), str(HERE / "asr_server.py")]
            argv = [*server, "--listen", f"127.0.0.1:{self.asr_port}", "--model", model, "--name", self.asr_model]
        return Service(
            name="asr",
            argv=argv,
            port=self.asr_port,
            port_setting="ASR_PORT",
            health="/health",
            stop_within=5,
        )

    def rust_service(self, name: str, settings: dict[str, str]) -> Service:
        # The worker first finishes, or gives back, the chunks that it holds; that must not be cut off.
        drain = number("LONGHAND_DRAIN_SECONDS", 25, "whole seconds", highest=3600)
        address, setting, health, stop = {
            "api": (self.api_port, "API_PORT", "/readyz", 15),
            "worker": (self.worker_port, "WORKER_PORT", "/healthz", drain + 10),
        }[name]
        return Service(
            name=name,
            argv=[self.binaries.path(f"longhand-{name}")],
            port=address,
            port_setting=setting,
            health=health,
            # Those that are passed on are named here so that a change of them is noticed.
            settings={**passed_on(), **settings},
            stop_within=stop,
        )

    def behind(self, settings: dict[str, str]) -> list[Service]:
        """The api and the worker; with SCALE all of them, and what is around them."""
        one_each = [self.rust_service(name, settings) for name in self.rust_names()]
        if self.scale is None:
            return one_each
        several = [service for one in one_each for service in self.scale.spread(one)]
        return [*self.scale.redis(), *several, self.scale.nginx()]

    # ---- commands -----------------------------------------------------------------------------------------------

    def up(self) -> dict[str, str]:
        """Starts what is missing. Returns the settings for the api, the worker and the command line."""
        with lock(self.local / "stack.lock"):
            packages = ["longhand-api", "longhand-worker", "longhand"]
            packages += [SIM] if self.asr == "sim" else []
            model = self.asr == "whisper" and not os.environ.get("WHISPER_MODEL")
            self.check(packages)
            say("Looking for what has to be installed or built")
            if self.scale is not None:
                self.scale.ensure(self.supervisor.log("install"))
            ensure(self.tools, self.binaries, packages, model, self.supervisor.log("build"))
            if self.emulator == "localstack":
                Native(self.tools).ensure()

            say("Starting what does not run yet")
            emulator = [self.emulator_service()] if self.emulator != "none" else []
            asr = [self.asr_service()] if self.asr != "none" else []
            # The speech model loads while the rest starts.
            for service in emulator + asr:
                self.start_unless_running(service)
            self.supervisor.wait_ready(emulator)
            settings = self.settings()
            if self.gateway:
                # Before the settings name it, so that there are never two.
                self.supervisor.stop(self.surplus(self.behind(settings)))
                settings["LONGHAND_URL"] = self.deploy_gateway(settings)
                self.gateway_url.write_text(settings["LONGHAND_URL"])
            else:
                self.gateway_url.unlink(missing_ok=True)
            self.write_env(settings)
            rust = self.behind(settings)
            self.supervisor.stop(self.surplus(rust))
            for service in rust:
                self.start_unless_running(service)
            self.supervisor.wait_ready(asr + rust)
            if self.gateway:
                gateway.wait_ready(settings["LONGHAND_URL"])
            say(f"Longhand is up. Settings: {self.local / 'env'}  Logs: {self.supervisor.logs}/")
            return settings

    def rust_names(self) -> list[str]:
        return ["worker"] if self.gateway else ["api", "worker"]

    def deploy_gateway(self, settings: dict[str, str]) -> str:
        """The api as a function behind the gateway, in the emulator; its URL."""
        zipped = gateway.package(Path(self.binaries.path("longhand-api")), self.local / "function")
        self.cloud.upload(zipped, gateway.BUCKET)
        parameters = gateway.parameters(settings, self.outputs, zipped.name)
        outputs = self.deploy(gateway.STACK_NAME, "gateway.yaml", parameters)
        return gateway.url(settings["AWS_ENDPOINT_URL"], outputs["ApiId"])

    def check(self, packages: list[str]) -> None:
        """Checks everything that can be checked before the first long step."""
        self.binaries.check(packages)
        if self.gateway:
            gateway.check(self.emulator)
        if self.emulator == "none":
            missing = [name for name in RESOURCES if not os.environ.get(name)]
            if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
                missing.append("AWS_REGION")
            if missing:
                raise Failure(f"EMULATOR=none uses what the environment names, and it lacks: {', '.join(missing)}.")
        if self.asr == "none" and not os.environ.get("ASR_BASE_URL"):
            raise Failure("ASR=none uses the speech-to-text server that ASR_BASE_URL names, and that is not set.")
        if self.emulator == "localstack-docker":
            check_docker()
        services = self.behind({})
        surplus = {self.supervisor.record(name)["address"] for name in self.surplus(services)}
        if self.asr != "none":
            services.insert(0, self.asr_service())
        if self.emulator != "none":
            services.insert(0, self.emulator_service())
        ports = [service.port for service in services]
        if len(set(ports)) < len(ports):
            raise Failure(f"Two services have the same port: {', '.join(f'{s.name} {s.port}' for s in services)}.")
        for service in services:
            record = self.supervisor.record(service.name)
            here = self.supervisor.running(service.name) is not None and record["address"] == service.address
            # One of the stack as it was before gives its port back.
            if not here and service.address not in surplus:
                check_port_free(service)

    def surplus(self, services: list[Service]) -> list[str]:
        """What runs of apis, workers and what is around them, and is wanted no more."""
        wanted = {service.name for service in services}
        around = [name for name in self.supervisor.names() if kind(name) not in ("emulator", "asr")]
        # nginx first: it should miss nobody.
        around.sort(key=in_order, reverse=True)
        return [name for name in around if name not in wanted and self.supervisor.running(name) is not None]

    def start_unless_running(self, service: Service) -> None:
        pid = self.supervisor.running(service.name)
        if pid is not None:
            if self.supervisor.record(service.name)["fingerprint"] == service.fingerprint:
                say(f"  {service.name} runs already (pid {pid})")
                return
            say(f"  {service.name} is another build, or runs with other settings, than asked for")
            self.supervisor.stop([service.name])
        self.supervisor.start(service, self.environment())

    def settings(self) -> dict[str, str]:
        """Deploys the resources. Returns the settings for the api, the worker and the command line."""
        if self.emulator == "none":
            shared = {name: os.environ[name] for name in RESOURCES}
            for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
                if os.environ.get(name):
                    shared[name] = os.environ[name]
        else:
            endpoint = f"http://127.0.0.1:{self.emulator_port}"
            shared = {"AWS_ENDPOINT_URL": endpoint, **CREDENTIALS}
            self.cloud = Cloud(self.tools, endpoint, CREDENTIALS)
            outputs = self.outputs = self.deploy(STACK_NAME, "data.yaml", {})
            shared["LONGHAND_TABLE"] = outputs["TableName"]
            shared["LONGHAND_QUEUE_URL"] = at(endpoint, outputs["QueueUrl"])
            shared["LONGHAND_DLQ_URL"] = at(endpoint, outputs["DeadLetterQueueUrl"])
            shared["LONGHAND_AUDIO_BUCKETS"] = outputs["BucketName"]
            shared["LONGHAND_WEBHOOK_QUEUE_URL"] = at(endpoint, outputs["WebhookQueueUrl"])
            shared["LONGHAND_WEBHOOK_DLQ_URL"] = at(endpoint, outputs["WebhookDeadLetterQueueUrl"])
            shared["LONGHAND_WEBHOOK_SECRET"] = "for-this-laptop-alone-and-no-secret-at-all"
            shared["LONGHAND_CALLBACK_HOSTS"] = f"http://127.0.0.1:{self.webhook_port}"
        pace = dict(PACE[self.asr])
        if self.scale and self.asr == "whisper":
            # There is one model, and one machine, however many workers there are.
            pace["LONGHAND_CONCURRENCY"] = str(max(1, int(pace["LONGHAND_CONCURRENCY"]) // self.scale.count))
        audio = Path(os.environ.get("LONGHAND_AUDIO_ROOT") or self.local / "audio")
        put_samples(audio)
        return {
            **shared,
            "LONGHAND_AUDIO_ROOT": str(audio),
            "LONGHAND_LISTEN": f"127.0.0.1:{self.api_port}",
            "LONGHAND_HEALTH_LISTEN": f"127.0.0.1:{self.worker_port}",
            **(self.scale.listening() if self.scale else {}),
            "LONGHAND_URL": f"http://127.0.0.1:{self.api_port}",
            "ASR_BASE_URL": os.environ["ASR_BASE_URL"] if self.asr == "none" else f"http://127.0.0.1:{self.asr_port}",
            "ASR_MODEL": self.asr_model,
            **{name: os.environ.get(name) or value for name, value in pace.items()},
        }

    def deploy(self, name: str, template: str, parameters: dict[str, str]) -> dict[str, str]:
        say(f"  deploying infra/{template}")
        return self.cloud.deploy(name, ROOT / "infra" / template, parameters)

    def write_env(self, settings: dict[str, str]) -> None:
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()]
        # Renamed into place: a shell that sources it meanwhile reads either the old file or the new one.
        partial = self.local / "env.partial"
        partial.write_text("".join(lines))
        partial.rename(self.local / "env")

    def down(self, purge: bool) -> None:
        with lock(self.local / "stack.lock"):
            docker = (self.supervisor.record("emulator") or {}).get("program") == "docker"
            self.gateway_url.unlink(missing_ok=True)
            # First those that use the others: a worker that drains still needs its queue.
            names = self.supervisor.names()
            for kinds in (["nginx"], ["api", "worker"], ["asr", "redis", "emulator"]):
                self.supervisor.stop([name for name in sorted(names, key=in_order) if kind(name) in kinds])
            if docker:
                subprocess.run(["docker", "compose", "-f", str(HERE / "compose.yaml"), "down"], check=False)
            say("Longhand is down." + ("" if purge else f" Data and logs stay in {self.local}."))
        if purge:
            shutil.rmtree(self.local, ignore_errors=True)
            say(f"Removed {self.local}.")

    def status(self) -> bool:
        rows, all_ready = [], True
        names = set(self.supervisor.names())
        missing = {"emulator", "asr", "api", "worker"} - {kind(name) for name in names}
        url = self.gateway_url.read_text().strip() if self.gateway_url.exists() else None
        for name in sorted(names | missing, key=in_order):
            if name == "api" and url is not None:
                state = "ready" if answers(f"{url}/readyz") else "is not ready"
                all_ready &= state == "ready"
                rows.append(("gateway", "-", url, state))
                continue
            record, pid = self.supervisor.record(name), self.supervisor.running(name)
            if record is None:
                state = "not started"
            elif pid is None:
                state = f"died; see {self.supervisor.log(name)}"
            else:
                state = "ready" if answers(record["address"] + record["health"]) else "runs, but is not ready"
            all_ready &= state == "ready"
            rows.append((name, str(pid or "-"), record["address"] if record else "-", state))
        width = max(len(row[2]) for row in [*rows, ("", "", "ADDRESS")]) + 2
        for name, pid, address, state in [("NAME", "PID", "ADDRESS", "STATE"), *rows]:
            say(f"{name:<10}{pid:>8}  {address:<{width}}{state}")
        return all_ready


def put_samples(audio: Path) -> None:
    """The recordings that the documents' examples name, under the audio root."""
    folder = audio / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for recording in (HERE / "samples").glob("*.wav"):
        shutil.copyfile(recording, folder / recording.name)


def local_directory() -> Path:
    return Path(os.environ.get("LONGHAND_LOCAL_DIR") or ROOT / ".local").resolve()


def shape_that_runs() -> None:
    """Sets GATEWAY or SCALE as they were when what runs was started, unless one of them is given."""
    if os.environ.get("GATEWAY") or os.environ.get("SCALE"):
        return
    apis = [name for name in Supervisor(local_directory()).names() if name.startswith("api-")]
    if apis:
        os.environ["SCALE"] = str(len(apis))
    elif (local_directory() / GATEWAY_URL).exists():
        os.environ["GATEWAY"] = "1"


def passed_on() -> dict[str, str]:
    """The settings of the api and the worker that the user's environment holds."""
    ours = {"LONGHAND_BIN_DIR", "LONGHAND_LOCAL_DIR", "LONGHAND_TOOLS_DIR", "ASR_PORT", "REDIS_PORT"}
    prefixes = ("LONGHAND_", "ASR_", "REDIS_", "RUST_")
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes) and name not in ours}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the services that are not running")
    up.add_argument("--as-it-is", action="store_true", help="take unset GATEWAY and SCALE from the running stack")
    down = commands.add_parser("down", help="stop everything")
    down.add_argument("--purge", action="store_true", help="remove data, logs, virtual environment and model too")
    commands.add_parser("status", help="show the services and their addresses; exit code 1 unless all are ready")
    install = commands.add_parser("install", help="only install what `up`, tests or checks need")
    install.add_argument("what", nargs="+", choices=INSTALL, metavar=f"{{{','.join(INSTALL)}}}")
    test = commands.add_parser("test", help="run a command with a private emulator")
    test.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    arguments = parser.parse_args()

    if arguments.command == "up" and arguments.as_it_is:
        shape_that_runs()
    stack = Stack()
    if arguments.command == "up":
        stack.up()
    elif arguments.command == "down":
        stack.down(arguments.purge)
    elif arguments.command == "status":
        return 0 if stack.status() else 1
    elif arguments.command == "install":
        for name in arguments.what:
            INSTALL[name](stack)
    elif arguments.command == "test":
        command = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
        return private_emulator(stack.tools, stack.local / "test", command, stack.emulator)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"\nlonghand: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
