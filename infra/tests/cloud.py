"""infra/'s templates in an emulator of a test's own, each filled with what those before it gave, as deploy.sh does."""

from __future__ import annotations

import io
import json
import unittest
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from support import CREDENTIALS, INFRA, Emulator, folder

# By the path that support makes.
# isort: split
import boto3
import yaml
from botocore.config import Config

from stacks import Stacks
from unsupported import Loader, reduced

NAME = "longhand-test"
ZONES = {"ZoneA": "us-east-1b", "ZoneB": "us-east-1d"}
DOMAIN = {
    "DomainName": "api.example.com",
    "DomainCertificateArn": "arn:aws:acm:us-east-1:000000000000:certificate/one",
}

# What expressions of CloudWatch's metric math need besides arithmetic, which is Python's too.
MATH = {
    "IF": lambda holds, then, other: then if holds else other,
    "FILL": lambda value, other: other if value is None else value,
}


@dataclass
class Part:
    """A template: what it gets besides the outputs of those before, and what is changed at its second deployment."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    folder: Path = INFRA

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.yaml"

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
            "MaxReadUnits": "1000",
            "MaxWriteUnits": "4000",
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
        {"ThrottlingRateLimit": "50", "CorsOrigins": "https://app.example.com", **DOMAIN},
    ),
    Part("alarms", {}, {"AlarmEmail": "operator@example.com", "WorkerMinTasks": "3", "MonthlyBudget": "100"}),
]


class Cloud:
    """An emulator, and the stacks in it."""

    def __init__(self, test: unittest.TestCase | type[unittest.TestCase], **settings: str):
        clean_up = test.addClassCleanup if isinstance(test, type) else test.addCleanup
        self.directory = folder(clean_up)
        self.endpoint = Emulator(clean_up, **settings).address
        self.outputs: dict[str, str] = {}

    def client(self, service: str, endpoint: str | None = None, **credentials: str):
        """A client with the root user's credentials, unless others are given."""
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

    def deploy(self, part: Part, template: str | None = None, **changed: str) -> list[str]:
        """Deploys as deploy.sh does; lines about what the emulator cannot do."""
        known = {"Name": NAME, **self.outputs, **part.parameters, **changed}
        given = {name: known[name] for name in part.template["Parameters"] if name in known}
        body, left_out = reduced(template or part.path.read_text(), given)
        stacks, name = Stacks(self, 0.1), self.stack(part)
        if change_set := stacks.change_set(name, body, given, {}):
            stacks.execute(change_set, [], list)
        self.outputs |= stacks.outputs(name)
        return [f"{part.name}: left out: {line}" for line in left_out]

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
