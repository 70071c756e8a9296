"""An environment's parameter file, the parameters of each stack, and the checks of both.

A key of the file is a template's parameter in capitals: API_TASKS is ApiTasks of each template that has it. A parameter
that is not in the file comes from the outputs of the stacks before, or has the template's default.
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
# In the order of deployment: each stack has outputs that later ones need. Images come first, since builds fail most.
ORDER = ["images", "code", "network", "data", "cache", "service", "gateway", "alarms"]
# The keys that only deploy.sh reads, the form of their values, and what it means.
OWN = {
    "AWS_REGION": ("[a-z0-9-]+", "a region, such as eu-central-1"),
    "AWS_ACCOUNT": (r"\d{12}", "the 12 digits of an account"),
    "CLOUDFORMATION_ROLE_ARN": ("arn:.+", "the ARN of a role"),
    "MIN_LAMBDA_CONCURRENCY": (r"\d{1,6}", "a whole number of at most 6 digits"),
    "PRIVATE_HOSTS": (".+", "host names, separated by commas"),
    "CACHE": ("none|valkey", "none or valkey"),
    "GATEWAY_TARGET": ("none|lambda|vpclink", "none, lambda or vpclink"),
}
ANY = (".*", "")
EXAMPLE = "example.com|123456789012"
# Parameters whose key or output has another name.
ALSO_CALLED = {"Target": "GatewayTarget", "ListenerArn": "LoadBalancerListenerArn"}
# The parameters that deploy.sh adds after a stack.
MADE = {"images": {"ApiImage", "WorkerImage"}, "code": {"CodeKey"}}
# Hosts that tasks reach only at public addresses.
PUBLIC = ("AUDIO_HOSTS", "CALLBACK_HOSTS")
# URLs that tasks call, and the prefix of the parameters (..Port, ..Cidr) of their rule in the security groups.
RULES = {"ASR_BASE_URL": "Asr", "REDIS_URL": "Redis", "OTLP_ENDPOINT": "Otlp"}
PORTS = {"https": 443, "http": 80, "rediss": 6379, "redis": 6379}


class Loader(yaml.SafeLoader):
    """Ignores CloudFormation's tags: only the names and parameters of a template are read."""


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
        # Comments count for CloudFormation's limit of 51,200 bytes.
        body = re.sub(r"(?m)^ *#.*\n", "", text)
        return cls(body, found.get("Parameters") or {}, found["Resources"], set(found.get("Outputs") or {}))

    def required(self) -> set[str]:
        return {name for name, asked in self.parameters.items() if "Default" not in asked}

    def fault(self, parameter: str, value: str) -> str | None:
        """Why CloudFormation would reject `value`."""
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
    """An address outside of AWS that tasks call. `host` is empty if `url` is not a URL."""

    key: str
    url: str
    host: str
    port: int


def parse_call(key: str, url: str) -> Call:
    try:
        parts = urlsplit(f"https://{url}" if key in PUBLIC and "://" not in url else url)
        return Call(key, url, parts.hostname or "", parts.port or PORTS[parts.scheme])
    except (ValueError, KeyError):
        return Call(key, url, "", 0)


