"""SCALE=3: stand-ins for apis and workers behind a real nginx, with a real Redis."""

from __future__ import annotations

import json
import os
import signal
import sys
import unittest
import urllib.error
import urllib.request
from unittest import mock

from support import LocalStack, eventually  # isort: split

from provision import ensure_program
from scale import free_pairs
from services import DIRECT, Failure, answers, free_port

# Says which one it is and what came; hangs up once, before it answers, when it finds the file that asks for it.
API = f"""#!{sys.executable}
import http.server, json, os
listen = os.environ["LONGHAND_LISTEN"]
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path != "/readyz":
            try:
                os.remove(os.environ["LONGHAND_LOCAL_DIR"] + "/hang-up")
                return
            except FileNotFoundError:
                pass
        headers = {{name.lower(): value for name, value in self.headers.items()}}
        answer = dict(listen=listen, redis=os.environ.get("REDIS_URL"), path=self.path, headers=headers)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())
    do_GET = do_POST = do_DELETE = answer
host, port = listen.split(":")
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""


class Scale(unittest.TestCase):
    def setUp(self):
        self.stack = LocalStack(self)
        self.stack.with_stand_ins()
        self.stack.program("longhand-api", API)
        self.first = free_pairs(3)
        self.redis = free_port()
        self.stack.environment |= {"SCALE_PORT": str(self.first), "REDIS_PORT": str(self.redis)}
        self.url = f"http://127.0.0.1:{self.stack.ports['API_PORT']}"

    def pids(self) -> dict[str, int]:
        return {file.stem: int(file.read_text()) for file in (self.stack.local / "pids").glob("*.pid")}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with DIRECT.open(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as answer:
            self.assertEqual(answer.headers["content-type"], "application/problem+json")
            return answer.code, json.load(answer)

    def test_up_with_another_scale_or_none_starts_and_stops_what_it_takes(self):
        output = self.stack.succeeds("up", SCALE="3")
        three = self.pids()
        instances = {f"{kind}-{number}" for kind in ("api", "worker") for number in (1, 2, 3)}
        self.assertEqual(set(three), {"emulator", "asr", "redis", "nginx"} | instances)
        for name, port in [
            ("nginx", self.stack.ports["API_PORT"]),
            ("api-1", self.first),
            ("worker-3", self.first + 5),
        ]:
            self.assertIn(f"{name} is ready on http://127.0.0.1:{port}", output)
        status = self.stack.run("status")
        self.assertEqual((status.returncode, status.stdout.count("ready")), (0, 10), status.stdout)
        env = self.stack.settings()
        self.assertEqual(env["LONGHAND_URL"], self.url)
        self.assertEqual(env["LONGHAND_LISTEN"], ",".join(f"127.0.0.1:{self.first + place}" for place in (0, 2, 4)))
        self.assertNotIn("REDIS_URL", env, "it is gone when SCALE is, and this shell may outlive it")
        # nginx leaves out for a second an api that it asked before that api listened.
        answers_of = {}

        def each_has_answered() -> bool:
            answer = self.ask("GET", "/")[1]
            answers_of[answer["listen"]] = answer
            return set(answers_of) == set(env["LONGHAND_LISTEN"].split(","))

        eventually("nginx asks each of them", each_has_answered)
        self.assertEqual({answer["redis"] for answer in answers_of.values()}, {f"redis://127.0.0.1:{self.redis}"})

        self.stack.succeeds("up", SCALE="3")
        self.assertEqual(self.pids(), three, "the second `up` started something")
        self.stack.succeeds("up", "--as-it-is")
        self.assertEqual(self.pids(), three, "a demo would be of something else")
        os.kill(three["api-2"], signal.SIGKILL)
        eventually("status shows the end", lambda: "ended" in self.stack.run("status").stdout)
        self.stack.succeeds("up", SCALE="3")
        again = self.pids()
        self.assertNotEqual(again["api-2"], three["api-2"])
        self.assertEqual(again | {"api-2": 0}, three | {"api-2": 0}, "more than the one was started again")

        self.stack.succeeds("up", SCALE="2")
        two = self.pids()
        self.assertNotEqual(two["nginx"], three["nginx"], "it has one less to ask")
        expected = {name: pid for name, pid in again.items() if not name.endswith("-3")}
        self.assertEqual(two | {"nginx": 0}, expected | {"nginx": 0})

        self.stack.succeeds("up")
        self.assertEqual(set(self.pids()), {"emulator", "asr", "api", "worker"})
        self.assertEqual(self.ask("GET", "/")[1]["listen"], self.url.removeprefix("http://"))
        self.assertEqual(self.stack.run("status").stdout.count("ready"), 4)

        self.stack.succeeds("up", SCALE="1", REDIS="none")
        self.assertEqual(set(self.pids()), {"emulator", "asr", "api-1", "worker-1", "nginx"})
        self.assertIsNone(self.ask("GET", "/")[1]["redis"])
        self.assertEqual(self.stack.run("down").returncode, 0)
        self.assertEqual(self.stack.processes(), [])
        self.assertEqual(list((self.stack.local / "pids").iterdir()), [])

    def test_what_may_be_sent_twice_is_when_an_api_goes_and_nothing_else(self):
        self.stack.succeeds("up", SCALE="3", REDIS="none")
        mark = self.stack.local / "hang-up"
        body, key = b'{"a":1}', {"idempotency_key": "k"}
        for method, path, headers, status in [
            ("GET", "/transcript/j", {}, 200),
            ("GET", "/transcript/j/events", {}, 200),
            ("POST", "/transcribe", key, 200),
            ("POST", "/uploads", {}, 200),
            ("POST", "/transcribe", {}, 502),
            ("POST", "/transcript/j/retry", {}, 502),
            ("POST", "/transcript/j/retry", key, 502),
            ("DELETE", "/transcript/j", {}, 502),
        ]:
            with self.subTest(f"{method} {path} {headers}"):
                # First nginx asks again the api that hung up before.
                eventually("all take requests", lambda: len({self.ask("GET", "/")[1]["listen"] for _ in range(9)}) == 3)
                mark.touch()
                code, answer = self.ask(method, path, body if method == "POST" else None, **headers)
                self.assertEqual(code, status, answer)
                self.assertFalse(mark.exists(), "nobody hung up")
                # It went on as it came.
                self.assertEqual(answer.get("path", path), path)
                self.assertEqual(answer.get("code"), "BAD_GATEWAY" if status == 502 else None)

        # One that is not there has been sent nothing: all may go elsewhere.
        os.kill(self.pids()["api-2"], signal.SIGKILL)
        for method in ("GET", "POST"):
            codes = {self.ask(method, "/transcript/j/retry", body if method == "POST" else None)[0] for _ in range(20)}
            self.assertEqual(codes, {200})
        # The one that would have been asked.
        for name in ("api-1", "api-3"):
            os.kill(self.pids()[name], signal.SIGKILL)
        code, answer = self.ask("POST", "/transcribe", body, **key)
        self.assertEqual((code, answer["status"]), (502, 502))

    def test_what_is_passed_on_and_what_is_not(self):
        self.stack.succeeds("up", SCALE="2", REDIS="none")
        _, answer = self.ask("GET", "/transcript/j?segments=true", x_request_id="mine", x_forwarded_proto="https")
        self.assertEqual(answer["path"], "/transcript/j?segments=true")
        forwarded = answer["headers"]
        self.assertEqual((forwarded["x-request-id"], forwarded["x-forwarded-for"]), ("mine", "127.0.0.1"))
        self.assertEqual(forwarded["x-forwarded-proto"], "http", "nobody but nginx knows")
        self.assertEqual(forwarded["host"], self.url.removeprefix("http://"))
        self.assertRegex(self.ask("GET", "/")[1]["headers"]["x-request-id"], "^[0-9a-f]{32}$")
        # As much as the api takes, and no more; its headers too.
        self.assertEqual(self.ask("POST", "/transcribe", b" " * 65_536)[0], 200)
        code, answer = self.ask("POST", "/transcribe", b" " * 65_537)
        self.assertEqual((code, answer["code"]), (413, "BODY_TOO_LARGE"))
        self.assertEqual(self.ask("GET", "/", authorization="Bearer " + "x" * 9_000)[0], 200)
        self.assertEqual(self.ask("GET", "/metrics")[0], 404)

    def test_wrong_settings_are_reported_before_anything_starts(self):
        for settings, expected in [
            ({"SCALE": "many"}, "SCALE is 'many'; it has to be a number of apis and workers, 1 to 20."),
            ({"SCALE": "2", "REDIS": "yes"}, "REDIS is 'yes'; it can be own, none."),
            ({"SCALE": "3", "SCALE_PORT": "65533"}, "ports up to 65538"),
            ({"SCALE": "2", "API_PORT": str(self.first + 2)}, "Two services have the same port"),
        ]:
            with self.subTest(expected):
                done = self.stack.run("up", **settings)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn(expected, done.stdout)
        self.assertEqual(self.stack.processes(), [])

    def test_a_program_that_cannot_be_installed_says_how_to_get_it(self):
        with (
            mock.patch("os.geteuid", return_value=1000),
            self.assertRaisesRegex(Failure, "no-such-thing is missing. It is needed. .*apt-get install a-package"),
        ):
            ensure_program("no-such-thing", "a-package", "It is needed.", self.stack.directory / "log")

    def test_a_redis_that_does_not_answer_is_not_ready(self):
        self.stack.succeeds("up", SCALE="1")
        pid = self.pids()["redis"]
        self.assertTrue(answers(f"redis://127.0.0.1:{self.redis}"))
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(os.kill, pid, signal.SIGCONT)
        self.assertFalse(answers(f"redis://127.0.0.1:{self.redis}"))
        os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    unittest.main()
