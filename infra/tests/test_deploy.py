"""infra/deploy.sh and infra/destroy.sh against an emulator of their own: twice, planned, changed, refused, removed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import unittest

from support import CREDENTIALS, INFRA, PYTHON, ROOT, TOOLS, Emulator, LocalStack, clean, folder

# By the path that support makes.
# isort: split
import boto3

ENVIRONMENT = """
AWS_REGION=us-east-1
INTERNET_EGRESS=nat
ASR_BASE_URL=http://asr.internal:8000
SECRET_ARN={secret}
AUTH=none
CACHE=valkey
CLIENT_CIDR=10.0.0.0/8
API_TASKS=2
ALARM_EMAIL=team@example.com
"""
# The faults of a machine whose buildx has these platforms.
FAULTS = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
import build
print("\\n".join(build.faults()))
"""
INSPECT = f"""#!{sys.executable}
import os, sys
if sys.argv[1:3] == ["buildx", "inspect"]:
    print("Name: default\\nPlatforms: " + os.environ["PLATFORMS"])
"""

# Stands in for Docker: writes down what it was asked, and what it was given on standard input.
DOCKER = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["DOCKER_CALLS"], "a") as calls:
    print(json.dumps([*sys.argv[1:], sys.stdin.read() if sys.argv[1] == "login" else ""]), file=calls)
for word in sys.argv:
    if word.startswith("type=local,dest="):
        with open(word.removeprefix("type=local,dest=") + "/bootstrap", "w") as program:
            program.write("the api")
"""
# What deploy.py does with images and the function.
PUSH = """
import sys
sys.path.insert(0, sys.argv[1])
import boto3, build
images = build.Images(boto3.Session(region_name="us-east-1"), "ARM64")
if not images.digest(sys.argv[2], "0123456789ab"):
    images.push("api", sys.argv[2], "0123456789ab")
if not images.function_exists("code", "api.zip"):
    images.upload_function("code", "api.zip")
