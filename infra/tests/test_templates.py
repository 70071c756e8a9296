"""Every template of infra/ deployed into a fresh emulator, in order, and again with other parameters: in place."""

from __future__ import annotations

import json
import unittest

from cloud import Cloud, parts
from support import INFRA
from unsupported import UNSUPPORTED, reduced

# A change of these makes a new one, as it should: tasks keep the revision that they were started with.
NEW_EACH_TIME = {"AWS::ECS::TaskDefinition"}


class Templates(unittest.TestCase):
    def test_all_deploy_and_are_updated_in_place(self):
        cloud = Cloud(self)
        cloud.prepare()
        before = {}
        for part in parts():
            for line in cloud.deploy(part):
                print(line)
            before[part.name] = cloud.resources(part)
        with self.subTest("a template has resources"):
            self.assertTrue(all(before.values()))
        marks = leave_marks(cloud)
        standing = what_stands(cloud)

        for part in parts():
            cloud.deploy(part, **part.changed)
            after = cloud.resources(part)
            for name, (kind, identifier) in before[part.name].items():
                with self.subTest(template=part.name, resource=name):
                    self.assertIn(name, after, "it is gone")
                    if kind not in NEW_EACH_TIME:
                        self.assertEqual(after[name], (kind, identifier), "it was replaced")
        self.assertEqual(what_stands(cloud), standing)
        check_marks(self, cloud, marks)
        self.check_changes(cloud)

    def check_changes(self, cloud: Cloud) -> None:
        """That the second deployment did something; else it would prove nothing."""
        asked = {"QueueUrl": cloud.outputs["QueueUrl"], "AttributeNames": ["All"]}
        queue = cloud.client("sqs").get_queue_attributes(**asked)["Attributes"]
        self.assertEqual(queue["VisibilityTimeout"], "40")
        self.assertEqual(int(json.loads(queue["RedrivePolicy"])["maxReceiveCount"]), 5)
        cors = cloud.client("s3").get_bucket_cors(Bucket=cloud.outputs["BucketName"])["CORSRules"]
        self.assertEqual([rule["AllowedOrigins"] for rule in cors], [["https://app.example.com"]])
        [api] = cloud.client("apigatewayv2").get_apis()["Items"]
        # Which the emulator keeps under names that boto3 does not read.
        self.assertIn("CorsConfiguration", api)
        table = cloud.client("dynamodb").describe_table(TableName=cloud.outputs["TableName"])["Table"]
        self.assertTrue(table["DeletionProtectionEnabled"])
        ids = cloud.outputs["PrivateSubnetIds"].split(",")
        subnets = cloud.client("ec2").describe_subnets(SubnetIds=ids)["Subnets"]
        self.assertEqual({subnet["AvailabilityZone"] for subnet in subnets}, {"us-east-1b", "us-east-1d"})
        worker = cloud.client("ecs").describe_task_definition(taskDefinition=f"{cloud.outputs['ClusterName']}-worker")
        environment = worker["taskDefinition"]["containerDefinitions"][0]["environment"]
        self.assertIn({"name": "LONGHAND_CONCURRENCY", "value": "256"}, environment)

    def test_what_is_left_out_is_what_the_emulator_lacks(self):
        """A type that a newer emulator knows is deployed like all others."""
        cloud = Cloud(self)
        cloudformation = cloud.client("cloudformation")
        for number, kind in enumerate(UNSUPPORTED):
            kind, _, given = kind.partition(".")
            properties = {given: [{"Id": "one", "Expression": "1"}]} if given else {}
            template = json.dumps({"Resources": {"Thing": {"Type": kind, "Properties": properties}}})
            if given:
                cloudformation.create_stack(StackName=f"lacks-{number}", TemplateBody=template)
                events = cloudformation.describe_stack_events(StackName=f"lacks-{number}")["StackEvents"]
                self.assertIn("is not supported", str(events))
                continue
            with self.subTest(kind), self.assertRaisesRegex(Exception, "Unrecognized resource types"):
                cloudformation.create_stack(StackName=f"lacks-{number}", TemplateBody=template)

    def test_what_needs_something_that_is_left_out_goes_too(self):
        template = """
        Resources:
          Missing: { Type: Not::There::Yet }
          ByRef: { Type: A::B::C, Properties: { Of: [!Ref Missing] } }
          ByGetAtt: { Type: A::B::C, Properties: { Of: !GetAtt Missing.Arn } }
          BySub: { Type: A::B::C, Properties: { Of: !Sub "x/${ByRef.Name}" } }
          After: { Type: A::B::C, DependsOn: Missing, Properties: { Of: !Sub "${MissingNot}" } }
        Outputs:
          Gone: { Value: !Ref BySub }
          Stays: { Value: !Ref After }
        """
        text, left_out = reduced(template, lacking={"Not::There::Yet": "why"})
        left = json.loads(text)
        self.assertEqual(list(left["Resources"]), ["After"])
        self.assertNotIn("DependsOn", left["Resources"]["After"])
        self.assertEqual(list(left["Outputs"]), ["Stays"])
        self.assertIn("Not::There::Yet Missing: why", left_out)
        self.assertIn("A::B::C BySub: it needs ByRef", left_out)
        self.assertEqual(len(left_out), 4)
        self.assertEqual(reduced(template, lacking={}), (template, []))

    def test_only_what_is_asked_for_can_be_lacking(self):
        text = (INFRA / "gateway.yaml").read_text()
        self.assertEqual(reduced(text, {"Target": "lambda"}), (text, []))
        left, left_out = reduced(text, {"Target": "vpclink"})
        self.assertIn("AWS::ApiGatewayV2::Integration Integration: it needs VpcLink", left_out)
        self.assertIn("Api", json.loads(left)["Resources"])

    def test_alarms_go_by_figures_that_are_made_and_name_their_runbook(self):
        alarms = next(part for part in parts() if part.name == "alarms").template
        made = {
            transformation["MetricName"]
            for resource in alarms["Resources"].values()
            for transformation in resource["Properties"].get("MetricTransformations", [])
        }
        shown = json.dumps(alarms["Resources"]["Dashboard"])
        for name, resource in alarms["Resources"].items():
            if resource["Type"] != "AWS::CloudWatch::Alarm":
                continue
            with self.subTest(name):
                properties = resource["Properties"]
                self.assertRegex(properties["AlarmDescription"], r" docs/operations\.md#[a-z0-9-]+$")
                alarm = properties["AlarmName"]["Fn::Sub"]
                self.assertTrue(
                    f"${{{name}.Arn}}" in shown or alarm.replace("${Name}", "${Alarm}") in shown,
                    "the dashboard lacks it",
                )
                stats = [one["MetricStat"]["Metric"] for one in properties.get("Metrics", []) if "MetricStat" in one]
                for metric in stats or [properties]:
                    if not str(metric["Namespace"]).startswith(("AWS/", "ECS/")):
                        self.assertIn(metric["MetricName"], made)

    def test_another_capacity_provider_strategy_is_a_new_deployment(self):
        """ECS refuses the one without the other, which the emulator does not."""
        for part in parts():
            for name, resource in part.template["Resources"].items():
                strategy = resource.get("Properties", {}).get("CapacityProviderStrategy")
                if resource["Type"] != "AWS::ECS::Service" or not isinstance(strategy, dict):
                    continue
                with self.subTest(name):
                    self.assertEqual(strategy["Fn::If"][0], "OnSpot")
                    self.assertEqual(
                        part.template["Conditions"]["OnSpot"], {"Fn::Equals": [{"Ref": "SpotWorkers"}, "true"]}
                    )
                    forced = resource["Properties"]["ForceNewDeployment"]
                    self.assertTrue(forced["EnableForceNewDeployment"])
                    self.assertIn("${SpotWorkers}", forced["ForceNewDeploymentNonce"]["Fn::Sub"])

    def test_templates_take_each_others_outputs(self):
        """What has no default comes from a template before, or is named in PARTS: nothing hangs in the air."""
        known = {"Name", "SecretArn"}
        for part in parts():
            template = part.template
            for name, asked in template["Parameters"].items():
                if "Default" not in asked:
                    with self.subTest(template=part.name, parameter=name):
                        self.assertIn(name, known | set(part.parameters))
            known |= set(template["Outputs"])


