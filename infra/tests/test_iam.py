"""The api, the worker and the operator's commands with the settings and the rights that infra/ gives them, no others:
the emulator enforces IAM, nothing that they do is denied, no right is left over, the alarms find what they go by."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import unittest
import urllib.request
from fnmatch import fnmatchcase
from functools import partial

from client import RECORDING, USER, Client, finds
from cloud import NAME, PARTS, Cloud
from receiver import Receiver
from recorder import Recorder, Right
from support import INFRA, answers, eventually, free_port, programs
from unsupported import effective, reduced

SERVICE, ALARMS = (next(part for part in PARTS if part.name == name) for name in ("service", "alarms"))
# Leases are renewed after half of it. Calls of the model and webhooks take longer than that.
VISIBILITY, MODEL_MS = "3", "2000"
# The emulator's own policy, see Iam.batches.
BATCHES = "batches"
# This emulator speaks plain HTTP, which these refuse, as they should. It holds to them only where it enforces IAM.
TLS_ONLY = {
    "AWS::SQS::QueuePolicy": "it refuses plain HTTP, which is all that the emulator speaks",
    "AWS::S3::BucketPolicy": "it refuses plain HTTP, which is all that the emulator speaks",
}
# Rights that no call uses, each with its reason. Whose, the action, the end of the resource.
UNUSED = {
    ("worker", "s3:ListBucket", "-audio-000000000000"): "with it S3 tells a missing object from a forbidden one",
    ("function", "logs:CreateLogStream", "*"): "Lambda's own, for what the program prints",
    ("function", "logs:PutLogEvents", "*"): "Lambda's own, for what the program prints",
}


class Iam(unittest.TestCase):
    def test_every_right_is_used_and_none_is_missing(self):
        self.cloud = Cloud(self, AUTH="true")
        self.cloud.prepare()
        self.deploy()
        self.recorder = Recorder(self.cloud.endpoint)
        self.addCleanup(self.recorder.close)
        self.keys = {
            "api": self.role("ApiRoleArn"),
            "worker": self.role("WorkerRoleArn"),
            "operator": self.operator(),
        }
        self.check_settings()
        # Slow enough for leases of webhooks to be renewed.
        self.receiver = Receiver(float(MODEL_MS) / 1000)
        self.addCleanup(self.receiver.close)
        self.start_programs()

        try:
            self.jobs()
            self.webhooks()
            self.strange_messages()
            self.without_workers()
        finally:
            # Whatever else went wrong went wrong because of it.
            self.assertEqual(self.denied(), set())
        self.check_log_lines()
        for name, needed in self.called().items():
            print(f"{name} called:", *sorted(f"{action} {resource}" for action, resource in needed), sep="\n  ")
            self.compare(name, needed)

    # ---- what it stands on ------------------------------------------------------------------------------------------

    def deploy(self) -> None:
        for part in PARTS:
            if part.name == "data":
                text, left_out = reduced(part.path.read_text(), lacking=TLS_ONLY)
                print(*left_out, sep="\n")
                self.cloud.deploy(part, text)
            elif part.name in ("network", "service", "gateway") and part.path.exists():
                self.cloud.deploy(part)

    def role(self, output: str) -> dict[str, str]:
        """Credentials of a role. On AWS they are Fargate's to hand out, and the role trusts nobody else."""
        arn = self.cloud.outputs[output]
        trust = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"AWS": "000000000000"}, "Action": "sts:AssumeRole"}],
        }
        role, iam = arn.rsplit("/", 1)[1], self.cloud.client("iam")
        iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(trust))
        batches = self.batches(self.role_policies(role))
        iam.put_role_policy(RoleName=role, PolicyName=BATCHES, PolicyDocument=json.dumps(batches))
        made = self.cloud.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": made["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"],
            "AWS_SESSION_TOKEN": made["SessionToken"],
        }

    def operator(self) -> dict[str, str]:
        iam = self.cloud.client("iam")
        iam.create_user(UserName="operator")
        iam.attach_user_policy(UserName="operator", PolicyArn=self.cloud.outputs["OperatorPolicyArn"])
        batches = self.batches(self.managed_policy(self.cloud.outputs["OperatorPolicyArn"]))
        iam.put_user_policy(UserName="operator", PolicyName=BATCHES, PolicyDocument=json.dumps(batches))
        made = iam.create_access_key(UserName="operator")["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}

    def batches(self, statements: list[dict]) -> dict:
        """What the emulator wants besides. In IAM the right to a single call is the right to its batch."""
        single = {"sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:SendMessage"}
        found = [
            {
                "Effect": "Allow",
                "Action": [f"{action}Batch" for action in listed(one["Action"]) if action in single],
                "Resource": one["Resource"],
            }
            for one in statements
        ]
        return {"Version": "2012-10-17", "Statement": [one for one in found if one["Action"]]}

    def role_policies(self, role: str) -> list[dict]:
        iam = self.cloud.client("iam")
        self.assertEqual(iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"], [])
        names = set(iam.list_role_policies(RoleName=role)["PolicyNames"]) - {BATCHES}
        documents = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
        return [statement for document in documents for statement in document["Statement"]]

    def managed_policy(self, arn: str) -> list[dict]:
        iam = self.cloud.client("iam")
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        return iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]["Statement"]

    def settings(self, program: str) -> dict[str, str]:
        """What the task definition gives the container, secrets as Fargate reads them."""
        described = self.cloud.client("ecs").describe_task_definition(taskDefinition=f"{NAME}-{program}")
        container = described["taskDefinition"]["containerDefinitions"][0]
        settings = {one["name"]: one["value"] for one in container["environment"]}
        # Which the emulator does not describe.
        resources, _ = effective(SERVICE.template, SERVICE.parameters)
        task = resources[f"{program.capitalize()}Task"]["Properties"]["ContainerDefinitions"][0]
        nothing = {"Ref": "AWS::NoValue"}
        for secret in [] if task["Secrets"] == nothing else task["Secrets"]:
            if secret == nothing:
                continue
            output, key = re.fullmatch(r"\${(\w+)}:(\w+)::", secret["ValueFrom"]["Fn::Sub"]).groups()
            arn = self.cloud.outputs[output]
            text = self.cloud.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
            settings[secret["Name"]] = json.loads(text)[key]
        return settings

    def check_settings(self) -> None:
        """A setting that the program does not know would be passed over without a word."""
        for program in ("api", "worker"):
            done = subprocess.run([programs() / f"longhand-{program}", "--help"], capture_output=True, text=True)
            known = set(re.findall(r"^  ([A-Z_]+) ", done.stdout, re.MULTILINE))
            self.assertEqual(set(self.settings(program)) - known - {"AWS_REGION"}, set(), program)

    def start_programs(self) -> None:
        self.api, model = Client(f"http://127.0.0.1:{free_port()}"), f"127.0.0.1:{free_port()}"
        worker = f"127.0.0.1:{free_port()}"
        self.environments = {
            "sim-asr": {},
            "api": {**self.settings("api"), "LONGHAND_LISTEN": self.api.url.removeprefix("http://")},
            "worker": {
                **self.settings("worker"),
                "LONGHAND_HEALTH_LISTEN": worker,
                "ASR_BASE_URL": f"http://{model}",
                "LONGHAND_POLL_SECONDS": "1",
                "LONGHAND_SWEEP_SECONDS": "1",
                "LONGHAND_VISIBILITY_SECONDS": VISIBILITY,
                "LONGHAND_DRAIN_SECONDS": "10",
            },
        }
        for name in ("api", "worker"):
            self.environments[name]["LONGHAND_CALLBACK_HOSTS"] = self.receiver.address
        self.environments["operator"] = {
            **self.environments["worker"],
            "LONGHAND_URL": self.api.url,
            # Then doctor looks at the bucket's rules for browsers.
            "LONGHAND_CORS_ORIGINS": "https://app.example.com",
        }
        for name, environment in self.environments.items():
            endpoint = {"AWS_ENDPOINT_URL": self.recorder.address, "AWS_REGION": "us-east-1"}
            environment |= {"PATH": os.environ["PATH"], **endpoint, **self.keys.get(name, {})}
        self.start("sim-asr", "--listen", model, "--latency-ms", MODEL_MS)
        self.start("api")
        self.worker_health = f"http://{worker}/healthz"
        self.worker = self.start("worker")
        # One that nothing happens to, for a minute: then it says how it is.
        self.environments["witness"] = {
            **self.environments["worker"],
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "LONGHAND_HEALTH_LISTEN": f"127.0.0.1:{free_port()}",
        }
        self.start("witness", program="worker")
        eventually("the api is ready, its worker healthy", lambda: answers(f"{self.api.url}/readyz"))
        eventually("the worker is healthy", lambda: answers(self.worker_health))

    def start(self, name: str, *arguments: str, program: str | None = None) -> subprocess.Popen:
        log = (self.cloud.directory / f"{name}.log").open("a")
        command = [programs() / f"longhand-{program or name}", *arguments]
        process = subprocess.Popen(command, env=self.environments[name], stdout=log, stderr=log)
        self.addCleanup(log.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    # ---- journeys ---------------------------------------------------------------------------------------------------

    def jobs(self) -> None:
        path = self.api.upload()
        self.assertEqual(self.api.submit([path], wait=20)["jobStatus"], "COMPLETED")
        key = {"idempotency-key": "a"}
        first, again = (self.api.submit([path], headers=key)["jobId"] for _ in range(2))
        self.assertEqual(first, again)
        self.assertEqual(self.api.call("POST", "/transcribe", self.api.body([path, path]), key)[0], 422)

        self.assertIn("COMPLETED", self.api.call("GET", f"/transcript/{first}/events")[1][-1]["jobStatus"])
        status, found = self.api.call("GET", f"/transcript/search?userId={USER}")
        self.assertEqual((status, len(found["results"])), (200, 2))

        # Not there yet: reported as missing, not as forbidden.
        missing = path.replace(".wav", "-2.wav")
        failed = self.api.submit([missing], wait=20)
        self.assertEqual(failed["chunks"][0]["error"]["code"], "AUDIO_NOT_FOUND")
        self.put(missing)
        self.assertEqual(self.api.call("POST", f"/transcript/{failed['jobId']}/retry")[0], 202)
        self.ends(failed["jobId"], "COMPLETED")

        # The client follows the link with the api's rights.
        with urllib.request.urlopen(f"{self.api.url}/transcript/{first}/audio/0", timeout=60) as audio:
            self.assertEqual(audio.read(), RECORDING.read_bytes())
        erase = f"/transcript/{first}?audio=true"
        self.assertEqual(self.api.call("DELETE", erase)[0], 204)
        self.assertEqual(self.api.call("DELETE", erase)[0], 404)
        self.assertEqual(self.api.call("POST", "/transcribe", self.api.body([path]))[0], 202)
        self.audio = self.api.upload()

    def webhooks(self) -> None:
        for place, state in (("ok", "DELIVERED"), ("gone", "GONE"), ("refused", "PENDING")):
            extra = {"callbackUrl": f"{self.receiver.address}/{place}"}
            job = self.api.submit([self.audio], wait=20, **extra)["jobId"]
            eventually(f"webhook {place} is settled", lambda job=job, state=state: self.callback(job) == (state, True))

    def strange_messages(self) -> None:
        sqs, outputs = self.cloud.client("sqs"), self.cloud.outputs
        # The first of them comes again.
        self.refuse_next_send("worker")
        for queue, dead in (
            ("QueueUrl", "DeadLetterQueueUrl"),
            ("WebhookQueueUrl", "WebhookDeadLetterQueueUrl"),
        ):
            sqs.send_message(QueueUrl=outputs[queue], MessageBody="no message of ours")
            eventually(f"it is in {dead}", lambda dead=dead: sum(self.depth(dead)) == 1)
        eventually("the worker has parked it", lambda: self.depth("DeadLetterQueueUrl") == (0, 1))
        # A dead letter about a chunk that is done.
        done = self.api.submit([self.audio], wait=20)["jobId"]
        sqs.send_message(QueueUrl=outputs["DeadLetterQueueUrl"], MessageBody=self.message(done))
        eventually("it is dropped", lambda: self.depth("DeadLetterQueueUrl") == (0, 1))

    def without_workers(self) -> None:
        """The operator's commands, and what the sweeper finds after a message was lost."""
        sqs, outputs = self.cloud.client("sqs"), self.cloud.outputs
        failed = self.api.submit([self.audio.replace(".wav", "-3.wav")], wait=20)
        self.assertEqual(failed["jobStatus"], "FAILED")
        self.worker.send_signal(signal.SIGTERM)
        self.assertEqual(self.worker.wait(30), 0)

        self.assertEqual(self.depth("QueueUrl"), (0, 0))
        self.refuse_next_send("api")
        lost = self.api.submit([self.audio])["jobId"]
        self.assertEqual(self.depth("QueueUrl"), (0, 0))
        reasons = self.api.call("GET", "/readyz")[1]["reasons"]
        self.assertEqual(reasons, ["the queue refuses messages: KmsAccessDenied"])
        self.cloud.client("dynamodb").update_item(
            TableName=outputs["TableName"],
            Key={"jobId": {"S": lost}, "item": {"S": "job"}},
            UpdateExpression="SET nextCheckTime = :past",
            ExpressionAttributeValues={":past": {"S": "2020-01-01T00:00:00.000Z"}},
        )

        self.command("doctor", "--json", codes=(0, 1))
        sqs.send_message(QueueUrl=outputs["DeadLetterQueueUrl"], MessageBody=self.message(lost))
        listed = self.api.call("GET", "/operations?deadLetters=true")[1]["deadLetters"]["messages"]
        self.assertEqual([letter["jobId"] for letter in listed], [lost])
        self.assertEqual(self.api.call("POST", "/operations/redrive")[1], {"redriven": 1, "kept": 0})
        sent = sqs.send_message(QueueUrl=outputs["DeadLetterQueueUrl"], MessageBody=self.message(lost))
        self.assertIn(lost, self.command("dlq", "list"))
        eventually("it can be looked at again", lambda: self.depth("DeadLetterQueueUrl")[0] == 1)
        self.assertIn(lost, self.command("dlq", "show", sent["MessageId"]))
        self.assertIn("redriven", self.command("dlq", "redrive", "--job", lost))
        sqs.purge_queue(QueueUrl=outputs["QueueUrl"])
        message = {"version": 1, "jobId": failed["jobId"], "completedTime": failed["completedTime"]}
        sqs.send_message(QueueUrl=outputs["WebhookDeadLetterQueueUrl"], MessageBody=json.dumps(message))
        webhooks = ("--queue", "webhooks")
        self.assertIn(failed["jobId"], self.command("dlq", "list", *webhooks))
        eventually("all can be looked at again", lambda: self.depth("WebhookDeadLetterQueueUrl") == (2, 0))
        self.assertIn("redriven", self.command("dlq", "redrive", "--job", failed["jobId"], *webhooks))
        self.put(failed["chunks"][0]["audioChunkPath"])
        self.command("job", "retry", failed["jobId"])

        self.worker = self.start("worker")
        for job in (lost, failed["jobId"]):
            self.ends(job, "COMPLETED")

    # ---- what alarms go by ------------------------------------------------------------------------------------------

    def check_log_lines(self) -> None:
        """Each metric filter finds its line, and a number in it, in what the programs wrote."""
        resources = ALARMS.template["Resources"]
        for name, filters in resources.items():
            # No job here is late: test_alarms compares this filter with JobsInTime's. The others take a quarter of an
            # hour, and nine lost workers: worker/tests/it/alarms.rs has their lines.
            elsewhere = {"JobsLate", "ForbiddenAudio", "DeadLettered"}
            if filters["Type"] == "AWS::Logs::MetricFilter" and name not in elsewhere:
                properties = filters["Properties"]
                logs = {
                    "ApiLogGroupName": ["api"],
                    # The same program.
                    "FunctionLogGroupName": ["api"],
                    "WorkerLogGroupName": ["worker", "witness"],
                }
                logs = logs[properties["LogGroupName"]["Ref"]]
                value = properties["MetricTransformations"][0]["MetricValue"]
                with self.subTest(metric_filter=name):
                    found = partial(self.has_line, logs, properties["FilterPattern"], value)
                    eventually(f"a line of {logs} that fits {name}", found, 70)

    def has_line(self, logs: list[str], pattern: str, value: str) -> bool:
        files = [self.cloud.directory / f"{log}.log" for log in logs]
        return any(finds(pattern, value, file.read_text().splitlines()) for file in files)

    # ---- the comparison ---------------------------------------------------------------------------------------------

    def names(self) -> dict[str, str]:
        return {credentials["AWS_ACCESS_KEY_ID"]: name for name, credentials in self.keys.items()}

    def denied(self) -> set[str]:
        names, denied = self.names(), self.recorder.denied
        return {f"{names[key]} was denied {one[0]} on {one[1]}" for key, rights, _ in denied for one in rights}

    def called(self) -> dict[str, set[Right]]:
        names = self.names()
        self.assertEqual(set(self.recorder.called), set(names), "whose calls there are")
        called = {names[key]: rights for key, rights in self.recorder.called.items()}
        if (INFRA / "gateway.yaml").exists():
            # The same program.
            called["function"] = called["api"]
        return called

    def compare(self, name: str, needed: set[Right]) -> None:
        allowed = self.allowed(name)
        for action, resource in sorted(needed):
            with self.subTest(missing=f"{name} calls {action} on {resource}"):
                self.assertTrue(
                    any(action == a and fnmatchcase(resource, r) for a, r in allowed), "no policy allows it"
                )
        for action, resource in sorted(allowed):
            with self.subTest(spare=f"{name} may {action} on {resource}"):
                self.assertNotIn("*", action, "an action is to be named")
                used = any(action == a and fnmatchcase(r, resource) for a, r in needed)
                exempt = any((whose, a) == (name, action) and resource.endswith(end) for whose, a, end in UNUSED)
                self.assertTrue(used or exempt, "no journey calls it: remove it, or add it to UNUSED with the reason")

    def allowed(self, name: str) -> set[Right]:
        """Each action with each resource that it is allowed on, as deployed."""
        outputs = self.cloud.outputs
        if name == "operator":
            statements = self.managed_policy(outputs["OperatorPolicyArn"])
        else:
            output = {"api": "ApiRoleArn", "worker": "WorkerRoleArn", "function": "FunctionRoleArn"}[name]
            statements = self.role_policies(outputs[output].rsplit("/", 1)[1])
        found = set()
        for statement in statements:
            self.assertEqual(statement["Effect"], "Allow")
            found |= {(a, r) for a in listed(statement["Action"]) for r in listed(statement["Resource"])}
        return found

    def refuse_next_send(self, program: str) -> None:
        self.recorder.refusing.add(self.keys[program]["AWS_ACCESS_KEY_ID"])

    # ---- small things -----------------------------------------------------------------------------------------------

    def put(self, path: str) -> None:
        bucket, _, key = path.removeprefix("s3://").partition("/")
        self.cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=RECORDING.read_bytes())

    def message(self, job: str) -> str:
        return json.dumps({"version": 1, "jobId": job, "chunkIndex": 0, "audioChunkPath": self.audio, "options": {}})

    def ends(self, job: str, status: str) -> None:
        eventually(
            f"{job} is {status}", lambda: self.api.call("GET", f"/transcript/{job}")[1]["jobStatus"] == status, 40
        )

    def callback(self, job: str) -> tuple[str, bool]:
        callback = self.api.call("GET", f"/transcript/{job}")[1]["callback"]
        return callback["state"], callback["tries"] > 0

    def depth(self, queue: str) -> tuple[int, int]:
        """How many messages wait, and how many are hidden."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        asked = {"QueueUrl": self.cloud.outputs[queue], "AttributeNames": names}
        found = self.cloud.client("sqs").get_queue_attributes(**asked)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def command(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        command = [programs() / "longhand", *arguments]
        done = subprocess.run(command, env=self.environments["operator"], capture_output=True, text=True, timeout=300)
        self.assertIn(done.returncode, codes, f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


if __name__ == "__main__":
    unittest.main()