def commas(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def ip(host: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def camel(key: str) -> str:
    return key.title().replace("_", "")


def capitals(parameter: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", parameter).upper()


def parse(text: str) -> tuple[dict[str, str], list[str]]:
    """The values of KEY=value lines, which have the shell's quotes but no expansion, and the faults of other lines."""
    values, faults = {}, []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        match = re.fullmatch("([A-Z][A-Z0-9_]*)=(.*)", "\n".join(words))
        if words and not match:
            faults.append(f"line {number} is not KEY=value: {line.strip()!r} (a value with blanks needs quotes)")
        elif match and match[1] in values:
            faults.append(f"line {number}: {match[1]} is there twice")
        elif match:
            values[match[1]] = match[2]
    return values, faults


@dataclass
class Environment:
    env: str
    values: dict[str, str]
    templates: dict[str, Template]

    @property
    def name(self) -> str:
        """The prefix of all stacks and resources."""
        return f"longhand-{self.env}"

    def stack(self, part: str) -> str:
        return f"{self.name}-{part}"

    def get(self, key: str, part: str = "service") -> str:
        """The file's value, or the template's default."""
        asked = self.templates[part].parameters if part in self.templates else {}
        return self.values.get(key, str(asked.get(camel(key), {}).get("Default", "")))

    @property
    def gateway(self) -> str:
        return self.values.get("GATEWAY_TARGET", "none")

    @property
    def parts(self) -> list[str]:
        """The stacks to deploy."""
        left_out = {
            "network": "VPC_ID" in self.values,
            "cache": self.values.get("CACHE", "none") == "none",
            "code": self.gateway != "lambda",
            "gateway": self.gateway == "none",
        }
        return [part for part in ORDER if not left_out.get(part)]

    def order(self, target: str) -> list[str]:
        """The stacks to deploy, in order: workers before the api. `target` is the present one of the gateway."""
        found = self.parts
        if target == "vpclink" and self.gateway == "lambda":
            # The gateway must stop using the load balancer before the service removes it.
            found.remove("gateway")
            found.insert(found.index("service"), "gateway")
        return found

    def asked(self, part: str) -> dict[str, dict]:
        """The parameters that `part` uses. The gateway's Auth is only for the function."""
        ignored = "Auth" if part == "gateway" and self.gateway == "vpclink" else ""
        return {name: about for name, about in self.templates[part].parameters.items() if name != ignored}

    def parameters(self, part: str, outputs: dict[str, str]) -> dict[str, str]:
        """The parameters of `part`: from the file, or else computed, or else an output of another stack."""
        given = {**outputs, **self.computed(), **{camel(key): value for key, value in self.values.items()}}
        named = {name: name if name in given else ALSO_CALLED.get(name) for name in self.asked(part)}
        return {name: given[source] for name, source in named.items() if source in given}

    def computed(self) -> dict[str, str]:
        values = {"Name": self.name, "CpuArchitecture": self.get("CPU_ARCHITECTURE")}
        values["ApiOn"] = "function" if self.gateway == "lambda" else "servers"
        if "CERTIFICATE_ARN" in self.values:
            values["ListenerPort"] = "443"
        # Rules of the security groups for the URLs of the file. Port 443 is always open.
        web = {443}
        for call in self.calls():
            if prefix := RULES.get(call.key):
                values |= {f"{prefix}Port": str(call.port), f"{prefix}Cidr": self.cidr(call.host)}
            else:
                web.add(call.port)
        others = web - {443} or web
        return values | {"WebFirstPort": str(min(others)), "WebLastPort": str(max(others))}

    def calls(self) -> list[Call]:
        # A function is outside of the VPC and needs no rule for the issuer.
        jwt = self.get("AUTH") == "jwt" and self.gateway != "lambda"
        found = [parse_call(key, self.values[key]) for key in (*RULES, *["JWT_JWKS_URL"] * jwt) if key in self.values]
        return found + [parse_call(key, host) for key in PUBLIC for host in commas(self.values.get(key, ""))]

    def private(self, host: str) -> bool:
        """Whether the network reaches `host` without the internet."""
        if found := ip(host):
            return found.is_private
        hosts = ["*.internal", *commas(self.values.get("PRIVATE_HOSTS", ""))]
        return any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in hosts)

    def cidr(self, host: str) -> str:
        """The possible addresses of `host`."""
        if not self.private(host):
            return "0.0.0.0/0"
        own = self.get("VPC_CIDR", "network")
        return own if not ip(host) or inside(host, own) else f"{host}/32"

    def overridden(self, outputs: dict[str, str]) -> list[str]:
        """Keys of the file that replace a stack's output, for example by a restored table."""
        return [key for key, value in self.values.items() if outputs.get(camel(key), value) != value]

    def faults(self) -> list[str]:
        """All faults that can be found without a call to AWS."""
        known = {"Name"}.union(*(template.parameters for template in self.templates.values()))
        faults = [] if "AWS_REGION" in self.values else ["AWS_REGION is missing: the region to deploy into"]
        for key, value in self.values.items():
            if key not in OWN and (camel(key) not in known or key == "NAME"):
                faults.append(
                    f"{key} is unknown: no template in infra/ has this parameter. Correct the name or remove the line"
                )
                continue
            form, meaning = OWN.get(key, ANY)
            if not re.fullmatch(form, value):
                faults.append(f"{key} is {value!r}; it has to be {meaning}")
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
                    faults.append(f"{key} is missing. infra/{part}.yaml needs it: {asked.get('Description', '')}")
                    coming.add(parameter)
            coming |= template.outputs | MADE.get(part, set())
        return list(dict.fromkeys(faults)) + self.relations()

    def relations(self) -> list[str]:
        """Values that contradict each other."""
        has, auth, behind = self.values.get, self.get("AUTH"), self.gateway != "none"
        needed = {
            "VPC_ID is set": has("VPC_ID") and ["PRIVATE_SUBNET_IDS"],
            "PRIVATE_SUBNET_IDS is set": has("PRIVATE_SUBNET_IDS") and ["VPC_ID"],
            "AUTH is jwt": auth == "jwt" and ["JWT_ISSUER", "JWT_AUDIENCE", "JWT_JWKS_URL"],
            "DOMAIN_NAME is set": has("DOMAIN_NAME") and ["DOMAIN_CERTIFICATE_ARN"],
            "LOAD_BALANCER_SCHEME is internet-facing": has("LOAD_BALANCER_SCHEME") == "internet-facing"
            and ["CERTIFICATE_ARN"],
            "CERTIFICATE_ARN is set": self.gateway == "vpclink" and has("CERTIFICATE_ARN") and ["LISTENER_SERVER_NAME"],
            "GATEWAY_TARGET is 'none'": not behind and ["CLIENT_CIDR"],
        }
        faults = [f"{why}, and {key} is missing" for why, keys in needed.items() for key in keys or [] if not has(key)]
        if auth != "jwt" and has("JWT_ISSUER") and behind and has("AUTHORIZER", "true") == "true":
            faults.append(f"AUTH is {auth}, but the gateway would require tokens of JWT_ISSUER: remove the JWT_ lines")
        caches = [key for key in ("REDIS_URL", "REDIS_URL_SECRET_ARN") if has(key)]
        caches += ["CACHE=valkey"] if has("CACHE") == "valkey" else []
        if len(caches) > 1:
            faults.append(f"{' and '.join(caches)} are set: choose one cache")
        own, nat = "VPC_ID" in self.values, has("INTERNET_EGRESS") == "nat"
        if has("LOAD_BALANCER_SCHEME") == "internet-facing" and not has("PUBLIC_SUBNET_IDS") and (own or not nat):
            remedy = "set PUBLIC_SUBNET_IDS" if own else "set INTERNET_EGRESS=nat"
            faults.append(f"LOAD_BALANCER_SCHEME is internet-facing, but there are no public subnets: {remedy}")
        if has("DOMAIN_NAME") and not behind:
            faults.append("DOMAIN_NAME needs a gateway; the name of a load balancer is LISTENER_SERVER_NAME")
        blanks = [key for key in ("CORS_ORIGINS", "UPLOAD_ORIGINS", "AUDIO_BUCKETS") if " " in has(key, "")]
        faults += [f"{key} has blanks: separate its values by commas only" for key in blanks]
        return faults + self.unreachable()

    def unreachable(self) -> list[str]:
        """URLs of the file that tasks cannot reach."""
        faults, closed = [], "VPC_ID" not in self.values and self.values.get("INTERNET_EGRESS", "none") == "none"
        for key, url, host, port in self.calls():
            prefix = RULES.get(key, "").upper()
            given, cidr = (self.values.get(f"{prefix}_{rest}") for rest in ("PORT", "CIDR"))
            if not host:
                faults.append(f"{key} is {url!r}, which is not a URL")
                continue
            if given and given != str(port):
                faults.append(f"{prefix}_PORT is {given}, and the port in {key} is {port}: remove {prefix}_PORT")
            if cidr and ip(host) and not inside(host, cidr):
                faults.append(f"{prefix}_CIDR is {cidr}, which does not include {host} of {key}")
            if closed and (key in PUBLIC or not self.private(host)):
                fault = f"{key} names {host} on the internet: set INTERNET_EGRESS=nat to reach it"
                hint = f". If it is inside the VPC or a peered one, set PRIVATE_HOSTS={host}"
                faults.append(fault + hint * (key not in PUBLIC))
        return faults

    def warnings(self) -> list[str]:
        """What is allowed, but probably not intended."""
        has, behind = self.values.get, self.gateway != "none"
        internal, unnamed = has("LOAD_BALANCER_SCHEME", "internal") == "internal", not has("LISTENER_SERVER_NAME")
        found = {
            "DOMAIN_NAME without HOSTED_ZONE_ID: point its DNS record to DomainTarget of the gateway's stack": (
                has("DOMAIN_NAME") and not has("HOSTED_ZONE_ID")
            ),
            "AUTH=none behind a gateway: everybody on the internet may call": behind and self.get("AUTH") == "none",
            "CERTIFICATE_ARN without LISTENER_SERVER_NAME: set this to a host name of the certificate, for HTTPS": (
                not behind and has("CERTIFICATE_ARN") and unnamed
            ),
            "no gateway: only clients with a route into the VPC reach the internal load balancer": not behind
            and internal,
        }
        return [warning for warning, holds in found.items() if holds]

    def too_few_environments(self, limit: int) -> list[str]:
        """A fault if a function would often be throttled with `limit` concurrent executions."""
        if self.gateway != "lambda" or limit >= int(self.values.get("MIN_LAMBDA_CONCURRENCY", "100")):
            return []
        about = f"this account allows {limit} concurrent Lambda executions, and each waiting client occupies one"
        accept = f"or accept the limit with MIN_LAMBDA_CONCURRENCY={limit}"
        return [f"{about}: request more (quota L-B99A9384), set GATEWAY_TARGET=vpclink, {accept}"]

    def placeholders(self) -> list[str]:
        examples = [(key, value) for key, value in self.values.items() if re.search(EXAMPLE, value)]
        return [f"{key} still has the value of the example: {value}" for key, value in examples]


def inside(host: str, cidr: str) -> bool:
    try:
        return ip(host) in ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return False


def load(env: str) -> tuple[Environment | None, list[str]]:
    if not re.fullmatch("[a-z][a-z0-9-]{0,20}", env):
        return None, [f"{env!r} is not a valid environment: up to 21 lower-case letters, digits and hyphens"]
    file = INFRA / "env" / f"{env}.env"
    if not file.exists():
        existing = ", ".join(sorted(path.stem for path in file.parent.glob("*.env")))
        return None, [
            f"{file} is missing (existing: {existing}). Copy infra/env/example.env, which describes the main keys"
        ]
    values, faults = parse(file.read_text())
    templates = {part: Template.read(INFRA / f"{part}.yaml") for part in ORDER if (INFRA / f"{part}.yaml").exists()}
    environment = Environment(env, {key: value for key, value in values.items() if value}, templates)
    return environment, [f"{file.name}: {fault}" for fault in [*faults, *environment.faults()]]
