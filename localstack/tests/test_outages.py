"""The AWS endpoint goes away under load, or hangs, and comes back: the real api and worker, the simulated model."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import unittest
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

from support import LocalStack, eventually

CHUNKS = 6
# No answer may take longer: the api's own limit on a request is 25 s.
NO_HANG = 30

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(
    method: str, url: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, Message, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})}, method=method)
    try:
        with DIRECT.open(request, timeout=NO_HANG) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


class Load:
    """Submits jobs without a pause between an answer and the next, in a few threads, until it is stopped."""

    def __init__(self, url: str):
        self.url = url
        self.accepted: list[str] = []
        self.refused: list[tuple[int, Message, bytes]] = []
        self.broken: list[str] = []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(4)]
        for thread in self.threads:
            thread.start()

    def run(self) -> None:
        paths = [f"{number}.wav" for number in range(CHUNKS)]
        while not self.stopped.wait(0.4):
            try:
                status, headers, body = call(
                    "POST", f"{self.url}/transcribe", {"userId": "ana", "audioChunkPaths": paths}
                )
            except OSError as error:
                self.broken.append(repr(error))
                continue
            if status == 202:
                self.accepted.append(json.loads(body)["jobId"])
            else:
                self.refused.append((status, headers, body))

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


class Outage(unittest.TestCase):
    def setUp(self):
        self.stack = LocalStack(self, ASR="sim")
        # Everything that is waited for is short, so that the test is.
        self.stack.environment |= {
            "LONGHAND_POLL_SECONDS": "2",
            "LONGHAND_VISIBILITY_SECONDS": "6",
            "LONGHAND_SWEEP_SECONDS": "2",
            "LONGHAND_DRAIN_SECONDS": "10",
            "RUST_LOG": "error",
        }
        self.stack.succeeds("up")
        self.settings = self.stack.settings()
        audio = Path(self.settings["LONGHAND_AUDIO_ROOT"])
        for number in range(CHUNKS):
            (audio / f"{number}.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt " + bytes(1000))
        self.api = self.settings["LONGHAND_URL"]
        self.worker = f"http://127.0.0.1:{self.stack.ports['WORKER_PORT']}"
        model = f"http://127.0.0.1:{self.stack.ports['ASR_PORT']}"
        self.assertEqual(call("PUT", f"{model}/_sim/behaviour", {"latency": {"fixed": 400}})[0], 204)
        self.load = Load(self.api)
        eventually("some jobs are accepted", lambda: len(self.load.accepted) > 10)

    def readiness(self) -> tuple[int, dict]:
        status, _, body = call("GET", f"{self.api}/readyz")
        return status, json.loads(body)

    def failed_receives(self) -> int:
        text = call("GET", f"{self.worker}/metrics")[2].decode()
        counted = re.search(r'^longhand_receives_total\{outcome="error"\} (\d+)$', text, re.MULTILINE)
        return int(counted[1]) if counted else 0

    def says_that_the_table_is_away(self) -> bool:
        status, problem = self.readiness()
        if status == 200:
            return False
        self.assertEqual((status, problem["code"]), (503, "NOT_READY"))
        self.assertIn("table", problem["detail"])
        return True

    def lives(self, seconds: float) -> None:
        """For so long, the worker says that it lives: a restart would not bring the table back."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.assertEqual(call("GET", f"{self.worker}/healthz")[0], 200)
            self.assertEqual(call("GET", f"{self.api}/healthz")[0], 200)
            time.sleep(0.2)

    def recovers(self) -> None:
        eventually("the api is ready again", lambda: self.readiness()[0] == 200)
        accepted = len(self.load.accepted)
        eventually("jobs are accepted again", lambda: len(self.load.accepted) > accepted + 10)
        self.load.stop()
        self.assertEqual(self.load.broken, [], "answers that never came")
        for status, headers, body in self.load.refused:
            problem = json.loads(body)
            self.assertEqual((status, problem["code"]), (503, "STORE_UNAVAILABLE"), problem)
            self.assertEqual(headers["content-type"], "application/problem+json")
            self.assertGreater(int(headers["retry-after"]), 0)
        waiting = set(self.load.accepted)
        self.assertEqual(len(waiting), len(self.load.accepted))

        def all_ended() -> bool:
            for job in list(waiting):
                status, _, body = call("GET", f"{self.api}/transcript/{job}")
                self.assertEqual(status, 200, f"{job} was accepted and is gone: {body!r}")
                result = json.loads(body)
                if result["jobStatus"] != "IN_PROGRESS":
                    self.assertEqual(result["jobStatus"], "COMPLETED", result)
                    waiting.discard(job)
            return not waiting

        eventually("every accepted job is completed", all_ended, within=180)
        self.assertEqual(self.depth("LONGHAND_DLQ_URL"), 0, "dead letters")
        eventually("the queue is empty", lambda: self.depth("LONGHAND_QUEUE_URL") == 0, within=60)

    def depth(self, queue: str) -> int:
        headers = {
            "x-amz-target": "AmazonSQS.GetQueueAttributes",
            "content-type": "application/x-amz-json-1.0",
            "authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, Signature=x",
        }
        body = {"QueueUrl": self.settings[queue], "AttributeNames": ["All"]}
        status, _, answer = call("POST", self.settings["AWS_ENDPOINT_URL"], body, headers)
        self.assertEqual(status, 200, answer)
        counts = json.loads(answer)["Attributes"]
        return sum(int(count) for name, count in counts.items() if name.startswith("ApproximateNumberOf"))

    def test_an_emulator_that_is_stopped_under_load_and_started_again(self):
        emulator = self.stack.pid("emulator")
        # In order, since it keeps its state only then.
        os.kill(emulator, signal.SIGTERM)
        eventually("the emulator is gone", lambda: emulator not in self.stack.processes())
        before = self.failed_receives()
        eventually("the api says so", self.says_that_the_table_is_away)
        refused = len(self.load.refused)
        self.lives(10)
        self.assertGreater(len(self.load.refused), refused, "submits are answered meanwhile")
        # Two queues, and a pause after each failure that grows: far fewer than one a second each.
        self.assertLess(self.failed_receives() - before, 20, "the worker asks and asks")

        self.stack.succeeds("up")
        self.assertNotEqual(self.stack.pid("emulator"), emulator)
        self.recovers()

    def test_an_emulator_that_hangs_under_load_and_goes_on(self):
        emulator = self.stack.pid("emulator")
        os.kill(emulator, signal.SIGSTOP)
        try:
            eventually("the api says so", self.says_that_the_table_is_away)
            # Longer than the three tries of a call, so that some submits are refused.
            self.lives(22)
            self.assertGreater(len(self.load.refused), 0, "submits are answered meanwhile")
        finally:
            os.kill(emulator, signal.SIGCONT)
        self.recovers()


if __name__ == "__main__":
    unittest.main()