print(images.pinned(sys.argv[2], "0123456789ab"))
"""


class Deploying(unittest.TestCase):
    """Each test has an empty emulator, and a copy of what deploy.sh needs, so that it can plant faults in it."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.emulator = Emulator(cls.addClassCleanup)
        cls.aws = {"AWS_ENDPOINT_URL": cls.emulator.address, **CREDENTIALS}

    def setUp(self) -> None:
        self.emulator.reset()
        self.directory = folder(self.addCleanup)
        self.checkout = self.directory / "checkout"
        ignore = shutil.ignore_patterns("__pycache__", "*.env", "fixtures", "test_*")
        shutil.copytree(INFRA, self.checkout / "infra", ignore=ignore)
        shutil.copy(ROOT / "Cargo.toml", self.checkout)
        secret = self.ask("secretsmanager", "create_secret", Name="longhand-test", SecretString="{}")["ARN"]
        self.text = ENVIRONMENT.format(secret=secret)
        self.write("infra/env/test.env", self.text)
        git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "test"]):
            subprocess.run([*git, *command], cwd=self.checkout, check=True, capture_output=True)

    def small(self) -> None:
        """Data and service alone: for what is not about the rest."""
        self.write("infra/alarms.yaml", "Resources: {Topic: {Type: AWS::SNS::Topic}}")
        network = "VPC_ID=vpc-1\nPRIVATE_SUBNET_IDS=subnet-1,subnet-2\nVPC_CIDR=10.0.0.0/16\n"
        text = self.text.replace("INTERNET_EGRESS=nat\n", network).replace("CACHE=valkey\n", "")
        self.write("infra/env/test.env", text.replace("ALARM_EMAIL=team@example.com\n", ""))

    def write(self, path: str, text: str) -> None:
        (self.checkout / path).parent.mkdir(exist_ok=True)
        (self.checkout / path).write_text(text)

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.checkout / path).read_text()
        self.assertIn(old, text)
        self.write(path, text.replace(old, new))

    def script(self, name: str, *arguments: str, typed: str = "", **settings: str) -> tuple[int, str]:
        environment = {**clean(), **self.aws, "LONGHAND_TOOLS_DIR": str(TOOLS), **settings}
        done = subprocess.run(
            [str(self.checkout / "infra" / name), *arguments],
            input=typed,
            env={key: value for key, value in environment.items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout

    def deploy(self, *arguments: str, **settings: str) -> tuple[int, str]:
        return self.script("deploy.sh", "test", "--emulator", *arguments, **settings)

    def deployed(self, *arguments: str) -> str:
        code, output = self.deploy(*arguments)
        self.assertEqual(code, 0, output)
        return output

    def ask(self, service: str, call: str, **arguments) -> dict:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        client = boto3.client(service, endpoint_url=self.emulator.address, **keys)
        return getattr(client, call)(**arguments)

    def outputs(self, part: str) -> dict[str, str]:
        stack = self.ask("cloudformation", "describe_stacks", StackName=f"longhand-test-{part}")["Stacks"][0]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def stacks(self) -> dict[str, str]:
        listed = self.ask("cloudformation", "describe_stacks")["Stacks"]
        return {stack["StackName"].removeprefix("longhand-test-"): stack["StackStatus"] for stack in listed}

    def worker(self) -> tuple[dict[str, str], str]:
        """The settings and the image of its task."""
        task = self.ask("ecs", "describe_task_definition", taskDefinition="longhand-test-worker")["taskDefinition"]
        [container] = task["containerDefinitions"]
        return {one["name"]: one["value"] for one in container["environment"]}, container["image"]

    def with_docker(self, text: str) -> dict[str, str]:
        """The environment with a stand-in for Docker."""
        docker = self.directory / "bin" / "docker"
        docker.parent.mkdir()
        docker.write_text(text)
        docker.chmod(0o755)
        return {**clean(), "PATH": f"{docker.parent}{os.pathsep}{os.environ['PATH']}"}

    def put(self, job: str) -> None:
        self.ask(
            "dynamodb", "put_item", TableName="longhand-test-jobs", Item={"jobId": {"S": job}, "item": {"S": "job"}}
        )

    def jobs(self, table: str = "longhand-test-jobs") -> int:
        """Items of jobs and users, without the workers' reports."""
        others = {"FilterExpression": "jobId <> :w", "ExpressionAttributeValues": {":w": {"S": "workers"}}}
        return self.ask("dynamodb", "scan", TableName=table, **others)["Count"]

    def queue(self, attribute: str) -> int:
        url = self.outputs("data")["QueueUrl"]
        return int(
            self.ask("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["All"])["Attributes"][attribute]
        )

    def test_a_second_deployment_changes_nothing_and_a_changed_setting_only_itself(self) -> None:
        output = self.deployed()
        self.assertIn("Changed: images, network, data, cache, service, alarms.", output)
        # A build fails more easily than a stack.
        self.assertLess(output.index("image worker:"), output.index("network: new"))
        # What the emulator does not support is listed by name, and so is what was skipped because of it.
        for name in ("ScalableTarget", "NatGateway", "image worker:", "the test with real speech"):
            self.assertRegex(output, rf"SKIPPED \(--emulator\):.*{name}")
        self.assertEqual(set(self.stacks().values()), {"CREATE_COMPLETE"})
        policy = self.ask("cloudformation", "get_stack_policy", StackName="longhand-test-data")["StackPolicyBody"]
        self.assertIn("Update:Replace", policy)
        self.put("one")
        before = self.outputs("data")
        self.ask("sqs", "send_message", QueueUrl=before["QueueUrl"], MessageBody="{}")

        self.assertIn("\nNothing changed.", self.deployed())
        self.assertEqual(set(self.stacks().values()), {"CREATE_COMPLETE"})

        self.replace("infra/env/test.env", "API_TASKS=2", "AUDIO_RETENTION_DAYS=7\nVISIBILITY_TIMEOUT_SECONDS=40")
        output = self.deployed("--plan")
        self.assertRegex(output, r"modify +AWS::SQS::Queue +ChunksQueue")
        self.assertNotIn("DATA LOSS", output)
        self.assertIn("A plan: nothing was changed.", output)
        self.assertEqual(self.stacks()["data"], "CREATE_COMPLETE")
        left = self.ask("cloudformation", "list_change_sets", StackName="longhand-test-data")["Summaries"]
        self.assertEqual(self.queue("VisibilityTimeout"), 12)
        self.assertNotIn("AVAILABLE", [change_set["ExecutionStatus"] for change_set in left])

        self.assertRegex(self.deployed(), "\nChanged: data")
        self.assertEqual(self.stacks()["data"], "UPDATE_COMPLETE")
        self.assertEqual(self.queue("VisibilityTimeout"), 40)
        # Updated where they are: the same names, and what was in them.
        self.assertEqual(self.outputs("data"), before)
        self.assertEqual((self.jobs(), self.queue("ApproximateNumberOfMessages")), (1, 1))

    def test_a_plan_of_something_new_leaves_nothing_behind(self) -> None:
        for target in ("vpclink", "lambda"):
            self.write("infra/env/test.env", f"{self.text}GATEWAY_TARGET={target}\n")
            output = self.deployed("--plan")
            self.assertRegex(output, r"add +AWS::DynamoDB::Table +JobsTable")
            for part in ("service", "gateway", "alarms"):
                self.assertRegex(output, rf"{part}: new, up to \d+ resources")
            # Workers first: they have to understand what the api sends.
            self.assertLess(output.index("service: new"), output.index("gateway: new"))
            self.assertEqual(self.stacks(), {})

    def test_the_gateway_leaves_the_load_balancer_first(self) -> None:
        self.small()
        text = (self.checkout / "infra/env/test.env").read_text()
        self.write("infra/env/test.env", f"{text}GATEWAY_TARGET=vpclink\n")
        output = self.deployed()
        self.assertLess(output.index("service: new"), output.index("gateway: new"))
        self.write("infra/env/test.env", f"{text}GATEWAY_TARGET=lambda\n")
        output = self.deployed("--plan")
        self.assertLess(output.index("\ngateway: "), output.index("\nservice: "))

    def test_the_emulator_needs_no_secret(self) -> None:
        self.small()
        text = (self.checkout / "infra/env/test.env").read_text()
        example = "SECRET_ARN=arn:aws:secretsmanager:us-east-1:123456789012:secret:longhand-example-AbCdEf"
        self.write("infra/env/test.env", re.sub("SECRET_ARN=.*", example, text))
        self.assertIn("Changed: images, data, service, alarms.", self.deployed())

    def test_a_replacement_of_what_holds_data_is_refused(self) -> None:
        self.small()
        self.deployed()
        self.put("one")
        url = self.outputs("data")["QueueUrl"]
        self.replace("infra/data.yaml", "QueueName: !Sub ${Name}-chunks\n", "QueueName: !Sub ${Name}-pieces\n")
        output = self.deployed("--plan")
        self.assertRegex(output, r"REPLACE +AWS::SQS::Queue +ChunksQueue .*<== DATA LOSS")
        code, output = self.deploy()
        self.assertEqual(code, 1, output)
        self.assertIn("longhand-test-data was not changed: ChunksQueue would be replaced or removed", output)
        self.assertIn("--replace ChunksQueue", output)
        self.assertEqual(self.outputs("data")["QueueUrl"], url)

        # The flag is for what it names, and for nothing else.
        self.replace("infra/data.yaml", "TableName: !Sub ${Name}-jobs", "TableName: !Sub ${Name}-work")
        code, output = self.deploy("--replace", "ChunksQueue")
        self.assertEqual(code, 1, output)
        self.assertIn("longhand-test-data was not changed: JobsTable would be", output)
        self.replace("infra/data.yaml", "TableName: !Sub ${Name}-work", "TableName: !Sub ${Name}-jobs")
        self.deployed("--replace", "ChunksQueue")
        self.assertTrue(self.outputs("data")["QueueUrl"].endswith("-pieces"))
        self.assertEqual(self.jobs(), 1)
        policy = self.ask("cloudformation", "get_stack_policy", StackName="longhand-test-data")["StackPolicyBody"]
        self.assertIn("Update:Replace", policy, "the guard is up again")

    def test_a_table_of_another_name_takes_the_place_of_the_stacks_own(self) -> None:
        self.small()
        self.deployed()
        arn = "arn:aws:dynamodb:us-east-1:000000000000:table/restored"
        text = (self.checkout / "infra/env/test.env").read_text()
        self.write("infra/env/test.env", f"{text}TABLE_NAME=restored\nTABLE_ARN={arn}\n")
        output = self.deployed()
        self.assertIn("TABLE_NAME=restored from the parameter file replaces the output of longhand-test-data", output)
        settings, image = self.worker()
        self.assertEqual(settings["LONGHAND_TABLE"], "restored")
        # Tags are never written twice: what was built for one kind of machine may not stand where the other's belongs.
        self.assertRegex(image, r"/longhand-test-worker:[0-9a-f]{7,12}-arm64$")

    def test_a_table_is_restored_from_a_backup_and_taken_into_use(self) -> None:
        self.small()
        text = (self.checkout / "infra/env/test.env").read_text()
        more = "DELETION_PROTECTION=true\nMAX_READ_UNITS=1000\nMAX_WRITE_UNITS=4000\n"
        self.write("infra/env/test.env", text + more)
        self.deployed()
        self.put("one")
        old = "longhand-test-jobs"
        made = self.ask("dynamodb", "create_backup", TableName=old, BackupName="before")["BackupDetails"]
        self.ask("dynamodb", "delete_item", TableName=old, Key={"jobId": {"S": "one"}, "item": {"S": "job"}})
        for source in (("--backup", made["BackupArn"]), ("--latest",)):
            code, output = self.script("restore.sh", "test", "--emulator", *source)
            self.assertEqual(code, 0, output)
            new = re.search(r"^TABLE_NAME=(\S+)$", output, re.MULTILINE)[1]
            tables = [self.ask("dynamodb", "describe_table", TableName=name)["Table"] for name in (old, new)]
            for name in ("KeySchema", "DeletionProtectionEnabled"):
                self.assertEqual(tables[1][name], tables[0][name])
            # The emulator keeps the maximum units of this table only, not those of stacks and indexes.
            most = {"MaxReadRequestUnits": 1000, "MaxWriteRequestUnits": 4000}
            self.assertEqual(tables[1]["OnDemandThroughput"], most)
            indexes = [{one["IndexName"] for one in table["GlobalSecondaryIndexes"]} for table in tables]
            self.assertEqual(indexes[0], indexes[1])
            expiry = self.ask("dynamodb", "describe_time_to_live", TableName=new)["TimeToLiveDescription"]
            self.assertEqual((expiry["TimeToLiveStatus"], expiry["AttributeName"]), ("ENABLED", "ttl"))
            if source[0] == "--backup":
                self.assertEqual((self.jobs(old), self.jobs(new)), (0, 1))
        lines = "\n".join(re.findall(r"^TABLE_.*$", output, re.MULTILINE))
        self.write("infra/env/test.env", f"{text}{lines}\n")
        self.deployed()
        settings, _ = self.worker()
        self.assertEqual(settings["LONGHAND_TABLE"], new)

    def test_another_version_of_the_secret_is_deployed(self) -> None:
        self.small()
        self.deployed()
        self.assertIn("\nNothing changed.", self.deployed())
        self.ask("secretsmanager", "put_secret_value", SecretId="longhand-test", SecretString='{"asrApiKey": "new"}')
        self.assertIn("\nChanged: service.", self.deployed())

        self.replace("infra/env/test.env", ":longhand-test-", ":longhand-other-")
        code, output = self.deploy()
        self.assertEqual(code, 1, output)
        self.assertIn("the secret of SECRET_ARN cannot be read", output)

    def test_destroying_asks_and_keeps_the_data(self) -> None:
        self.small()
        self.deployed()
        self.put("one")
        code, output = self.script("destroy.sh", "test", "--emulator", typed="yes\n")
        self.assertEqual(code, 1, output)
        self.assertIn("nothing was removed", output)
        self.assertIn("service", self.stacks())

        code, output = self.script("destroy.sh", "test", "--emulator", typed="longhand-test\n")
        self.assertEqual(code, 0, output)
        self.assertEqual(set(self.stacks()), {"data", "images"})
        self.assertEqual(self.jobs(), 1)

        # And the same data is taken up again.
        self.assertIn("data: no change", self.deployed())
        code, output = self.script("destroy.sh", "test", "--emulator", "--data", typed="longhand-test\n")
        self.assertEqual(code, 0, output)
        self.assertIn("ALL DATA WILL BE DELETED", output)
        self.assertEqual(self.stacks(), {})
        self.assertEqual(self.ask("dynamodb", "list_tables")["TableNames"], [])
        self.assertEqual(self.ask("s3", "list_buckets")["Buckets"], [])

    def test_a_protected_table_keeps_everything_from_being_destroyed(self) -> None:
        self.small()
        text = (self.checkout / "infra/env/test.env").read_text()
        self.write("infra/env/test.env", f"{text}DELETION_PROTECTION=true\n")
        self.deployed()
        before = self.stacks()
        code, output = self.script("destroy.sh", "test", "--emulator", "--data", typed="longhand-test\n")
        self.assertEqual(code, 1, output)
        self.assertIn("deletion protection is on for stack longhand-test-data and table longhand-test-jobs", output)
        self.assertEqual(self.stacks(), before)
        self.replace("infra/env/test.env", "DELETION_PROTECTION=true", "DELETION_PROTECTION=false")
        self.deployed()
        code, output = self.script("destroy.sh", "test", "--emulator", "--data", typed="longhand-test\n")
        self.assertEqual(code, 0, output)

    def test_a_deployment_that_is_undone_tells_why_its_tasks_ended(self) -> None:
        self.small()
        self.deployed()
        cluster = {"cluster": "longhand-test"}
        task = self.ask("ecs", "run_task", taskDefinition="longhand-test-worker", **cluster)["tasks"][0]["taskArn"]
        self.ask("ecs", "stop_task", task=task, reason="Task failed container health checks", **cluster)
        stream = {"logGroupName": "/longhand/longhand-test/worker", "logStreamName": "worker/1"}
        self.ask("logs", "create_log_stream", **stream)
        now = int(time.time() * 1000)
        event = {"timestamp": now, "message": "longhand-worker: LONGHAND_WEBHOOK_SECRET is too short"}
        self.ask("logs", "put_log_events", logEvents=[event], **stream)

        broken = "Resources:\n  Broken: { Type: AWS::CloudFront::Function, Properties: { Name: broken } }\n"
        self.replace("infra/service.yaml", "Resources:\n", broken)
        code, output = self.deploy()
        self.assertEqual(code, 1, output)
        self.assertIn("stack longhand-test-service was not deployed: UPDATE_ROLLBACK_COMPLETE", output)
        self.assertRegex(output, "1 stopped: .*: Task failed container health checks")
        self.assertIn("worker: longhand-worker: LONGHAND_WEBHOOK_SECRET is too short", output)

    def test_a_creation_that_failed_is_tried_again(self) -> None:
        self.small()
        broken = "Resources:\n  Broken: { Type: AWS::CloudFront::Function, Properties: { Name: broken } }\n"
        self.replace("infra/data.yaml", "Resources:\n", broken)
        code, output = self.deploy()
        self.assertEqual(code, 1, output)
        self.assertRegex(output, r"stack longhand-test-data was not deployed: ROLLBACK_COMPLETE\n  Broken: ")
        # A plan changes nothing, not even that.
        self.assertIn("the failed creation of longhand-test-data is deleted first", self.deployed("--plan"))
        self.assertEqual(self.stacks()["data"], "ROLLBACK_COMPLETE")
        self.replace("infra/data.yaml", broken, "Resources:\n")
        self.assertIn("longhand-test-data is deployed", self.deployed())

    def test_an_account_that_never_used_ecs_gets_its_role_first(self) -> None:
        self.small()
        output = self.deployed()
        self.assertLess(output.index("AWSServiceRoleForECS"), output.index("images: new"))
        self.assertNotIn("AWSServiceRoleForECS", self.deployed())

    def test_every_fault_is_reported_before_anything_is_done(self) -> None:
        self.write(
            "infra/env/test.env",
            "AWS_REGION=us-east-1\nAWS_ACCOUNT=123456789012\nAUTH=jwt\nAPI_TASK=3\nWORKER_SLOTS=many\nCACHE=memcached\n"
            "VPC_ID=vpc-1\nCALLBACK HOSTS=x\nSECRET_ARN=longhand-test\n",
        )
        (self.checkout / "infra" / "cache.yaml").unlink()
        code, output = self.deploy()
        self.assertEqual(code, 1)
        for fault in (
            "Nothing was changed. Problems:",
            "AWS_ACCOUNT is 123456789012, and the credentials are for 000000000000",
            "AUTH is jwt, and JWT_ISSUER is missing",
            "API_TASK is unknown: no template",
            "WORKER_SLOTS is 'many', which is not a number",
            "CACHE is 'memcached'; it has to be none or valkey",
            "VPC_ID is set, and PRIVATE_SUBNET_IDS is missing",
            "line 8 is not KEY=value",
            "ASR_BASE_URL is missing",
            "CLIENT_CIDR is missing",
            "SECRET_ARN is 'longhand-test'; it has to be the whole ARN",
            "infra/cache.yaml is missing",
        ):
            self.assertIn(fault, output)
        self.assertEqual(self.stacks(), {})

        # AUTH defaults to jwt. With apikey, an issuer would make the gateway refuse every caller.
        for setting, fault in (
            ("", "AUTH is jwt, and JWT_ISSUER is missing"),
            ("AUTH=apikey\n", "would require tokens of JWT_ISSUER"),
        ):
            issuer = "JWT_ISSUER=https://issuer\nGATEWAY_TARGET=lambda\n" if setting else ""
            self.write("infra/env/test.env", self.text.replace("AUTH=none\n", setting) + issuer)
            code, output = self.deploy()
            self.assertEqual(code, 1)
            self.assertIn(fault, output)

        # Who calls with a token, or a key, needs no other name.
        code, output = self.script("deploy.sh", "test", LONGHAND_TOKEN="lh_key")
        self.assertEqual(code, 1)
        self.assertNotIn("--user", output)
        code, output = self.script("deploy.sh", "test")
        self.assertIn("the test at the end needs LONGHAND_TOKEN", output)

    def test_an_endpoint_is_an_emulator_only_with_its_flag(self) -> None:
        code, output = self.script("deploy.sh", "test", "--plan")
        self.assertEqual(code, 1, output)
        self.assertIn("unset it to use AWS, or pass --emulator", output)
        code, output = self.deploy(AWS_ENDPOINT_URL="")
        self.assertEqual(code, 1, output)
        self.assertIn("--emulator needs AWS_ENDPOINT_URL", output)

    def test_a_builder_for_neither_processor_is_refused(self) -> None:
        environment = self.with_docker(INSPECT)
        for platforms, fault in (
            ("linux/amd64*, linux/386", ""),
            ("linux/arm64", ""),
            ("linux/riscv64", "buildx builds on linux/riscv64, not on linux/amd64 or linux/arm64"),
        ):
            command = [str(PYTHON), "-c", FAULTS, str(self.checkout / "infra" / "deployment")]
            given = {**environment, "PLATFORMS": platforms}
            done = subprocess.run(command, env=given, capture_output=True, text=True)
            self.assertEqual(done.stdout.strip(), fault, done.stderr)

    def test_images_and_the_function_are_built_once_for_each_commit(self) -> None:
        """By a stand-in for Docker: what it is asked for, and when it is not asked at all."""
        self.ask("s3", "create_bucket", Bucket="code")
        created = self.ask("ecr", "create_repository", repositoryName="longhand-test-api")["repository"]
        uri, calls = created["repositoryUri"], self.directory / "calls"
        environment = {**self.with_docker(DOCKER), **self.aws, "DOCKER_CALLS": str(calls)}

        def push() -> list[list[str]]:
            calls.write_text("")
            command = [str(PYTHON), "-c", PUSH, str(self.checkout / "infra" / "deployment"), uri]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.pinned = done.stdout.splitlines()[-1]
            return [json.loads(line) for line in calls.read_text().splitlines()]

        login, image, function = push()
        self.assertEqual(login[:2] + login[3:5], ["login", "--username", "--password-stdin", uri.split("/")[0]])
        self.assertTrue(login[-1], "the password, by standard input")
        self.assertEqual(image[:2], ["buildx", "build"])
        for option, value in (("--platform", "linux/arm64"), ("--file", "infra/Dockerfile"), ("--target", "api")):
            self.assertEqual(image[image.index(option) + 1], value)
        for word in (f"{uri}:0123456789ab", "--push"):
            self.assertIn(word, image)
        self.assertEqual(function[function.index("--target") + 1], "function")
        listed = self.ask("s3", "list_objects_v2", Bucket="code")["Contents"]
        self.assertEqual([one["Key"] for one in listed], ["api.zip"])

        manifest = json.dumps({"schemaVersion": 2, "layers": []})
        self.ask(
            "ecr", "put_image", repositoryName="longhand-test-api", imageManifest=manifest, imageTag="0123456789ab"
        )
        self.assertEqual(push(), [])
        self.assertRegex(self.pinned, r"/longhand-test-api@sha256:[0-9a-f]{64}$")

    def test_real_speech_through_what_was_deployed(self) -> None:
        """Fargate's part is played by this machine: api and worker with the stacks' outputs for settings."""
        self.small()
        self.deployed()
        outputs = self.outputs("data")
        stack = LocalStack(
            self,
            **self.aws,
            EMULATOR="none",
            LONGHAND_TABLE=outputs["TableName"],
            LONGHAND_QUEUE_URL=outputs["QueueUrl"],
            LONGHAND_DLQ_URL=outputs["DeadLetterQueueUrl"],
            LONGHAND_AUDIO_BUCKETS=outputs["BucketName"],
        )
        up = stack.run("up")
        self.assertEqual(up.returncode, 0, up.stdout)
        url = f"http://127.0.0.1:{stack.ports['API_PORT']}"
        command = [sys.executable, str(ROOT / "infra" / "smoke.py"), url]
        done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=900)
        print(done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"six recordings: COMPLETED in .* word error rate \d")
        # It leaves nothing of its job behind, and tells a service that is not there from one that is.
        self.assertEqual(self.jobs(), 1, "the mark of a recent submit, for an hour")
        stack.run("down")
        done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=900)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/readyz cannot be reached", done.stderr)


if __name__ == "__main__":
    unittest.main()