def leave_marks(cloud: Cloud) -> dict:
    """Something in each thing that must not be replaced by an empty one."""
    outputs = cloud.outputs
    cloud.client("dynamodb").put_item(
        TableName=outputs["TableName"], Item={"jobId": {"S": "mark"}, "item": {"S": "job"}}
    )
    queues = ["QueueUrl", "DeadLetterQueueUrl", "WebhookQueueUrl", "WebhookDeadLetterQueueUrl"]
    for queue in queues:
        cloud.client("sqs").send_message(QueueUrl=outputs[queue], MessageBody="mark")
    cloud.client("s3").put_object(Bucket=outputs["BucketName"], Key="mark", Body=b"mark")
    return {"queues": queues}


def check_marks(test: unittest.TestCase, cloud: Cloud, marks: dict) -> None:
    outputs = cloud.outputs
    key = {"jobId": {"S": "mark"}, "item": {"S": "job"}}
    test.assertIn("Item", cloud.client("dynamodb").get_item(TableName=outputs["TableName"], Key=key))
    for queue in marks["queues"]:
        counted = cloud.client("sqs").get_queue_attributes(
            QueueUrl=outputs[queue], AttributeNames=["ApproximateNumberOfMessages"]
        )
        test.assertEqual(counted["Attributes"]["ApproximateNumberOfMessages"], "1", queue)
    test.assertEqual(cloud.client("s3").get_object(Bucket=outputs["BucketName"], Key="mark")["Body"].read(), b"mark")


def what_stands(cloud: Cloud) -> dict:
    """What tells a table and a queue from another one of the same name."""
    outputs = cloud.outputs
    table = cloud.client("dynamodb").describe_table(TableName=outputs["TableName"])["Table"]
    stands = {name: str(table[name]) for name in ("TableId", "TableArn", "CreationDateTime")}
    for queue in ("QueueUrl", "DeadLetterQueueUrl", "WebhookQueueUrl", "WebhookDeadLetterQueueUrl"):
        found = cloud.client("sqs").get_queue_attributes(
            QueueUrl=outputs[queue], AttributeNames=["QueueArn", "CreatedTimestamp"]
        )
        stands[queue] = (outputs[queue], *sorted(found["Attributes"].items()))
    return stands


if __name__ == "__main__":
    unittest.main()
