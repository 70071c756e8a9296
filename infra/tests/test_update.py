"""An update of a deployment of 0.1.0, whose templates are kept in fixtures/, replaces nothing that holds data."""

from __future__ import annotations

import unittest
from dataclasses import replace
from pathlib import Path

from cloud import PARTS, Cloud
from test_templates import NEW_EACH_TIME, check_marks, leave_marks, what_stands
from unsupported import effective

# By the path that support makes.
# isort: split
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

BEFORE = [replace(part, folder=Path(__file__).parent / "fixtures" / "0.1.0") for part in PARTS]
WAYS = ("lambda", "vpclink")


def create_only(kind: str) -> set[str]:
    """The properties that CloudFormation cannot change without making a new resource; of nested ones the first name."""
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    return {path.split("/")[2] for path in schema.get("createOnlyProperties", [])}


class Update(unittest.TestCase):
    def test_no_property_that_only_a_new_resource_can_have_is_changed(self):
        # As they are deployed with the same environment file, by a function or by servers.
        outputs = {name: "of a stack before" for part in [*BEFORE, *PARTS] for name in part.template["Outputs"]}
        gone, replaced = set(), set()
        for old, new, target in [(*pair, way) for pair in zip(BEFORE, PARTS, strict=True) for way in WAYS]:
            given = {**outputs, **new.parameters, **({"Target": target} if new.name == "gateway" else {})}
            before, after = (effective(part.template, given)[0] for part in (old, new))
            for name, resource in before.items():
                other = after.get(name)
                if other is None:
                    gone.add((old.name, name))
                elif resource["Type"] not in NEW_EACH_TIME and (
                    resource["Type"] != other["Type"]
                    or any(
                        resource["Properties"].get(one) != other["Properties"].get(one)
                        for one in create_only(resource["Type"])
                    )
                ):
                    replaced.add((old.name, name))
        self.assertEqual((gone, replaced), (set(), set()))

    def test_a_deployment_of_0_1_0_is_updated_with_all_that_is_in_it(self):
        cloud = Cloud(self)
        cloud.prepare()
        secret = cloud.outputs["SecretArn"]
        for part in BEFORE:
            cloud.deploy(part)
        marks, standing = leave_marks(cloud), what_stands(cloud)
        cloud.outputs = {"SecretArn": secret}
        for part in PARTS:
            cloud.deploy(part)
        self.assertEqual(what_stands(cloud), standing)
        check_marks(self, cloud, marks)


if __name__ == "__main__":
    unittest.main()
