"""Removes from infra/'s templates what the emulator does not support, by name and with a reason, so that the rest of a
stack can be rehearsed. The templates themselves have nothing for emulators.
"""

from __future__ import annotations

import json
import re

import yaml


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's tags in their long form: `!Ref X` becomes `{"Ref": X}`."""


def tagged(loader: Loader, suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", tagged)
# A date without quotes, such as 2012-10-17, stays a string.
Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))

# Types that ministack 1.5.33 rejects as "Unrecognized resource types", and what a rehearsal lacks.
# TYPE.NAME is a property that it rejects.
UNSUPPORTED = {
    "AWS::ApiGatewayV2::VpcLink": "no private networks: the gateway reaches the api only as a function",
    "AWS::ApplicationAutoScaling::ScalableTarget": "no Application Auto Scaling: the number of tasks is constant",
    "AWS::ApplicationAutoScaling::ScalingPolicy": "no Application Auto Scaling: the number of tasks is constant",
    "AWS::Budgets::Budget": "no budgets",
    "AWS::CloudWatch::Alarm.Metrics": "no metric math: only alarms on single metrics",
    "AWS::EC2::EIP": "no private networks: all addresses are local",
    "AWS::EC2::NatGateway": "no private networks: all addresses are local",
    "AWS::EC2::SecurityGroupEgress": "no firewalls: all ports are open",
    "AWS::EC2::SecurityGroupIngress": "no firewalls: all ports are open",
}


def reduced(
    text: str, parameters: dict[str, str] | None = None, lacking: dict[str, str] = UNSUPPORTED
) -> tuple[str, list[str]]:
    """The template without the resources of a `lacking` type, and without resources and outputs that refer to them; and
    a line for each removed resource. A template without such resources is returned unchanged."""
    if not any(kind.split(".")[0] in text for kind in lacking):
        return text, []
    template = yaml.load(text, Loader)
    made, outputs = effective(template, parameters or {})
    left_out = {}
    for name, resource in made.items():
        kind = resource["Type"]
        for key in (kind, *(f"{kind}.{given}" for given in resource.get("Properties", {}))):
            if key in lacking:
                left_out[name] = f"{key} {name}: {lacking[key]}"
    if not left_out:
        return text, []
    while more := {name: of for name in made.keys() - left_out if (of := references(made[name]) & left_out.keys())}:
        for name, missing in more.items():
            left_out[name] = f"{made[name]['Type']} {name}: it needs {', '.join(sorted(missing))}"
    kept = {name: resource for name, resource in template["Resources"].items() if name not in left_out}
    for resource in kept.values():
        # Dependencies on removed resources are removed, too.
        after = [name for name in listed(resource.pop("DependsOn", [])) if name not in left_out]
        if after:
            resource["DependsOn"] = after
    kept_outputs = {
        name: output
        for name, output in template.get("Outputs", {}).items()
        if not references(outputs.get(name)) & left_out.keys()
    }
    return json.dumps({**template, "Resources": kept, "Outputs": kept_outputs}), list(left_out.values())


def effective(template: dict, parameters: dict[str, str]) -> tuple[dict, dict]:
    """The resources and outputs that exist with these parameters, each `Fn::If` replaced by its result."""
    values = {name: str(asked.get("Default", "")) for name, asked in template.get("Parameters", {}).items()}
    values |= parameters

    def value(of: object) -> object:
        return values.get(of["Ref"], of) if isinstance(of, dict) and "Ref" in of else of

    def holds(condition: str | dict) -> bool:
        if isinstance(condition, str):
            return holds(template["Conditions"][condition])
        [(function, given)] = condition.items()
        match function:
            case "Condition":
                return holds(given)
            case "Fn::Not":
                return not holds(given[0])
            case "Fn::And":
                return all(map(holds, given))
            case "Fn::Or":
                return any(map(holds, given))
            case "Fn::Equals":
                return value(given[0]) == value(given[1])
        raise ValueError(f"conditions with {function} are not supported")

    def chosen(of: object) -> object:
        if isinstance(of, list):
            return [chosen(one) for one in of]
        if not isinstance(of, dict):
            return of
        if of.keys() == {"Fn::If"}:
            condition, then, otherwise = of["Fn::If"]
            return chosen(then if holds(condition) else otherwise)
        return {key: chosen(inner) for key, inner in of.items()}

    def there(section: dict) -> dict:
        return {name: chosen(one) for name, one in section.items() if "Condition" not in one or holds(one["Condition"])}

    return there(template["Resources"]), there(template.get("Outputs", {}))


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def references(value: object) -> set[str]:
    """The names that `value` refers to, by Ref, GetAtt or Sub."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, inner in value.items():
        if key == "Ref":
            found.add(inner)
        elif key == "Fn::GetAtt":
            found.add(inner[0] if isinstance(inner, list) else inner.split(".")[0])
        elif key == "Fn::Sub":
            found |= set(re.findall(r"\$\{([A-Za-z0-9]+)[.}]", inner if isinstance(inner, str) else inner[0]))
            found |= references(inner)
        elif key != "DependsOn":
            found |= references(inner)
    return found
