"""An environment's parameter file, what each stack gets of it, and what contradicts itself in it.

A key of the file is a template's parameter in capitals: API_TASKS is ApiTasks of every template that has one. What is
not in the file comes from the outputs of the stacks before, and else from the template's default.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import yaml

INFRA = Path(__file__).resolve().parents[1]
# In the order of deployment: each gives the next what it needs. What programs are built into comes first, since a build
# fails more easily than a stack.
ORDER = ["images", "code", "network", "data", "cache", "service", "gateway", "alarms"]
# The keys that are for deploy.sh itself, with the form of their values.
OWN = {
    "AWS_REGION": "[a-z0-9-]+",
    "AWS_ACCOUNT": r"\d{12}",
    "CLOUDFORMATION_ROLE_ARN": "arn:.+",
    "MIN_LAMBDA_CONCURRENCY": r"\d{1,6}",
    "PRIVATE_HOSTS": ".+",
    "CACHE": "none|valkey",
    "GATEWAY_TARGET": "none|lambda|vpclink",
}
# Parameters whose name is not that of the key or the output that they are filled with.
ALSO_CALLED = {"Target": "GatewayTarget", "ListenerArn": "LoadBalancerListenerArn"}
# What deploy.sh makes once this stack exists.
MADE = {"images": {"ApiImage", "WorkerImage"}, "code": {"CodeKey"}}
# Tasks connect to these at public addresses only.
PUBLIC = ("AUDIO_HOSTS", "CALLBACK_HOSTS")
# URLs that tasks call, with the prefix of the parameters (..Port, ..Cidr) of their rule in the security groups.
RULES = {"ASR_BASE_URL": "Asr", "REDIS_URL": "Redis", "OTLP_ENDPOINT": "Otlp"}
PORTS = {"https": 443, "http": 80, "rediss": 6379, "redis": 6379}


class Loader(yaml.SafeLoader):
    """Reads names and parameters of a template; the values of CloudFormation's tags are not needed."""


Loader.add_multi_constructor("!", lambda *_: None)


@dataclass
class Template:
    body: str
    parameters: dict[str, dict]
    resources: dict[str, dict]
    outputs: set[str]

    @classmethod
    def read(cls, file: Path) -> Template:
        text = file.read_text()
        found = yaml.load(text, Loader)
        # CloudFormation counts comments.
        body = re.sub(r"(?m)^ *#.*\n", "", text)
        return cls(body, found.get("Parameters") or {}, found["Resources"], set(found.get("Outputs") or {}))

    def required(self) -> set[str]:
        return {name for name, asked in self.parameters.items() if "Default" not in asked}

    def fault(self, parameter: str, value: str) -> str | None:
        """What CloudFormation would refuse about `value`, before anything is sent to it."""
        asked = self.parameters[parameter]
        allowed = [str(one) for one in asked.get("AllowedValues", [])]
        if allowed and value not in allowed:
            return f"is {value!r}; it can be {', '.join(one or '(empty)' for one in allowed)}"
        if asked["Type"] == "Number":
            if not re.fullmatch(r"-?\d+(\.\d+)?", value):
                return f"is {value!r}, which is not a number"
            lowest, highest = asked.get("MinValue", "-inf"), asked.get("MaxValue", "inf")
            if not float(lowest) <= float(value) <= float(highest):
                return f"is {value}; it has to be from {lowest} to {highest}"
        pattern = asked.get("AllowedPattern", ".*")
        if not re.fullmatch(pattern, value):
            return f"is {value!r}; it has to be {asked.get('ConstraintDescription') or f'of the form {pattern}'}"
        return None


class Call(NamedTuple):
    """An address outside of AWS that tasks call, and the key that names it. Without a host it is not a URL."""

    key: str
    url: str
    host: str
    port: int

    @classmethod
    def of(cls, key: str, url: str) -> Call:
        try:
            parts = urlsplit(f"https://{url}" if key in PUBLIC and "://" not in url else url)
            return cls(key, url, parts.hostname or "", parts.port or PORTS[parts.scheme])
        except (ValueError, KeyError):
            return cls(key, url, "", 0)


