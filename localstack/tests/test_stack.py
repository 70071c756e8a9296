"""stack.py as it is used, with stand-ins for the programs that it starts and a real emulator."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import unittest
from pathlib import Path

from support import DIES, LOCALSTACK, PYTHON, STAND_IN, WILL_NOT_STOP, LocalStack, eventually


class Lifecycle(unittest.TestCase):
    def setUp(self):
        self.stack = LocalStack(self)
        self.stack.with_stand_ins()

    def fails(self, *arguments: str, **settings: str) -> str:
        done = self.stack.run(*arguments, **settings)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertNotIn("Traceback", done.stdout)
        return done.stdout

    def test_up_again_starts_only_what_is_missing_and_down_leaves_nothing(self):
        output = self.stack.succeeds("up")
        first = self.stack.pids()
        for name, setting in [("emulator", "EMULATOR"), ("asr", "ASR"), ("api", "API"), ("worker", "WORKER")]:
            self.assertIn(f"{name} is ready on http://127.0.0.1:{self.stack.ports[setting + '_PORT']}", output)
        self.assertNotIn(None, first.values())

        self.stack.succeeds("up")
        self.assertEqual(self.stack.pids(), first, "the second `up` started something")

        os.kill(first["worker"], signal.SIGKILL)
        eventually("status shows the end", lambda: "ended" in self.stack.run("status").stdout)
        self.stack.succeeds("up")
        second = self.stack.pids()
        self.assertNotEqual(second["worker"], first["worker"])
        self.assertEqual(second | {"worker": 0}, first | {"worker": 0}, "more than the worker was started again")
        self.assertEqual(self.stack.run("status").stdout.count("ready"), 4)

        self.assertEqual(self.stack.run("down").returncode, 0)
        self.assertEqual(self.stack.processes(), [])
        self.assertEqual(list((self.stack.local / "pids").iterdir()), [])
        self.assertEqual(self.stack.run("status").returncode, 1)

    def test_settings_name_what_was_deployed_and_data_outlive_a_restart(self):
        self.stack.succeeds("up")
        settings = self.stack.settings()
        endpoint = f"http://127.0.0.1:{self.stack.ports['EMULATOR_PORT']}"
        self.assertEqual(settings["AWS_ENDPOINT_URL"], endpoint)
        self.assertEqual(settings["LONGHAND_TABLE"], "longhand-jobs")
        self.assertEqual(settings["LONGHAND_QUEUE_URL"], f"{endpoint}/000000000000/longhand-chunks")
        self.assertEqual(settings["LONGHAND_DLQ_URL"], f"{endpoint}/000000000000/longhand-chunks-dlq")
        self.assertEqual(settings["LONGHAND_WEBHOOK_QUEUE_URL"], f"{endpoint}/000000000000/longhand-webhooks")
        self.assertEqual(settings["LONGHAND_WEBHOOK_DLQ_URL"], f"{endpoint}/000000000000/longhand-webhooks-dlq")
        self.assertEqual(settings["LONGHAND_URL"], f"http://127.0.0.1:{self.stack.ports['API_PORT']}")
        self.assertTrue(Path(settings["LONGHAND_AUDIO_ROOT"]).is_dir())

        def aws(code: str) -> str:
            script = f"import boto3; session = boto3.Session(region_name='us-east-1'); {code}"
            command = [str(PYTHON), "-c", script]
            environment = {**self.stack.environment, **settings}
            return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

        key = "{'jobId': 'a', 'item': 'job'}"
        table = "table = session.resource('dynamodb').Table('longhand-jobs');"
        queue = f"queue = session.resource('sqs').Queue('{settings['LONGHAND_QUEUE_URL']}');"
        bucket = f"bucket = session.resource('s3').Bucket('{settings['LONGHAND_AUDIO_BUCKETS']}');"
        aws(f"{table} table.put_item(Item={key})")
        aws(f"{queue} queue.send_message(MessageBody='kept')")
        aws(f"{bucket} bucket.put_object(Key='kept.wav', Body=b'\\0\\xff')")
        self.stack.run("down")
        self.stack.succeeds("up")
        self.assertEqual(aws(f"{table} print(table.get_item(Key={key})['Item']['item'])"), "job")
        self.assertEqual(aws(f"{queue} print(queue.receive_messages(WaitTimeSeconds=1)[0].body)"), "kept")
        self.assertEqual(aws(f"{bucket} print(bucket.Object('kept.wav').get()['Body'].read())"), r"b'\x00\xff'")

    def test_other_settings_or_another_build_restart_a_service(self):
        self.stack.succeeds("up")
        first = self.stack.pids()
        output = self.stack.succeeds("up", LONGHAND_CONCURRENCY="3")
        self.assertIn("worker has another build or other settings", output)
        second = self.stack.pids()
        self.assertNotEqual(second["worker"], first["worker"])
        self.assertEqual(second["emulator"], first["emulator"])
        self.assertEqual(second["asr"], first["asr"])

        self.stack.program("longhand-api", STAND_IN + "# newer")
        self.stack.succeeds("up", LONGHAND_CONCURRENCY="3")
        third = self.stack.pids()
        self.assertNotEqual(third["api"], second["api"])
        self.assertEqual(third | {"api": 0}, second | {"api": 0})

    def test_a_taken_port_is_named_with_its_owner(self):
        with socket.create_server(("127.0.0.1", self.stack.ports["API_PORT"])):
            output = self.fails("up")
        self.assertIn(f"api cannot start: port {self.stack.ports['API_PORT']} is taken", output)
        self.assertIn("API_PORT=NUMBER make up", output)
        if sys.platform == "linux":
            self.assertIn(f"process {os.getpid()} (", output)
        self.assertEqual(self.stack.processes(), [], "something was started before the ports were looked at")

    def test_a_service_that_dies_while_starting_shows_its_last_words(self):
        self.stack.program("longhand-worker", DIES)
        output = self.fails("up")
        self.assertIn("worker ended while starting", output)
        self.assertIn("LONGHAND_TABLE is not to its liking", output)
        self.assertIn(str(self.stack.local / "logs" / "worker.log"), output)
        self.assertIsNone(self.stack.pid("worker"))

    def test_a_process_that_was_given_an_old_id_is_neither_counted_nor_killed(self):
        self.stack.succeeds("up")
        os.kill(self.stack.pid("worker"), signal.SIGKILL)
        # As if the system had given the worker's id to a stranger: this process.
        for suffix in ("pid", "json"):
            file = self.stack.local / "pids" / f"worker.{suffix}"
            file.write_text(file.read_text().replace(str(self.stack.pid("worker")), str(os.getpid())))
        self.stack.succeeds("up")
        self.assertNotEqual(self.stack.pid("worker"), os.getpid())
        self.assertEqual(self.stack.run("down").returncode, 0)  # and this test is still alive to say so

    def test_what_does_not_end_is_killed_and_reported(self):
        self.stack.program("longhand-sim-asr", WILL_NOT_STOP)
        self.stack.succeeds("up")
        output = self.stack.run("down").stdout
        self.assertIn("asr did not end within 5 s of SIGTERM: killed", output)
        self.assertEqual(self.stack.processes(), [])

    def test_wrong_settings_are_reported_before_anything_starts(self):
        nothing = str(self.stack.directory / "nothing")
        os.mkdir(nothing)
        cases = [
            ({"EMULATOR": "moto"}, "EMULATOR is 'moto'; it can be ministack, localstack, localstack-docker, none."),
            ({"API_PORT": "high"}, "API_PORT is 'high'; it has to be a port number."),
            ({"API_PORT": self.stack.environment["ASR_PORT"]}, "Two services have the same port"),
            ({"ASR": "none"}, "ASR_BASE_URL"),
            ({"EMULATOR": "localstack-docker", "PATH": nothing}, "needs Docker, which is missing"),
            ({"LONGHAND_BIN_DIR": nothing}, f"LONGHAND_BIN_DIR lacks {nothing}/longhand-api"),
            (
                {"EMULATOR": "none", "LONGHAND_TABLE": "jobs"},
                "needs these settings: LONGHAND_QUEUE_URL, LONGHAND_DLQ_URL, LONGHAND_AUDIO_BUCKETS, AWS_REGION.",
            ),
        ]
        for settings, expected in cases:
            with self.subTest(expected):
                self.assertIn(expected, self.fails("up", **settings))
        with self.subTest("docker without its engine"):
            self.stack.program("docker", '#!/bin/sh\n[ "$1" = compose ] || { echo "Cannot connect" >&2; exit 1; }\n')
            path = f"{self.stack.directory / 'bin'}:/bin:/usr/bin"
            output = self.fails("up", EMULATOR="localstack-docker", PATH=path)
            self.assertIn("its engine does not answer. Cannot connect", output)
        with self.subTest("cargo"):
            del self.stack.environment["LONGHAND_BIN_DIR"]
            self.assertIn("cargo is missing. Install Rust", self.fails("up", PATH=nothing))
        self.assertEqual(self.stack.processes(), [])

    def test_without_an_emulator_what_the_environment_names_is_used_as_it_is(self):
        resources = {
            "LONGHAND_TABLE": "mine",
            "LONGHAND_QUEUE_URL": "https://sqs.example/1/chunks",
            "LONGHAND_DLQ_URL": "https://sqs.example/1/dlq",
            "LONGHAND_AUDIO_BUCKETS": "one,two",
            "AWS_REGION": "eu-west-1",
            "AWS_SECRET_ACCESS_KEY": "not to be written down",
        }
        self.stack.succeeds("up", EMULATOR="none", **resources)
        self.assertIsNone(self.stack.pid("emulator"))
        written = (self.stack.local / "env").read_text()
        self.assertIn("export LONGHAND_QUEUE_URL=https://sqs.example/1/chunks\n", written)
        self.assertIn("export AWS_REGION=eu-west-1\n", written)
        self.assertNotIn("not to be written down", written)


class Demo(unittest.TestCase):
    """What demo.py makes of the transcript; the real thing is in test_whole_stack.py."""

    def setUp(self):
        self.stack = LocalStack(self)
        self.stack.with_stand_ins()
        self.stack.local.mkdir()
        (self.stack.local / "env").write_text("export LONGHAND_URL='http://127.0.0.1:1'\n")

    def demo(self, transcription: str) -> subprocess.CompletedProcess:
        job = json.dumps({"jobId": "j", "jobStatus": "COMPLETED", "transcription": transcription})
        self.stack.program("longhand", f"#!/bin/sh\ncat <<'END'\n{job}\nEND\n")
        return self.stack.run(script="demo.py")

    def test_a_true_transcript_passes_and_a_poor_one_does_not(self):
        references = json.loads((LOCALSTACK / "samples" / "references.json").read_text())
        spoken = " ".join(reference["text"] for reference in references)
        done = self.demo(spoken.upper().replace("ILL-DISPOSED", "ILL DISPOSED"))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("Word error rate  0.0%", done.stdout)

        three_of_92 = spoken.replace("John", "Jon").replace("Dashwood", "").replace("leisure", "some leisure")
        done = self.demo(three_of_92)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("Word error rate  3.3%", done.stdout)

        done = self.demo(spoken.replace("you", "thou"))
        self.assertEqual(done.returncode, 1, done.stdout)

    def test_a_failed_job_fails_the_demo(self):
        self.stack.program("longhand", "#!/bin/sh\nexit 4\n")
        done = self.stack.run(script="demo.py")
        self.assertEqual(done.returncode, 1)
        self.assertIn("longhand transcribe failed with exit code 4", done.stdout)


class PrivateEmulator(unittest.TestCase):
    """stack.py test -- COMMAND"""

    def setUp(self):
        self.stack = LocalStack(self)

    def test_the_command_gets_an_emulator_and_its_exit_code_is_handed_on(self):
        # Rust tests deploy like this: CloudFormation's query interface, without an SDK.
        script = f"""
