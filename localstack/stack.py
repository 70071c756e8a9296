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
  GATEWAY            1: run the api as a Lambda function behind API Gateway (both in the emulator)
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
    ensure_browser,
    ensure_program,
    ensure_tools,
    local_directory,
    lock,
)
from scale import Scale, ensure_nginx, in_order, kind
from services import Failure, Service, Supervisor, answers, check_port_free, run_main, say

STACK_NAME = "longhand"
TEMPLATES = ROOT / "infra"
GATEWAY_URL = "gateway.url"
# EMULATOR=none takes these from the environment.
RESOURCES = ["LONGHAND_TABLE", "LONGHAND_QUEUE_URL", "LONGHAND_DLQ_URL", "LONGHAND_AUDIO_BUCKETS"]
# A laptop processes two calls at a time, and a chunk of five minutes takes half a minute or more. Two more calls may
# wait, so that the model is never idle, and the timeout covers both rounds.
PACE = {
    "whisper": {
        "LONGHAND_CONCURRENCY": "4",
        "ASR_TIMEOUT_SECONDS": "150",
        # The worker requires the sum of the first call, three retries, a probe and the pauses between them.
        "LONGHAND_MAX_CHUNK_SECONDS": "820",
    },
    "sim": {"LONGHAND_CONCURRENCY": "32"},
    "none": {"LONGHAND_CONCURRENCY": "32"},
}


def system(program: str, package: str):
    """Installs a package of the system that only some tests need."""
    return lambda stack: ensure_program(program, package, "Some tests need it.", stack.supervisor.log(program))


