"""schemathesis holds the api to the description that it serves: a stack of its own, with the simulated model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import unittest
import urllib.request
from collections import Counter
from pathlib import Path

from issuer import Issuer
from support import LOCALSTACK, PYTHON, ROOT, LocalStack, eventually, free_port

CONFIG = Path(__file__).with_name("schemathesis.toml")
USER = "ana"


class OpenApi(unittest.TestCase):
    def test_the_api_is_as_it_is_described(self):
        self.up()
        self.start_api()
        statuses, links = self.schemathesis()
        self.assertLess(max(statuses), 500)
        self.assertLess(statuses[401], statuses.total() / 10)
        self.assertGreater(statuses[202], 5)
        self.assertGreaterEqual(links, 10)

    def test_so_it_is_through_api_gateway(self):
        # Fewer calls: what is looked for is what becomes of requests on their way. The gateway leaves it to the api to
        # ask who is calling; its own 401 is not the api's to describe.
        issuer = Issuer(self)
        self.up(GATEWAY="1", GATEWAY_AUTHORIZER="false", **issuer.settings())
        self.url, self.key = self.stack.settings()["LONGHAND_URL"], issuer.token(USER)
        fewer = ["--phases", "examples,coverage,fuzzing", "--max-examples", "10"]
        statuses, _ = self.schemathesis(*fewer)
        self.assertLess(max(statuses), 500)
        self.assertLess(statuses[401], statuses.total() / 10)
        self.assertGreater(statuses[202], 0)

    def up(self, **settings: str) -> None:
        limits = {"LONGHAND_RATE_PER_MINUTE": "0", "LONGHAND_MAX_OPEN_JOBS": "0"}
        self.stack = LocalStack(self, ASR="sim", SIM_LATENCY_MS="20", LONGHAND_POLL_SECONDS="1", **limits, **settings)
        self.stack.succeeds("up")

    def schemathesis(self, *arguments: str) -> tuple[Counter, int]:
        """Nothing is found. How often each status was answered, and how many links were followed."""
        paths = [self.upload("lv_0880.wav"), self.upload("lv_0870.wav")]
        described = self.stack.directory / "openapi.json"
        hook = f"http://127.0.0.1:{self.stack.ports['WEBHOOK_PORT']}/hook"
        described.write_text(json.dumps(narrowed(self.call("/openapi.json"), paths, hook)))
        command = [
            PYTHON.with_name("schemathesis"),
            "--config-file",
            CONFIG,
            "run",
            described,
            "--checks",
            "all",
            *arguments,
        ]
        command += ["--url", self.url, "--header", f"Authorization: Bearer {self.key}"]
        calls = self.stack.directory / "calls.har"
        command += ["--report-har-path", calls]
        done = subprocess.run(
            command, cwd=self.stack.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
        )
        print(done.stdout)
        self.assertEqual(done.returncode, 0)
        # A run whose calls are turned away at the door finds nothing either.
        entries = json.loads(calls.read_text())["log"]["entries"]
        statuses = Counter(entry["response"]["status"] for entry in entries)
        print("Answers by status:", dict(sorted(statuses.items())))
        # Links that lead nowhere are passed over without a word otherwise.
        links = re.search(r"API Links: +(\d+) covered / (\d+) selected", done.stdout)
        return statuses, int(links[1]) if links else 0

    def start_api(self) -> None:
        """One that asks who calls, and reads from the bucket alone: any text is a path under an audio root."""
        environment = {**self.stack.environment, **self.stack.settings()}
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
        new_key = [target / "debug" / "longhand", "key", "new", "--user", USER, "--id", "test"]
        made = subprocess.run(new_key, env=environment, capture_output=True, text=True, check=True).stdout.split("\n")
        self.key = next(line for line in made if line.startswith("lh_"))
        keys = self.stack.directory / "keys"
        keys.write_text(next(line for line in made if line.startswith("{")) + "\n")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment |= {"LONGHAND_LISTEN": f"127.0.0.1:{port}"}
        environment |= {"LONGHAND_AUTH": "apikey", "LONGHAND_API_KEYS_FILE": str(keys)}
        del environment["LONGHAND_AUDIO_ROOT"]
        log = (self.stack.directory / "api.log").open("w")
        api = subprocess.Popen([target / "debug" / "longhand-api"], env=environment, stdout=log, stderr=log)
        self.addCleanup(log.close)
        self.addCleanup(api.wait)
        self.addCleanup(api.terminate)
        eventually("the api answers", lambda: api.poll() is None and self.answers())

    def answers(self) -> bool:
        try:
            return bool(self.call("/readyz"))
        except OSError:
            return False

    def call(self, path: str, body: dict | None = None) -> dict:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers)) as answer:
            return json.load(answer)

    def upload(self, name: str) -> str:
        audio = (LOCALSTACK / "samples" / name).read_bytes()
        file = {"name": name, "contentType": "audio/wav", "bytes": len(audio)}
        upload = self.call("/uploads", {"files": [file]})["uploads"][0]
        urllib.request.urlopen(
            urllib.request.Request(upload["url"], audio, upload["headers"], method=upload["method"])
        ).close()
        return upload["audioChunkPath"]


def narrowed(description: dict, paths: list[str], hook: str) -> dict:
    """Narrows the schemas to values that exist in this stack: audio paths, the user and the webhook receiver."""
    schemas = description["components"]["schemas"]
    schemas["AudioPath"] = {"enum": [*paths, paths[0] + ".missing"]}
    schemas["UserId"] = {"enum": [USER]}
    # Nobody listens there: it is tried again, and the calls do not see it.
    schemas["NewJob"]["properties"]["callbackUrl"] = {"enum": [hook, None]}
    # No text is a cursor but one that a search with the same parameters has answered.
    search = description["paths"]["/transcript/search"]["get"]
    search["parameters"] = [parameter for parameter in search["parameters"] if parameter["name"] != "cursor"]
    return description


if __name__ == "__main__":
    unittest.main()
