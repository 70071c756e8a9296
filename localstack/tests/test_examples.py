"""The commands of README, docs/api.md and docs/cli.md work as printed, as does the first button of /docs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import unittest
import urllib.request
import wave
from pathlib import Path
from types import SimpleNamespace

from support import ROOT, LocalStack, eventually

SAMPLES = ROOT / "localstack" / "samples"


class Examples(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = LocalStack(
            SimpleNamespace(addCleanup=cls.addClassCleanup), ASR="sim", SIM_LATENCY_MS="20", LONGHAND_POLL_SECONDS="1"
        )
        cls.stack.succeeds("up")
        cls.settings = cls.stack.settings()
        cls.url = cls.settings["LONGHAND_URL"]

    def test_an_own_file_and_a_round_trip_as_in_the_readme(self) -> None:
        demo, own, round_trip = blocks("README.md")
        self.assertEqual(demo.split()[:2], ["make", "demo"])
        self.assertLessEqual(len(own.splitlines()), 5)
        ran = self.bash(own)
        self.assertIn("recording.wav", ran.stdout, "the simulated model names the file")
        self.completes(json.loads(self.bash(round_trip).stdout))

    def test_the_api_by_example(self) -> None:
        out = self.bash("\n".join([". .local/env", *blocks("docs/api.md")])).stdout
        self.assertRegex(out, r'(?s)lv_0870.*lv_0880.*WEBVTT.*{"word":.*event: job.*RIFF.*"chunkCount": \d')
        self.assertRegex(out, r"(?s)NOTHING_FAILED\n204\n(COMPLETED|IN_PROGRESS)\n")
        self.assertTrue(out.endswith("#/userId\n#/audioChunkPaths/0\n#/colour\n"), out)

    def test_the_command_line_by_example(self) -> None:
        users, operators = blocks("docs/cli.md")
        out = self.bash(f"{users}\n{operators}").stdout
        for expected in ("chunk 1 of 1 COMPLETED", "lh_", "JOB ID", "is erased", "ok       table"):
            self.assertIn(expected, out)
        for name in ("talk.srt", "long.srt"):
            self.assertIn("00:00:00,000 -->", (self.folder / name).read_text())

    def bash(self, script: str) -> subprocess.CompletedProcess:
        """In a folder that looks like the repository after `make up`, with the user's recordings beside."""
        self.folder = Path(self.stack.directory) / self.id().rpartition(".")[2]
        self.folder.mkdir(exist_ok=True)
        for name in ("target", "localstack"):
            if not (self.folder / name).exists():
                (self.folder / name).symlink_to(ROOT / name)
        for name in ("recording", "part1", "part2"):
            shutil.copy(SAMPLES / "lv_0880.wav", self.folder / f"{name}.wav")
        with wave.open(str(SAMPLES / "jfk.wav")) as speech, wave.open(str(self.folder / "talk.wav"), "wb") as talk:
            talk.setparams(speech.getparams())
            talk.writeframes(speech.readframes(speech.getnframes()) * 33)
        if not (self.folder / ".local").exists():
            (self.folder / ".local").symlink_to(self.stack.local)
        script = re.sub(r"(?m)^make (up|down)\b.*$", ":", script)
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=self.folder, env=self.stack.environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"{done.stdout}\n{done.stderr}")
        return done

    def test_the_first_button_of_docs(self) -> None:
        """The page sends the first example of the first operation unchanged."""
        description = self.get("/openapi.json")
        path, method, operation = next(
            (path, method, operation)
            for tag in description["tags"]
            for path, operations in description["paths"].items()
            for method, operation in operations.items()
            if tag["name"] in operation["tags"]
        )
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        body = json.dumps(next(iter(examples.values()))["value"]).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers, method=method.upper())
        with urllib.request.urlopen(request, timeout=20) as answer:
            self.assertEqual(answer.status, 202)
            self.completes(json.load(answer))

    def completes(self, accepted: dict) -> None:
        job = f"/transcript/{accepted['jobId']}"
        eventually("the job ends", lambda: self.get(job)["jobStatus"] != "IN_PROGRESS")
        ended = self.get(job)
        self.assertEqual(ended["jobStatus"], "COMPLETED", ended)
        self.assertTrue(ended["transcription"])

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return json.load(answer)


def blocks(document: str) -> list[str]:
    """The commands of a document: its fences of `sh`."""
    return re.findall(r"(?ms)^```sh\n(.*?)^```$", (ROOT / document).read_text())


if __name__ == "__main__":
    unittest.main()
