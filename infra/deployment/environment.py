"""An environment's parameter file, and what each stack gets of it.

A key of the file is a template's parameter in capitals: API_TASKS is ApiTasks of every template that has one. What is
not in the file comes from the outputs of the stacks before, and else from the template's default.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from template import INFRA, LARGEST, Template

# In the order in which they are deployed: each gives the next what it needs.
ORDER = ["network", "images", "code", "data", "cache", "service", "gateway", "alarms"]
# The keys that are for deploy.sh itself, with what they can be.
CHOICES = {"CACHE": ("none", "valkey"), "GATEWAY_TARGET": ("none", "lambda", "vpclink")}
OWN = {"AWS_REGION", "AWS_ACCOUNT", *CHOICES}
# Parameters whose name is not that of the key or the output that they are filled with.
ALSO_CALLED = {"Target": "GatewayTarget", "ListenerArn": "LoadBalancerListenerArn"}
# What deploy.sh makes, once this stack is there.
MADE = {
    "images": {"ApiImage", "WorkerImage"},
    "code": {"CodeKey"},
}
# Without them something that is a URL of the public internet is not reached from private subnets.
PUBLIC = {
    "AUDIO_HOSTS": "audio is fetched from public addresses only",
    "CALLBACK_HOSTS": "webhooks are sent to public addresses only",
}


def camel(key: str) -> str:
    return "".join(word.capitalize() for word in key.split("_"))


def capitals(parameter: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", parameter).upper()


def parse(text: str) -> tuple[dict[str, str], list[str]]:
    """KEY=value lines as a shell reads them, less all expansion; and what is wrong with them."""
    values, faults = {}, []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        if not words:
            continue
        key, equals, value = words[0].partition("=")
        if len(words) > 1 or not equals or not re.fullmatch("[A-Z][A-Z0-9_]*", key):
            faults.append(f"line {number} is not KEY=value: {line.strip()!r} (a value with blanks needs quotes)")
        elif key in values:
            faults.append(f"line {number}: {key} is there twice")
        else:
            values[key] = value
    return values, faults


@dataclass
class Environment:
    env: str
    values: dict[str, str]
    templates: dict[str, Template]

    @property
    def name(self) -> str:
        """The prefix of every stack's and every resource's name."""
        return f"longhand-{self.env}"

    def stack(self, part: str) -> str:
        return f"{self.name}-{part}"

    @property
    def region(self) -> str:
        return self.values["AWS_REGION"]

    @property
    def gateway(self) -> str:
        return self.values.get("GATEWAY_TARGET") or "none"

    @property
    def parts(self) -> list[str]:
        """The stacks that are wanted, in order."""
        left_out = {
            "network": bool(self.values.get("VPC_ID")),
            "cache": (self.values.get("CACHE") or "none") == "none",
            "code": self.gateway != "lambda",
            "gateway": self.gateway == "none",
        }
        return [part for part in ORDER if not left_out.get(part)]

    def asked(self, part: str) -> dict[str, dict]:
        """The parameters of `part` that matter."""
        asked = self.templates[part].parameters
        if part == "gateway" and self.gateway == "vpclink":
            # It is the function's, and knows fewer values than the servers do.
            return {name: about for name, about in asked.items() if name != "Auth"}
        return asked

    def parameters(self, part: str, outputs: dict[str, str]) -> dict[str, str]:
        """What `part` is deployed with: the file's before the outputs of other stacks; the rest has its default."""
        given = {**outputs, **self.computed(), **{camel(key): value for key, value in self.values.items()}}
        found = {}
        for parameter in self.asked(part):
            value = given.get(parameter, given.get(ALSO_CALLED.get(parameter, "")))
            if value is not None:
                found[parameter] = value
        return found

    def filled(self, part: str, outputs: set[str]) -> set[str]:
        """The parameters of `part` that these outputs of other stacks would fill."""
        found = {name for name in self.asked(part) if name in outputs or ALSO_CALLED.get(name) in outputs}
        return {name for name in found if name not in self.parameters(part, {})}

    @property
    def architecture(self) -> str:
        """One for all: templates may have defaults of their own."""
        default = self.templates["service"].parameters["CpuArchitecture"]["Default"]
        return self.values.get("CPU_ARCHITECTURE", default)

    def computed(self) -> dict[str, str]:
        values = {"Name": self.name, "CpuArchitecture": self.architecture}
        if self.values.get("CERTIFICATE_ARN"):
            values["ListenerPort"] = "443"
        return values

    def overridden(self, outputs: dict[str, str]) -> list[str]:
        """Keys of the file that take the place of a stack's output: a table restored from a backup, for one."""
        return [key for key, value in self.values.items() if outputs.get(camel(key), value) != value]

    def faults(self) -> list[str]:
        """Everything that can be told without asking AWS."""
        values, parts = self.values, self.parts
        faults = []
        if not values.get("AWS_REGION"):
            faults.append("AWS_REGION is missing: the region to deploy into")
        for key, allowed in CHOICES.items():
            if values.get(key) and values[key] not in allowed:
                faults.append(f"{key} is {values[key]!r}; it can be {', '.join(allowed)}")

        known = {parameter for template in self.templates.values() for parameter in template.parameters} - {"Name"}
        for key in values:
            if key not in OWN and camel(key) not in known:
                faults.append(f"{key} is a parameter of no template in infra/")
        for key in sorted(OWN - set(CHOICES) - {"AWS_REGION"}):
            if key == "AWS_ACCOUNT" and values.get(key) and not re.fullmatch(r"\d{12}", values[key]):
                faults.append(f"{key} is {values[key]!r}; it has to be an account's twelve digits")

        coming = {"Name"}
        told = set()
        for part in parts:
            if part not in self.templates:
                faults.append(f"infra/{part}.yaml is missing")
                continue
            template = self.templates[part]
            if len(template.body.encode()) > LARGEST:
                faults.append(f"infra/{part}.yaml has more than the {LARGEST} bytes that CloudFormation takes")
            for parameter, asked in self.asked(part).items():
                key = capitals(ALSO_CALLED.get(parameter, parameter))
                value = values.get(key)
                if value is not None:
                    fault = template.fault(parameter, value)
                    if fault and (key, fault) not in told:
                        told.add((key, fault))
                        faults.append(f"{key} {fault}")
                elif parameter in template.required() and not {parameter, camel(key)} & coming and key not in told:
                    told.add(key)
                    faults.append(f"{key} is missing, which infra/{part}.yaml needs: {asked.get('Description', '')}")
            coming |= template.outputs | MADE.get(part, set())
        return faults + self.relations()

    def strangers(self, identity: dict) -> list[str]:
        """Credentials for another account than the file names."""
        wanted, found = self.values.get("AWS_ACCOUNT"), identity.get("Account")
        if wanted and found and wanted != found:
            return [f"AWS_ACCOUNT is {wanted}, and the credentials are for {found}"]
        return []

    def placeholders(self) -> list[str]:
        """What nobody has filled in yet."""
        return [
            f"{key} is still the example's: {value}"
            for key, value in self.values.items()
            if "example.com" in value or "123456789012" in value
        ]

    def relations(self) -> list[str]:
        values = self.values
        faults = []
        if values.get("VPC_ID") and not values.get("PRIVATE_SUBNET_IDS"):
            faults.append("VPC_ID names a network, and PRIVATE_SUBNET_IDS is missing: its subnets, commas between")
        if values.get("PRIVATE_SUBNET_IDS") and not values.get("VPC_ID"):
            faults.append("PRIVATE_SUBNET_IDS names subnets, and VPC_ID is missing: the network that they are in")
        auth = values.get("AUTH", "jwt")
        if auth == "jwt":
            for key in ("JWT_ISSUER", "JWT_AUDIENCE", "JWT_JWKS_URL"):
                if not values.get(key):
                    faults.append(f"AUTH is jwt, and {key} is missing")
        elif values.get("JWT_ISSUER") and self.gateway != "none" and values.get("AUTHORIZER", "true") == "true":
            faults.append(
                f"AUTH is {auth}, and JWT_ISSUER is set: the gateway would turn away all that have no token of it"
            )
        if values.get("CACHE") == "valkey" and values.get("REDIS_URL"):
            faults.append("REDIS_URL names a cache, and CACHE=valkey would make one: one of them is too many")
        if self.gateway == "vpclink" and values.get("CERTIFICATE_ARN") and not values.get("LISTENER_SERVER_NAME"):
            faults.append(
                "CERTIFICATE_ARN is set: the gateway needs LISTENER_SERVER_NAME, the name in that certificate"
            )
        if not values.get("VPC_ID") and values.get("INTERNET_EGRESS", "none") == "none":
            for key, why in PUBLIC.items():
                if values.get(key):
                    faults.append(f"{key} is set, and {why}, which INTERNET_EGRESS=none has no way to")
        return faults

    def warnings(self) -> list[str]:
        """What is allowed, and yet may not be what was meant."""
        values, warnings = self.values, []
        if not values.get("VPC_ID") and values.get("INTERNET_EGRESS", "none") == "none":
            for key in ("ASR_BASE_URL", "JWT_JWKS_URL"):
                if values.get(key, "").startswith("https://"):
                    warnings.append(
                        f"INTERNET_EGRESS=none: {key} is reached only inside the VPC, or where it is peered"
                    )
        if values.get("AUTH") == "none" and self.gateway != "none":
            warnings.append("AUTH=none behind a gateway on the internet: whoever finds its address may do everything")
        if self.gateway == "none" and values.get("CERTIFICATE_ARN") and not values.get("LISTENER_SERVER_NAME"):
            warnings.append(
                "CERTIFICATE_ARN without LISTENER_SERVER_NAME, the name in that certificate: the test at the end will "
                "call the load balancer by AWS's name for it, and refuse the certificate"
            )
        if self.gateway == "none" and values.get("LOAD_BALANCER_SCHEME", "internal") == "internal":
            warnings.append(
                "no gateway: the load balancer is internal, and only the VPC reaches it, as does the test at the end"
            )
        return warnings


def load(env: str, infra: Path = INFRA) -> tuple[Environment | None, list[str]]:
    if not re.fullmatch("[a-z][a-z0-9-]{0,20}", env):
        return None, [f"{env!r} cannot name an environment: lower-case letters, digits and hyphens, 21 at most"]
    file = infra / "env" / f"{env}.env"
    if not file.exists():
        there = sorted(path.stem for path in (infra / "env").glob("*.env"))
        return None, [
            f"{file} is not there. Environments: {', '.join(there) or 'none'}; "
            f"copy infra/env/example.env, which says what can be set"
        ]
    values, faults = parse(file.read_text())
    templates = {part: Template.read(part, infra) for part in ORDER if (infra / f"{part}.yaml").exists()}
    environment = Environment(env, {key: value for key, value in values.items() if value != ""}, templates)
    return environment, [f"{file.name}: {fault}" for fault in [*faults, *environment.faults()]]
