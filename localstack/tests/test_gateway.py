"""make up GATEWAY=1: the api as a Lambda function behind API Gateway, both in the emulator."""

from __future__ import annotations

import io
import json
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request
from contextlib import redirect_stdout
from pathlib import Path

from issuer import Issuer, Key
from support import LOCALSTACK, PYTHON, LocalStack

# By the path that support makes.
# isort: split
from gateway import package
from provision import Binaries

SAMPLE = LOCALSTACK / "samples" / "lv_0880.wav"


class Gateway(unittest.TestCase):
    def call(self, path: str, token: str | None = None, body: dict | None = None) -> tuple[int, dict, dict]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.stack.settings()["LONGHAND_URL"] + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), dict(error.headers)

    def longhand(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = {**self.stack.environment, **self.stack.settings()}
        return subprocess.run(
            [Binaries().path("longhand"), *arguments], env=environment, capture_output=True, text=True
        )

    def api_id(self) -> str:
        script = "import boto3; print([api['ApiId'] for api in boto3.client('apigatewayv2').get_apis()['Items']])"
        environment = {**self.stack.environment, **self.stack.settings(), "AWS_DEFAULT_REGION": "us-east-1"}
        return subprocess.run(
            [PYTHON, "-c", script], env=environment, check=True, capture_output=True, text=True
        ).stdout

    def test_up_with_the_gateway_again_and_without(self):
        self.stack = LocalStack(self, ASR="sim", LONGHAND_POLL_SECONDS="1", GATEWAY="1")
        output = self.stack.succeeds("up")
        self.assertRegex(output, r"packaged longhand-api: \d+\.\d MB stripped, \d+\.\d MB zipped")
        url, first, api = self.stack.settings()["LONGHAND_URL"], self.stack.pids(), self.api_id()
        self.assertIn("/_aws/execute-api/", url)
        self.assertIsNone(first["api"], "there is a server besides the function")
        status = self.stack.run("status")
        self.assertEqual(status.returncode, 0, status.stdout)
        self.assertRegex(status.stdout, r"gateway +- +http://\S+/\$default +ready")

        # The command line, which waits and watches, by way of the function.
        done = self.longhand("transcribe", str(SAMPLE), "--user", "ana", "--wait", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        job = json.loads(done.stdout)
        self.assertEqual(job["jobStatus"], "COMPLETED")
        done = self.longhand("watch", job["jobId"])
        self.assertEqual((done.returncode, done.stdout.splitlines()[-1]), (0, f"job {job['jobId']} COMPLETED"))
        self.assertEqual(self.call("/metrics")[0], 404)

        # Without a change nothing is made again. A changed setting updates the function, and the API stays the same.
        self.assertNotIn("packaged", self.stack.succeeds("up"))
        self.assertEqual((self.stack.settings()["LONGHAND_URL"], self.stack.pids()), (url, first))
        self.stack.succeeds("up", LONGHAND_RATE_PER_MINUTE="7")
        self.assertEqual((self.stack.settings()["LONGHAND_URL"], self.api_id()), (url, api))
        body = {"userId": "ana", "audioChunkPaths": [job["chunks"][0]["audioChunkPath"]]}
        status, accepted, headers = self.call("/transcribe", body=body)
        self.assertEqual(status, 202, accepted)
        self.assertIn("q=7", {name.lower(): value for name, value in headers.items()}["ratelimit-policy"])

        self.stack.succeeds("up", GATEWAY="0")
        self.assertEqual(self.stack.settings()["LONGHAND_URL"], f"http://127.0.0.1:{self.stack.ports['API_PORT']}")
        self.assertEqual(self.call(f"/transcript/{job['jobId']}")[1]["jobStatus"], "COMPLETED")
        self.stack.succeeds("up")
        self.assertEqual((self.stack.settings()["LONGHAND_URL"], self.stack.pid("api")), (url, None))
        self.assertEqual(self.stack.run("down").returncode, 0)
        self.assertEqual(self.stack.processes(), [], "the function's processes are left")

    def test_the_gateway_turns_away_who_has_no_good_token(self):
        issuer = Issuer(self)
        self.stack = LocalStack(self, ASR="sim", GATEWAY="1", **issuer.settings())
        self.stack.succeeds("up")
        search = "/transcript/search"
        other = Key("one")
        for token in (
            None,
            "nonsense",
            issuer.token("ana", other),
            issuer.token("ana", aud="another"),
            issuer.token("ana", iss="http://127.0.0.1:1"),
            issuer.token("ana", exp=1),
        ):
            status, answer, _ = self.call(search, token)
            # The gateway's own words: the function was not asked.
            self.assertEqual((status, answer), (401, {"message": "Unauthorized"}), token)
        for path in ("/healthz", "/readyz", "/openapi.json"):
            self.assertEqual(self.call(path)[0], 200, path)

        # The api reads the same token, and knows by it who is calling.
        ana, bob = issuer.token("ana"), issuer.token("bob")
        path = f"s3://{self.stack.settings()['LONGHAND_AUDIO_BUCKETS']}/a.wav"
        status, job, _ = self.call("/transcribe", ana, {"audioChunkPaths": [path]})
        self.assertEqual((status, job.get("userId")), (202, "ana"), job)
        self.assertEqual(self.call(f"/transcript/{job['jobId']}", ana)[0], 200)
        self.assertEqual(self.call(f"/transcript/{job['jobId']}", bob)[0], 404)
        self.assertEqual(self.call(f"{search}?userId=ana", bob)[1]["code"], "FORBIDDEN")

    def test_impossible_settings_are_reported_first(self):
        self.stack = LocalStack(self, GATEWAY="1")
        self.stack.with_stand_ins()
        for settings, expected in (
            ({"GATEWAY": "yes"}, "GATEWAY is 'yes'; it can be 1, or 0."),
            ({"EMULATOR": "localstack"}, "GATEWAY=1 needs EMULATOR=ministack"),
            ({"LONGHAND_AUTH": "apikey"}, "GATEWAY=1 has no file of API keys"),
        ):
            done = self.stack.run("up", **settings)
            self.assertNotEqual(done.returncode, 0, done.stdout)
            self.assertIn(expected, done.stdout)
            self.assertNotIn("Traceback", done.stdout)
        self.assertEqual(self.stack.processes(), [])


class Package(unittest.TestCase):
    def test_a_program_that_lambda_cannot_start_is_reported(self):
        with tempfile.TemporaryDirectory() as folder:
            source, program = Path(folder) / "main.c", Path(folder) / "program"
            # As if it asked for a newer one: no more than the name has to be in it.
            source.write_text('const char *needs = "GLIBC_2.99"; int main(void) { return needs == 0; }')
            subprocess.run(["cc", "-o", program, source], check=True)
            with redirect_stdout(io.StringIO()) as output:
                first = package(program, Path(folder) / "function")
            self.assertIn("needs glibc 2.99, and Lambda has 2.34", output.getvalue())
            self.assertIn("cargo-zigbuild", output.getvalue())
            with redirect_stdout(io.StringIO()) as output:
                again = package(program, Path(folder) / "function")
            self.assertEqual((again, output.getvalue()), (first, ""), "it was made again")


if __name__ == "__main__":
    unittest.main()