import os, urllib.parse, urllib.request
body = {{"Action": "CreateStack", "Version": "2010-05-15", "StackName": "t1",
        "TemplateBody": open("{LOCALSTACK.parent}/infra/data.yaml").read(),
        "Parameters.member.1.ParameterKey": "Name", "Parameters.member.1.ParameterValue": "t1"}}
def call(body):
    data = urllib.parse.urlencode(body).encode()
    return urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"] + "/", data).read().decode()
call(body)
answer = call({{"Action": "DescribeStacks", "Version": "2010-05-15", "StackName": "t1"}})
assert "<StackStatus>CREATE_COMPLETE</StackStatus>" in answer, answer
url = os.environ["AWS_ENDPOINT_URL"] + "/000000000000/t1-chunks"
assert "<OutputKey>QueueUrl</OutputKey><OutputValue>" + url + "</OutputValue>" in answer, answer
assert os.environ["LONGHAND_REPO"] == "{LOCALSTACK.parent}" and os.environ["AWS_REGION"] == "us-east-1"
raise SystemExit(7)
"""
        done = self.stack.run("test", "--", sys.executable, "-c", script, AWS_PROFILE="mine")
        self.assertEqual(done.returncode, 7, done.stdout)
        self.assertEqual(self.stack.processes(), [])

    def test_the_emulator_is_stopped_when_the_command_cannot_be_run_or_is_killed(self):
        done = self.stack.run("test", "--", "/no/such/command")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("There is no command /no/such/command", done.stdout)
        self.assertEqual(self.stack.processes(), [])

        done = self.stack.run("test", "--", "sh", "-c", "kill -9 $$")
        self.assertEqual(done.returncode, 128 + 9, done.stdout)
        self.assertEqual(self.stack.processes(), [])

    def test_the_emulator_is_stopped_when_the_runner_is_terminated(self):
        started = self.stack.directory / "started"
        command = [
            sys.executable,
            str(LOCALSTACK / "stack.py"),
            "test",
            "--",
            "sh",
            "-c",
            f"touch {started}; exec sleep 60",
        ]
        runner = subprocess.Popen(command, env=self.stack.environment, stdout=subprocess.DEVNULL)
        eventually("the command runs", started.exists)
        runner.terminate()
        self.assertEqual(runner.wait(timeout=40), 128 + signal.SIGTERM)
        self.assertEqual(self.stack.processes(), [])


if __name__ == "__main__":
    unittest.main()
