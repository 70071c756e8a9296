"""Templates as they stand in infra/: what they ask for, and whether values are what they take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

INFRA = Path(__file__).resolve().parents[1]
# CloudFormation takes no more than this in a call; larger ones would have to go through a bucket.
LARGEST = 51_200


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's tags, of which nothing here needs the meaning: `!Ref X` becomes `{"Ref": X}`, say."""


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
# A date such as "2012-10-17" without quotes stays what it says.
Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))


@dataclass
class Template:
    name: str
    body: str
    parameters: dict[str, dict]
    resources: dict[str, dict]
    outputs: set[str]

    @classmethod
    def read(cls, name: str, infra: Path = INFRA) -> Template:
        return cls.parse(name, (infra / f"{name}.yaml").read_text())

    @classmethod
    def parse(cls, name: str, body: str) -> Template:
        document = yaml.load(body, Loader)
        return cls(
            name=name,
            body=body,
            parameters=document.get("Parameters") or {},
            resources=document["Resources"],
            outputs=set(document.get("Outputs") or {}),
        )

    def required(self) -> set[str]:
        return {parameter for parameter, asked in self.parameters.items() if "Default" not in asked}

    def fault(self, parameter: str, value: str) -> str | None:
        """What CloudFormation would say of `value`, before anything was sent to it."""
        asked = self.parameters[parameter]
        why = asked.get("ConstraintDescription")
        if "AllowedValues" in asked:
            allowed = [str(one) for one in asked["AllowedValues"]]
            if value not in allowed:
                return f"is {value!r}; it can be {', '.join(one or '(empty)' for one in allowed)}"
        if asked.get("Type") == "Number":
            try:
                number = float(value)
            except ValueError:
                return f"is {value!r}, which is no number"
            for bound, outside, word in (
                ("MinValue", number < float(asked.get("MinValue", number)), "at least"),
                ("MaxValue", number > float(asked.get("MaxValue", number)), "at most"),
            ):
                if outside:
                    return f"is {value}; it has to be {word} {asked[bound]}"
        pattern = asked.get("AllowedPattern")
        if pattern and not re.fullmatch(pattern, value):
            return f"is {value!r}; it has to be {why or f'of the form {pattern}'}"
        for bound, outside, word in (
            ("MinLength", len(value) < int(asked.get("MinLength", 0)), "at least"),
            ("MaxLength", len(value) > int(asked.get("MaxLength", len(value))), "at most"),
        ):
            if outside:
                return f"is {value!r}; it has to have {word} {asked[bound]} characters"
        return None
