"""What the local emulator cannot do of the templates: left out of them, each by name, so that the rest can be rehearsed."""

from __future__ import annotations

import json

import yaml
from template import Loader

# ministack 1.5.33 fails a stack that has one of these.
LACKS = {
    "AWS::ApiGatewayV2::VpcLink",
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::EC2::EIP",
    "AWS::EC2::FlowLog",
    "AWS::EC2::NatGateway",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::ECS::ClusterCapacityProviderAssociations",
    "AWS::ElastiCache::ServerlessCache",
}


def reduced(body: str) -> tuple[str, list[str]]:
    """The template without what the emulator lacks, and what that is. What refers to such a thing goes too."""
    document = yaml.load(body, Loader)
    resources = document["Resources"]
    gone = {name for name, resource in resources.items() if resource["Type"] in LACKS}
    gone |= {name for name, resource in resources.items() if metric_math(resource)}
    while True:
        more = {name for name, resource in resources.items() if name not in gone and refers(resource, gone)}
        if not more:
            break
        gone |= more
    said = [
        f"{resource['Type']} {name}" + (f" (where {resource['Condition']})" if "Condition" in resource else "")
        for name, resource in resources.items()
        if name in gone
    ]
    document["Resources"] = {name: resource for name, resource in resources.items() if name not in gone}
    outputs = document.get("Outputs", {})
    document["Outputs"] = {name: output for name, output in outputs.items() if not refers(output, gone)}
    return json.dumps(document), said


def metric_math(resource: dict) -> bool:
    return resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in resource["Properties"]


def refers(value: object, names: set[str]) -> bool:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("Ref", "DependsOn") and (inner in names if isinstance(inner, str) else names & set(inner)):
                return True
            if key == "Fn::GetAtt" and inner[0] in names:
                return True
            if key == "Fn::Sub":
                text = inner if isinstance(inner, str) else inner[0]
                if any(f"${{{name}}}" in text or f"${{{name}." in text for name in names):
                    return True
            if refers(inner, names):
                return True
    if isinstance(value, list):
        return any(refers(inner, names) for inner in value)
    return False