def commas(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def ip(host: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def camel(key: str) -> str:
    return "".join(word.capitalize() for word in key.split("_"))


def capitals(parameter: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", parameter).upper()


def parse(text: str) -> tuple[dict[str, str], list[str]]:
    """KEY=value lines as a shell reads them, without any expansion; and the faults of the others."""
    values, faults = {}, []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        key, equals, value = (words or [""])[0].partition("=")
        if words and (len(words) > 1 or not equals or not re.fullmatch("[A-Z][A-Z0-9_]*", key)):
            faults.append(f"line {number} is not KEY=value: {line.strip()!r} (a value with blanks needs quotes)")
        elif key in values:
            faults.append(f"line {number}: {key} is there twice")
        elif words:
            values[key] = value
    return values, faults


@dataclass
class Environment:
    env: str
    values: dict[str, str]
    templates: dict[str, Template]

    @property
    def name(self) -> str:
        """The prefix of the names of all stacks and resources."""
        return f"longhand-{self.env}"

    def stack(self, part: str) -> str:
        return f"{self.name}-{part}"

    def get(self, key: str, part: str = "service") -> str:
        """The file's value, else the template's default."""
        asked = self.templates[part].parameters if part in self.templates else {}
        return self.values.get(key, str(asked.get(camel(key), {}).get("Default", "")))

    @property
    def gateway(self) -> str:
        return self.values.get("GATEWAY_TARGET", "none")

    @property
    def parts(self) -> list[str]:
        """The stacks that are wanted, in order."""
        left_out = {
            "network": "VPC_ID" in self.values,
            "cache": self.values.get("CACHE", "none") == "none",
            "code": self.gateway != "lambda",
            "gateway": self.gateway == "none",
        }
        found = [part for part in ORDER if not left_out.get(part)]
        if self.gateway == "lambda":
            # The gateway has to let go of the load balancer before the service drops it.
            found.remove("gateway")
            found.insert(found.index("service"), "gateway")
        return found

    def asked(self, part: str) -> dict[str, dict]:
        """The parameters of `part` that matter. The gateway's Auth is the function's."""
        asked = self.templates[part].parameters
        ignored = "Auth" if part == "gateway" and self.gateway == "vpclink" else ""
        return {name: about for name, about in asked.items() if name != ignored}

    def parameters(self, part: str, outputs: dict[str, str]) -> dict[str, str]:
        """What `part` is deployed with: the file's before the outputs of other stacks; the rest has its default."""
        given = {**outputs, **self.computed(), **{camel(key): value for key, value in self.values.items()}}
        named = {name: name if name in given else ALSO_CALLED.get(name) for name in self.asked(part)}
        return {name: given[source] for name, source in named.items() if source in given}

    def computed(self) -> dict[str, str]:
        values = {"Name": self.name, "CpuArchitecture": self.get("CPU_ARCHITECTURE")}
        values["ApiOn"] = "function" if self.gateway == "lambda" else "servers"
        if "CERTIFICATE_ARN" in self.values:
            values["ListenerPort"] = "443"
        # Rules that let tasks call what the file names; 443 is let out everywhere by itself.
        web = {443}
        for call in self.calls():
            if prefix := RULES.get(call.key):
                values |= {f"{prefix}Port": str(call.port), f"{prefix}Cidr": self.cidr(call.host)}
            else:
                web.add(call.port)
        others = web - {443} or web
        return values | {"WebFirstPort": str(min(others)), "WebLastPort": str(max(others))}

    def calls(self) -> list[Call]:
        keys = [*RULES]
        if self.get("AUTH") == "jwt" and self.gateway != "lambda":
            # A function is not in the VPC: it reaches the issuer by itself.
            keys.append("JWT_JWKS_URL")
        found = [Call.of(key, self.values[key]) for key in keys if key in self.values]
        return found + [Call.of(key, host) for key in PUBLIC for host in commas(self.values.get(key, ""))]

    def private(self, host: str) -> bool:
        """Whether the network reaches `host` without the internet."""
        if found := ip(host):
            return found.is_private
        hosts = ["*.internal", *commas(self.values.get("PRIVATE_HOSTS", ""))]
        return any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in hosts)

    def cidr(self, host: str) -> str:
        """The addresses that `host` may have."""
        if not self.private(host):
            return "0.0.0.0/0"
        own = self.get("VPC_CIDR", "network")
        return own if not ip(host) or inside(host, own) else f"{host}/32"

    def overridden(self, outputs: dict[str, str]) -> list[str]:
        """Keys of the file that take the place of a stack's output: a table restored from a backup, for one."""
        return [key for key, value in self.values.items() if outputs.get(camel(key), value) != value]

    # ---- faults -----------------------------------------------------------------------------------------------------

    def faults(self) -> list[str]:
        """All that can be found without asking AWS."""
        known = {"Name"}.union(*(template.parameters for template in self.templates.values()))
        faults = [] if "AWS_REGION" in self.values else ["AWS_REGION is missing: the region to deploy into"]
        for key, value in self.values.items():
            if key not in OWN and (camel(key) not in known or key == "NAME"):
                faults.append(f"{key} is a parameter of no template in infra/")
            elif not re.fullmatch(OWN.get(key, ".*"), value):
                faults.append(f"{key} is {value!r}; it can be {OWN[key].replace('|', ', ')}")
        coming = {"Name"}
        for part in self.parts:
            if part not in self.templates:
                faults.append(f"infra/{part}.yaml is missing")
                continue
            template = self.templates[part]
            for parameter, asked in self.asked(part).items():
                key = capitals(ALSO_CALLED.get(parameter, parameter))
                if key in self.values:
                    fault = template.fault(parameter, self.values[key])
                    faults += [f"{key} {fault}"] if fault else []
                elif parameter in template.required() and not {parameter, camel(key)} & coming:
                    faults.append(f"{key} is missing, which infra/{part}.yaml needs: {asked.get('Description', '')}")
                    coming.add(parameter)
            coming |= template.outputs | MADE.get(part, set())
        return list(dict.fromkeys(faults)) + self.relations()

    def relations(self) -> list[str]:
        """Values that contradict each other."""
        has, auth, behind = self.values.get, self.get("AUTH"), self.gateway != "none"
        own_certificate = self.gateway == "vpclink" and has("CERTIFICATE_ARN")
        needed = [
            (has("VPC_ID"), "VPC_ID names a network", "PRIVATE_SUBNET_IDS", "its subnets, commas between"),
            (has("PRIVATE_SUBNET_IDS"), "PRIVATE_SUBNET_IDS names subnets", "VPC_ID", "their network"),
            *(
                (auth == "jwt", "AUTH is jwt", f"JWT_{name}", "its issuer's")
                for name in ("ISSUER", "AUDIENCE", "JWKS_URL")
            ),
            (has("DOMAIN_NAME"), "DOMAIN_NAME is set", "DOMAIN_CERTIFICATE_ARN", "in ACM, in this region"),
            (own_certificate, "CERTIFICATE_ARN is set", "LISTENER_SERVER_NAME", "the name in it, for the gateway"),
            (not behind, "GATEWAY_TARGET is 'none'", "CLIENT_CIDR", "who may call, 10.0.0.0/8 for example"),
        ]
        faults = [f"{why}, and {key} is missing: {what}" for asked, why, key, what in needed if asked and not has(key)]
        if auth != "jwt" and has("JWT_ISSUER") and behind and has("AUTHORIZER", "true") == "true":
            faults.append(f"AUTH is {auth}, and JWT_ISSUER is set: the gateway would refuse all without its token")
        caches = [key for key in ("REDIS_URL", "REDIS_URL_SECRET_ARN") if has(key)]
        caches += ["CACHE=valkey"] if has("CACHE") == "valkey" else []
        if len(caches) > 1:
            faults.append(f"{' and '.join(caches)} name a cache each: one of them is too many")
        if has("DOMAIN_NAME") and not behind:
            faults.append("DOMAIN_NAME is a gateway's; the load balancer's own name is LISTENER_SERVER_NAME")
        blanks = [key for key in ("CORS_ORIGINS", "UPLOAD_ORIGINS", "AUDIO_BUCKETS") if " " in has(key, "")]
        faults += [f"{key} has blanks, which AWS would take for a part of the names: commas alone" for key in blanks]
        return faults + self.unreachable()

    def unreachable(self) -> list[str]:
        """What the file lets tasks call, and the network does not."""
        faults, closed = [], "VPC_ID" not in self.values and self.values.get("INTERNET_EGRESS", "none") == "none"
        for key, url, host, port in self.calls():
            prefix = RULES.get(key, "").upper()
            given, cidr = (self.values.get(f"{prefix}_{rest}") for rest in ("PORT", "CIDR"))
            if not host:
                faults.append(f"{key} is {url!r}, which is not a URL")
                continue
            if given and given != str(port):
                faults.append(f"{prefix}_PORT is {given}, and the port in {key} is {port}: leave it out")
            if cidr and ip(host) and not inside(host, cidr):
                faults.append(f"{prefix}_CIDR is {cidr}, which does not include {host} of {key}")
            if closed and (key in PUBLIC or not self.private(host)):
                fault = f"{key} names {host} on the internet, and INTERNET_EGRESS=none has no way to it"
                hint = f". If the network reaches it without the internet: PRIVATE_HOSTS={host}"
                faults.append(fault + hint * (key not in PUBLIC))
        return faults

    def warnings(self) -> list[str]:
        """What is allowed, and yet may not be what was meant."""
        has, behind = self.values.get, self.gateway != "none"
        leads_nowhere = (
            "DOMAIN_NAME without HOSTED_ZONE_ID: it leads nowhere until you make its record, to DomainTarget"
        )
        foreign = "CERTIFICATE_ARN without LISTENER_SERVER_NAME: AWS's own name for the load balancer is not in it"
        internal = has("LOAD_BALANCER_SCHEME", "internal") == "internal"
        found = [
            (has("DOMAIN_NAME") and not has("HOSTED_ZONE_ID"), f"{leads_nowhere} of the gateway's stack"),
            (
                behind and self.get("AUTH") == "none",
                "AUTH=none behind a gateway: all on the internet may do everything",
            ),
            (not behind and has("CERTIFICATE_ARN") and not has("LISTENER_SERVER_NAME"), foreign),
            (not behind and internal, "no gateway: the load balancer is internal, and reached inside the VPC alone"),
        ]
        return [warning for holds, warning in found if holds]

    def about_account(self, identity: dict) -> list[str]:
        wanted, found = self.values.get("AWS_ACCOUNT"), identity.get("Account")
        return [f"AWS_ACCOUNT is {wanted}, and the credentials are for {found}"] if wanted and found != wanted else []

    def too_few_environments(self, limit: int) -> list[str]:
        """Whether a function would often be refused, where the account runs `limit` of them at once."""
        if self.gateway != "lambda" or limit >= int(self.values.get("MIN_LAMBDA_CONCURRENCY", "100")):
            return []
        return [
            f"this account runs {limit} Lambda environments at once, and each waiting client holds one: others would "
            "get 503. Ask for more (quota L-B99A9384), take GATEWAY_TARGET=vpclink, or say that it is enough: "
            f"MIN_LAMBDA_CONCURRENCY={limit}"
        ]

    def placeholders(self) -> list[str]:
        """What nobody has filled in yet."""
        examples = [(key, value) for key, value in self.values.items() if re.search("example.com|123456789012", value)]
        return [f"{key} is still the example's: {value}" for key, value in examples]


def inside(host: str, cidr: str) -> bool:
    try:
        return ip(host) in ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return False


def load(env: str) -> tuple[Environment | None, list[str]]:
    if not re.fullmatch("[a-z][a-z0-9-]{0,20}", env):
        return None, [f"{env!r} cannot name an environment: lower-case letters, digits and hyphens, 21 at most"]
    file = INFRA / "env" / f"{env}.env"
    if not file.exists():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.env")))
        return None, [
            f"{file} is missing (there are: {there}). Copy infra/env/example.env, which lists what can be set"
        ]
    values, faults = parse(file.read_text())
    templates = {part: Template.read(INFRA / f"{part}.yaml") for part in ORDER if (INFRA / f"{part}.yaml").exists()}
    environment = Environment(env, {key: value for key, value in values.items() if value}, templates)
    return environment, [f"{file.name}: {fault}" for fault in [*faults, *environment.faults()]]
