"""A client of the api, and what can be read in the logs of what it did."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

RECORDING = Path(__file__).resolve().parents[2] / "localstack" / "samples" / "lv_0880.wav"
USER = "ana"


class Client:
    def __init__(self, url: str):
        self.url = url

    def call(self, method: str, path: str, body: dict | None = None, headers: dict | None = None) -> tuple[int, object]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        if path.endswith("/events"):
            return status, [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        return status, json.loads(text) if text else None

    def body(self, paths: list[str], **extra: str) -> dict:
        return {"userId": USER, "audioChunkPaths": paths, **extra}

    def submit(self, paths: list[str], wait: int = 0, headers: dict | None = None, **extra: str) -> dict:
        headers = {**(headers or {}), **({"prefer": f"wait={wait}"} if wait else {})}
        status, answer = self.call("POST", "/transcribe", self.body(paths, **extra), headers)
        assert status == (200 if wait else 202), answer
        return answer

    def upload(self) -> str:
        """As a client without an account at AWS does."""
        audio = RECORDING.read_bytes()
        file = {"name": "a.wav", "contentType": "audio/wav", "bytes": len(audio)}
        status, answer = self.call("POST", "/uploads", {"userId": USER, "files": [file]})
        assert status == 200, answer
        upload = answer["uploads"][0]
        request = urllib.request.Request(upload["url"], audio, upload["headers"], method=upload["method"])
        with urllib.request.urlopen(request, timeout=120) as response:
            assert response.status == 200
        return upload["audioChunkPath"]


def finds(pattern: str, value: str, lines: Iterable[str]) -> bool:
    """Whether a metric filter finds one of these lines of JSON, and a number in it."""
    # Of CloudWatch's language no more than this is used.
    term = re.compile(r'\$\.(\w+) (?:= (?:"([^"]*)"|\*)|<= (\d+))')
    terms = [term.fullmatch(one).groups() for one in pattern.strip("{} ").split(" && ")]
    for line in map(json.loads, lines):
        if all(
            field in line and wanted in (None, line[field]) and (most is None or line[field] <= int(most))
            for field, wanted, most in terms
        ):
            number = line[value.removeprefix("$.")] if value.startswith("$.") else float(value)
            return isinstance(number, int | float) and not isinstance(number, bool)
    return False
