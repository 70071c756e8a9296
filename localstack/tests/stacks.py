"""infra/'s templates in an emulator of a test's own, each filled with what those before it gave, as deploy.sh does."""

from __future__ import annotations

import io
import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
import unittest
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from support import LOCALSTACK, PYTHON, ROOT, TOOLS, free_port

# The tests run with the Python that the virtual environment was made of; its packages are there.
site.addsitedir(str(next((TOOLS / "venv" / "lib").glob(f"python3.{sys.version_info.minor}"), TOOLS) / "site-packages"))

import boto3  # noqa: E402
import yaml  # noqa: E402
from botocore.config import Config  # noqa: E402

from emulator import CREDENTIALS, ministack, without_aws  # noqa: E402
from provision import Tools  # noqa: E402
from services import Supervisor, answers  # noqa: E402, F401 - tests take `answers` from here
from unsupported import Loader  # noqa: E402

INFRA = ROOT / "infra"
NAME = "longhand-test"
ZONES = {"ZoneA": "us-east-1b", "ZoneB": "us-east-1d"}


@dataclass
class Part:
    """A template: what it gets besides the outputs of those before, and what is changed at its second deployment."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return INFRA / f"{self.name}.yaml"

    @property
    def template(self) -> dict:
        return yaml.load(self.path.read_text(), Loader)


# In the order of their deployment.
PARTS = [
    Part("network", ZONES | {"InternetEgress": "none"}, ZONES | {"InternetEgress": "nat"}),
    # These have no parameter but their name.
    Part("images"),
    Part("code"),
    Part(
        "data",
        {"UploadOrigins": ""},
        {
            "UploadOrigins": "https://app.example.com",
            "MaxReceiveCount": "5",
            "VisibilityTimeoutSeconds": "40",
            "AudioRetentionDays": "7",
            "DeletionProtection": "true",
        },
    ),
    Part("cache", {}, {"NodeType": "cache.t4g.medium"}),
    Part(
        "service",
        {
            "ApiImage": f"000000000000.dkr.ecr.us-east-1.amazonaws.com/{NAME}-api:one",
            "WorkerImage": f"000000000000.dkr.ecr.us-east-1.amazonaws.com/{NAME}-worker:one",
            "AsrBaseUrl": "http://asr.internal:8000",
            "AsrPort": "8000",
            "Auth": "none",
        },
        {
            "ApiImage": f"000000000000.dkr.ecr.us-east-1.amazonaws.com/{NAME}-api:two",
            "WorkerSlots": "256",
            "SpotWorkers": "true",
            "ClientCidr": "10.0.0.0/8",
        },
    ),
    Part(
        "gateway",
        {"Target": "lambda", "CodeBucket": "code", "CodeKey": "function.zip", "Auth": "none"},
        {"ThrottlingRateLimit": "50"},
    ),
    Part("alarms", {}, {"AlarmEmail": "operator@example.com", "WorkerMinTasks": "3"}),
]


class Cloud:
    """An emulator, and the stacks in it."""

    def __init__(self, test: unittest.TestCase | type[unittest.TestCase], **settings: str):
        self.directory = Path(tempfile.mkdtemp(prefix="longhand-test-"))
        self.supervisor = Supervisor(self.directory)
        service = ministack(Tools(TOOLS), free_port(), self.directory / "emulator", persist=False)
        service.settings |= settings
        clean_up = test.addClassCleanup if isinstance(test, type) else test.addCleanup
        clean_up(shutil.rmtree, self.directory, ignore_errors=True)
        clean_up(self.stop)
        self.supervisor.start(service, without_aws())
        self.supervisor.wait_ready([service])
        self.endpoint = service.address
        self.outputs: dict[str, str] = {}

    def stop(self) -> None:
        self.supervisor.stop(["emulator"])
        for process in self.supervisor.children.values():
            process.wait()

    def client(self, service: str, endpoint: str | None = None, **credentials: str):
        """The root user's, unless told otherwise."""
        keys = {
            "aws_access_key_id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            **credentials,
        }
        region = CREDENTIALS["AWS_REGION"]
        # One test's calls are few, and what is refused is to be seen at once.
        config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        return boto3.client(service, endpoint_url=endpoint or self.endpoint, region_name=region, config=config, **keys)

    def prepare(self) -> None:
        """What is there before any stack: a secret, and the function's code."""
        self.outputs["SecretArn"] = self.client("secretsmanager").create_secret(
            Name=NAME, SecretString=json.dumps({"asrApiKey": "", "webhookSecret": "x" * 32})
        )["ARN"]
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("bootstrap", "#!/bin/sh\n")
        s3 = self.client("s3")
        s3.create_bucket(Bucket="code")
        s3.put_object(Bucket="code", Key="function.zip", Body=code.getvalue())

    def deploy(self, part: Part, template: Path | None = None, **changed: str) -> list[str]:
        """Deploys with localstack/deploy.py; what it says that it left out."""
        known = {"Name": NAME, **self.outputs, **part.parameters, **changed}
        given = {name: known[name] for name in part.template["Parameters"] if name in known}
        pairs = [f"{name}={value}" for name, value in given.items()]
        environment = {**without_aws(), **CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}
        done = subprocess.run(
            [PYTHON, LOCALSTACK / "deploy.py", self.stack(part), template or part.path, *pairs],
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise AssertionError(f"{part.name} was not deployed: {done.stderr}")
        self.outputs |= json.loads(done.stdout)
        return [line for line in done.stderr.splitlines() if "left out" in line]

    def stack(self, part: Part) -> str:
        return f"{NAME}-{part.name}"

    def resources(self, part: Part) -> dict[str, tuple[str, str]]:
        """Type and physical id of each resource, by its name in the template."""
        found = self.client("cloudformation").describe_stack_resources(StackName=self.stack(part))["StackResources"]
        return {one["LogicalResourceId"]: (one["ResourceType"], one["PhysicalResourceId"]) for one in found}


def parts() -> list[Part]:
    """Those whose template there is; each template has to be one of them."""
    there = {path.stem for path in INFRA.glob("*.yaml")}
    unknown = there - {part.name for part in PARTS}
    if unknown:
        raise AssertionError(f"infra/ has templates that PARTS in {Path(__file__).name} does not: {sorted(unknown)}")
    return [part for part in PARTS if part.name in there]


def programs() -> Path:
    given = os.environ.get("LONGHAND_BIN_DIR")
    return Path(given or Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug").resolve()