# Optional tools.
INSTALL = {
    "python": lambda stack: ensure_tools(stack.tools, model=True),
    "checkov": lambda stack: ensure_tools(stack.tools, checkov=True),
    "localstack": lambda stack: Native(stack.tools).ensure(),
    "fauxqs": lambda stack: Fauxqs(stack.tools).ensure(),
    "old-programs": lambda stack: say(f"The programs of 0.1.0: {OldPrograms(stack.tools).ensure()}"),
    "redis": system("redis-server", "redis-server"),
    "nginx": lambda stack: ensure_nginx(stack.supervisor.log("nginx")),
    # The package includes the browser of its version.
    "chromium": system("chromedriver", "chromium-driver"),
    "browser": lambda stack: ensure_browser(stack.tools, stack.supervisor.log("browser")),
    "ffmpeg": system("ffmpeg", "ffmpeg"),
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
        # For a receiver of webhooks.
        self.webhook_port = number("WEBHOOK_PORT", 9099)
        self.gateway = gateway.wanted(os.environ.get("GATEWAY", ""))
        # This file exists while the gateway is in use.
        self.gateway_url = self.local / GATEWAY_URL
        self.scale = None
        if os.environ.get("SCALE"):
            if self.gateway:
                raise Failure("GATEWAY=1 and SCALE exclude each other: a Lambda function is not a process.")
            ports = {name: number(name, default) for name, default in (("SCALE_PORT", 8100), ("REDIS_PORT", 6390))}
            count = number("SCALE", 1, "a number of apis and workers, 1 to 20", highest=20)
            self.scale = Scale(count, self.local, {**ports, "API_PORT": self.api_port})

    def environment(self) -> dict[str, str]:
        """The user's environment. With an emulator it has no AWS settings, which could lead to a real account."""
        return dict(os.environ) if self.emulator == "none" else without_aws()

    def emulator_service(self) -> Service:
        if self.emulator == "localstack-docker":
            return localstack_in_docker(self.emulator_port)
        if self.emulator == "localstack":
            return Native(self.tools).service(self.emulator_port, self.local / "emulator")
        return ministack(self.tools, self.emulator_port, self.local / "emulator", persist=True)

    def asr_service(self) -> Service:
        listen = ["--listen", f"127.0.0.1:{self.asr_port}"]
        if self.asr == "sim":
            latency = os.environ.get("SIM_LATENCY_MS")
            argv = [self.binaries.path(SIM), *listen, *(["--latency-ms", latency] if latency else [])]
        else:
            model = os.environ.get("WHISPER_MODEL") or str(self.tools.model)
            argv = [str(self.tools.python), str(HERE / "asr_server.py"), *listen, "--model", model]
            argv += ["--name", self.asr_model]
        return Service("asr", argv, self.asr_port, "/health", stop_within=5, port_setting="ASR_PORT")

    def rust_services(self, settings: dict[str, str]) -> list[Service]:
        """The api and the worker. With SCALE all instances, Redis and nginx."""
        # The settings that are passed on are included, so that a change of them is noticed.
        settings = {**passed_on(), **settings}
        api, worker = ([self.binaries.path(f"longhand-{name}")] for name in ("api", "worker"))
        services = [
            Service("api", api, self.api_port, "/readyz", settings, stop_within=15, port_setting="API_PORT"),
            Service("worker", worker, self.worker_port, "/healthz", settings, port_setting="WORKER_PORT"),
        ]
        # The worker needs time to finish or return its chunks.
        services[1].stop_within = number("LONGHAND_DRAIN_SECONDS", 25, "whole seconds", highest=3600) + 10
        if self.scale:
            several = [service for one in services for service in self.scale.spread(one)]
            return [*self.scale.redis(), *several, self.scale.nginx()]
        return services[1:] if self.gateway else services

    def up(self) -> dict[str, str]:
        """Starts what is missing. Returns the settings for the api, the worker and the command line."""
        with lock(self.local / "stack.lock"):
            packages = ["longhand-api", "longhand-worker", "longhand", *[SIM] * (self.asr == "sim")]
            model = self.asr == "whisper" and not os.environ.get("WHISPER_MODEL")
            self.check(packages)
            say("Installing and building what is missing")
            if self.scale is not None:
                self.scale.ensure(self.supervisor.log("install"))
            ensure(self.tools, self.binaries, packages, model, self.supervisor.log("build"))
            if self.emulator == "localstack":
                Native(self.tools).ensure()

            say("Starting the services")
            emulator = [self.emulator_service()] if self.emulator != "none" else []
            asr = [self.asr_service()] if self.asr != "none" else []
            # The speech model loads while the others start.
            for service in emulator + asr:
                self.start_unless_running(service)
            self.supervisor.wait_ready(emulator)
            settings = self.settings()
            rust = self.rust_services(settings)
            self.supervisor.stop(self.surplus(rust))
            self.gateway_url.unlink(missing_ok=True)
            if self.gateway:
                settings["LONGHAND_URL"] = self.deploy_gateway(settings)
                self.gateway_url.write_text(settings["LONGHAND_URL"])
                rust = self.rust_services(settings)
            self.write_env(settings)
            for service in rust:
                self.start_unless_running(service)
            self.supervisor.wait_ready(asr + rust)
            if self.gateway:
                gateway.wait_ready(settings["LONGHAND_URL"])
            say(f"Longhand is up. Settings: {self.local / 'env'}  Logs: {self.supervisor.logs}/")
            return settings

    def deploy_gateway(self, settings: dict[str, str]) -> str:
        """Deploys the api as a function behind the gateway, and returns its URL."""
        zipped = gateway.package(Path(self.binaries.path("longhand-api")), self.local / "function")
        self.cloud.upload(zipped, gateway.BUCKET)
        parameters = gateway.parameters(settings, self.outputs, zipped.name)
        outputs = self.cloud.deploy(gateway.STACK_NAME, TEMPLATES / "gateway.yaml", parameters)
        return gateway.url(settings["AWS_ENDPOINT_URL"], outputs["ApiId"])

    def check(self, packages: list[str]) -> None:
        """Checks everything that can be checked before the first long step."""
        self.binaries.check(packages)
        if self.gateway:
            gateway.check(self.emulator)
        if self.emulator == "none":
            missing = [name for name in RESOURCES if not os.environ.get(name)]
            missing += [] if os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") else ["AWS_REGION"]
            if missing:
                raise Failure(f"EMULATOR=none needs these settings: {', '.join(missing)}.")
        if self.asr == "none" and not os.environ.get("ASR_BASE_URL"):
            raise Failure("ASR=none needs ASR_BASE_URL, the URL of a speech-to-text server.")
        if self.emulator == "localstack-docker":
            check_docker()
        services = self.rust_services({})
        surplus = {self.supervisor.record(name)["address"] for name in self.surplus(services)}
        services += [self.asr_service()] if self.asr != "none" else []
        services += [self.emulator_service()] if self.emulator != "none" else []
        if len({service.port for service in services}) < len(services):
            raise Failure(f"Two services have the same port: {', '.join(f'{s.name} {s.port}' for s in services)}.")
        for service in services:
            running = self.supervisor.running(service.name) is not None
            # The ports of this service and of those that will be stopped are in use by this stack.
            own = surplus | ({self.supervisor.record(service.name)["address"]} if running else set())
            if service.address not in own:
                check_port_free(service)

    def surplus(self, services: list[Service]) -> list[str]:
        """The running apis, workers and so on that are not among `services`. nginx is first, since it uses the apis."""
        wanted = {"emulator", "asr", *(service.name for service in services)}
        names = sorted(self.supervisor.names(), key=in_order, reverse=True)
        return [name for name in names if name not in wanted and self.supervisor.running(name) is not None]

    def start_unless_running(self, service: Service) -> None:
        pid = self.supervisor.running(service.name)
        if pid is not None:
            if self.supervisor.record(service.name)["fingerprint"] == service.fingerprint:
                say(f"  {service.name} is already running (pid {pid})")
                return
            say(f"  {service.name} has another build or other settings")
            self.supervisor.stop([service.name])
        self.supervisor.start(service, self.environment())

    def settings(self) -> dict[str, str]:
        """Deploys the resources, and returns the settings for the api, the worker and the command line."""
        if self.emulator == "none":
            shared = {name: os.environ[name] for name in RESOURCES}
            names = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")
            shared |= {name: os.environ[name] for name in names if os.environ.get(name)}
        else:
            endpoint = f"http://127.0.0.1:{self.emulator_port}"
            self.cloud = Cloud(self.tools, endpoint, CREDENTIALS)
            # The console uploads from its own page.
            pages = ",".join(f"http://{host}:{self.api_port}" for host in ("127.0.0.1", "localhost"))
            parameters = {"UploadOrigins": pages}
            outputs = self.outputs = self.cloud.deploy(STACK_NAME, TEMPLATES / "data.yaml", parameters)
            shared = {
                "AWS_ENDPOINT_URL": endpoint,
                **CREDENTIALS,
                "LONGHAND_TABLE": outputs["TableName"],
                "LONGHAND_QUEUE_URL": at(endpoint, outputs["QueueUrl"]),
                "LONGHAND_DLQ_URL": at(endpoint, outputs["DeadLetterQueueUrl"]),
                "LONGHAND_AUDIO_BUCKETS": outputs["BucketName"],
                "LONGHAND_WEBHOOK_QUEUE_URL": at(endpoint, outputs["WebhookQueueUrl"]),
                "LONGHAND_WEBHOOK_DLQ_URL": at(endpoint, outputs["WebhookDeadLetterQueueUrl"]),
                "LONGHAND_WEBHOOK_SECRET": "for-this-laptop-alone-and-no-secret-at-all",
                "LONGHAND_TICKET_SECRET": "for-this-laptop-alone-and-no-secret-at-all",
                "LONGHAND_CALLBACK_HOSTS": f"http://127.0.0.1:{self.webhook_port}",
            }
        pace = dict(PACE[self.asr])
        if self.scale and self.asr == "whisper":
            # All workers share one model.
            pace["LONGHAND_CONCURRENCY"] = str(max(1, int(pace["LONGHAND_CONCURRENCY"]) // self.scale.count))
        audio = Path(os.environ.get("LONGHAND_AUDIO_ROOT") or self.local / "audio")
        # The recordings that the documents use.
        only_audio = shutil.ignore_patterns("*.md", "*.json")
        shutil.copytree(HERE / "samples", audio / "samples", ignore=only_audio, dirs_exist_ok=True)
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

    def write_env(self, settings: dict[str, str]) -> None:
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()]
        # Renamed into place, so that a shell never reads a part of it.
        partial = self.local / "env.partial"
        partial.write_text("".join(lines))
        partial.rename(self.local / "env")

    def down(self, purge: bool) -> None:
        with lock(self.local / "stack.lock"):
            docker = (self.supervisor.record("emulator") or {}).get("program") == "docker"
            self.gateway_url.unlink(missing_ok=True)
            # First the users of other services: a worker that drains still needs its queue.
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
        for name in sorted(names | missing, key=in_order):
            if name == "api" and self.gateway_url.exists():
                url = self.gateway_url.read_text().strip()
                row = ("gateway", "-", url, "ready" if answers(f"{url}/readyz") else "not ready")
            else:
                record, pid = self.supervisor.record(name), self.supervisor.running(name)
                if record is None:
                    state = "not started"
                elif pid is None:
                    state = f"ended; see {self.supervisor.log(name)}"
                else:
                    state = "ready" if answers(record["address"] + record["health"]) else "running, not ready"
                row = (name, str(pid or "-"), record["address"] if record else "-", state)
            all_ready &= row[3] == "ready"
            rows.append(row)
        width = max(len(row[2]) for row in [*rows, ("", "", "ADDRESS")]) + 2
        for name, pid, address, state in [("NAME", "PID", "ADDRESS", "STATE"), *rows]:
            say(f"{name:<10}{pid:>8}  {address:<{width}}{state}")
        return all_ready


def keep_shape() -> None:
    """Sets GATEWAY or SCALE as in the running stack, unless one of them is set."""
    if os.environ.get("GATEWAY") or os.environ.get("SCALE"):
        return
    apis = [name for name in Supervisor(local_directory()).names() if name.startswith("api-")]
    if apis:
        os.environ["SCALE"] = str(len(apis))
    elif (local_directory() / GATEWAY_URL).exists():
        os.environ["GATEWAY"] = "1"


def passed_on() -> dict[str, str]:
    """The settings of the api and the worker in the user's environment."""
    ours = {"LONGHAND_BIN_DIR", "LONGHAND_LOCAL_DIR", "LONGHAND_TOOLS_DIR", "ASR_PORT", "REDIS_PORT"}
    prefixes = ("LONGHAND_", "ASR_", "REDIS_", "RUST_")
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes) and name not in ours}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the services that are not running")
    up.add_argument("--as-it-is", action="store_true", help="keep the running stack's GATEWAY and SCALE")
    down = commands.add_parser("down", help="stop everything")
    down.add_argument("--purge", action="store_true", help="remove data, logs, virtual environment and model too")
    commands.add_parser("status", help="show the services and their addresses; exit code 1 unless all are ready")
    install = commands.add_parser("install", help="install what `up`, tests or checks need")
    install.add_argument("what", nargs="+", choices=INSTALL, metavar=f"{{{','.join(INSTALL)}}}")
    test = commands.add_parser("test", help="run a command with a private emulator")
    test.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    arguments = parser.parse_args()

    if arguments.command == "up" and arguments.as_it_is:
        keep_shape()
    stack = Stack()
    match arguments.command:
        case "up":
            stack.up()
        case "down":
            stack.down(arguments.purge)
        case "status":
            return 0 if stack.status() else 1
        case "install":
            for name in arguments.what:
                INSTALL[name](stack)
        case "test":
            command = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
            return private_emulator(stack.tools, stack.local / "test", command, stack.emulator)
    return 0


if __name__ == "__main__":
    run_main(main)
