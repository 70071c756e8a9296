"""The speech-to-text server's contract, over HTTP and with the real model."""

from __future__ import annotations

import http.client
import io
import json
import re
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from support import LOCALSTACK, PYTHON, TOOLS, eventually, free_port

# By the path that support makes.
# isort: split
from asr_engine import move_into_speech
from wer import errors, words

SAMPLES = LOCALSTACK / "samples"
REFERENCES = json.loads((SAMPLES / "references.json").read_text())


def form(fields: list[tuple[str, str]], file: bytes | None, name: str = "audio.wav") -> tuple[bytes, str]:
    parts = [
        f'--X\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in fields
    ]
    if file is not None:
        head = (
            f'--X\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: audio/wav\r\n\r\n'
        )
        parts.append(head.encode() + file + b"\r\n")
    return b"".join([*parts, b"--X--\r\n"]), "multipart/form-data; boundary=X"


def wav(seconds: float, sample: bytes = b"\0\0") -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(sample * int(seconds * 16_000))
    return buffer.getvalue()


class WordTimes(unittest.TestCase):
    def test_each_word_is_in_one_span_of_speech(self):
        spans = [(0.1, 2.0), (3.0, 5.0)]
        for what, given, kept in [
            ("in a span", (0.5, 0.9), (0.5, 0.9)),
            ("begins in the pause", (2.4, 3.5), (3.0, 3.5)),
            ("begins before the pause", (1.8, 3.5), (3.0, 3.5)),
            ("ends in the pause", (1.7, 2.5), (1.7, 2.0)),
            ("ends just after the pause", (1.7, 3.05), (1.7, 2.0)),
            ("in the pause", (2.1, 2.2), (3.0, 3.0)),
            ("before all speech", (0.0, 0.05), (0.1, 0.1)),
            ("after all speech", (5.2, 5.6), (5.0, 5.0)),
        ]:
            with self.subTest(what):
                word = SimpleNamespace(start=given[0], end=given[1])
                move_into_speech([word], spans)
                self.assertEqual((word.start, word.end), kept)


class Server:
    def __init__(self, *arguments: str):
        self.address = f"http://127.0.0.1:{free_port()}"
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the server
        listen = self.address.removeprefix("http://")
        command = [str(PYTHON), str(LOCALSTACK / "asr_server.py"), "--listen", listen, "--model", str(TOOLS / "model")]
        self.process = subprocess.Popen([*command, *arguments], stdout=self.log, stderr=self.log)
        eventually("the server has loaded its model", lambda: self.call("/health")[0] == 200, within=180)

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.log.close()
        return code

    def call(self, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, str, dict[str, str]]:
        request = urllib.request.Request(self.address + path, body, {"Content-Type": kind} if kind else {})
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), dict(error.headers)
        except OSError:
            return 0, "", {}

    def transcribe(
        self, audio: bytes | None, *fields: tuple[str, str], model: str = "whisper-base", task: str = "transcriptions"
    ):
        body, kind = form([("model", model), *fields], audio)
        return self.call(f"/v1/audio/{task}", body, kind)


class Contract(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.short = (SAMPLES / "lv_0930.wav").read_bytes()

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        assert code == 0, f"SIGTERM ended it with {code}"

    def refused(self, status: int, param: str | None, answer) -> dict:
        self.assertEqual(answer[0], status, answer[1])
        error = json.loads(answer[1])["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertEqual(error["param"], param)
        return error

    def test_every_word_of_the_samples_is_right(self):
        with ThreadPoolExecutor(len(REFERENCES)) as calls:
            answers = calls.map(
                lambda one: self.server.transcribe((SAMPLES / one["file"]).read_bytes(), ("language", "en")), REFERENCES
            )
        for reference, (status, body, _) in zip(REFERENCES, answers, strict=True):
            self.assertEqual(status, 200, body)
            self.assertEqual(errors(words(reference["text"]), words(json.loads(body)["text"])), 0, body)

    def test_formats(self):
        sentence = "He might even have been made amiable himself."
        asked = ("language", "en")
        status, body, headers = self.server.transcribe(self.short, asked, ("response_format", "text"))
        self.assertEqual((status, body), (200, sentence + "\n"))
        self.assertTrue(headers["content-type"].startswith("text/plain"))

        _, body, headers = self.server.transcribe(self.short, asked, ("response_format", "srt"))
        self.assertRegex(body, rf"^1\n00:00:00,\d{{3}} --> 00:00:0\d,\d{{3}}\n{sentence}\n\n$")
        self.assertTrue(headers["content-type"].startswith("application/x-subrip"))

        _, body, headers = self.server.transcribe(self.short, asked, ("response_format", "vtt"))
        self.assertRegex(body, rf"^WEBVTT\n\n00:00:00\.\d{{3}} --> 00:00:0\d\.\d{{3}}\n{sentence}\n\n$")
        self.assertTrue(headers["content-type"].startswith("text/vtt"))

    def test_verbose_json(self):
        verbose = [("language", "en"), ("response_format", "verbose_json")]
        body = json.loads(self.server.transcribe(self.short, *verbose)[1])
        self.assertEqual(body["text"], "He might even have been made amiable himself.")
        self.assertAlmostEqual(body["duration"], 3.29, places=1)
        self.assertEqual(body["language"], "en")
        self.assertGreater(body["segments"][0]["end"], 2)
        self.assertNotIn("words", body)

        granularities = [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")]
        body = json.loads(self.server.transcribe(self.short, *verbose, *granularities)[1])
        self.assertEqual([word["word"] for word in body["words"]][:3], ["He", "might", "even"])
        self.assertTrue(all(0 < word["probability"] <= 1 for word in body["words"]))
        self.assertTrue(body["segments"])

        body = json.loads(self.server.transcribe(self.short, *verbose, granularities[0])[1])
        self.assertNotIn("segments", body)

    def test_translations(self):
        body = json.loads(
            self.server.transcribe(self.short, ("response_format", "verbose_json"), task="translations")[1]
        )
        self.assertEqual(body["task"], "translate")
        self.assertEqual(body["text"], "He might even have been made amiable himself.")

    def test_silence_is_an_empty_text(self):
        noise = b"".join(bytes([(i * 97 + i * i) % 7, 0]) for i in range(16))
        for name, audio in {
            "3 s": wav(3),
            "a whole window": wav(31),
            "5 ms": wav(0.005),
            "no sample at all": wav(0),
            "faint hiss": wav(0.2, noise),
        }.items():
            # Without a language the model first guesses one, from nothing.
            for fields in [(), (("language", "en"),)]:
                with self.subTest(name, fields=fields):
                    status, body, _ = self.server.transcribe(audio, *fields)
                    self.assertEqual((status, body), (200, '{"text":""}'))
        body = json.loads(self.server.transcribe(wav(3), ("response_format", "verbose_json"))[1])
        self.assertEqual((body["text"], body["segments"], body["duration"]), ("", [], 3.0))

    def test_what_is_wrong_is_named(self):
        wrong = [
            ("file", self.server.transcribe(b"certainly no sound")),
            ("file", self.server.transcribe(b"")),
            ("file", self.server.transcribe(None)),
            ("file", self.server.transcribe(self.short[:30])),
            ("model", self.server.transcribe(self.short, model="")),
            ("response_format", self.server.transcribe(self.short, ("response_format", "xml"))),
            ("language", self.server.transcribe(self.short, ("language", "english"))),
            ("temperature", self.server.transcribe(self.short, ("temperature", "hot"))),
            ("temperature", self.server.transcribe(self.short, ("temperature", "1.5"))),
            ("timestamp_granularities", self.server.transcribe(self.short, ("timestamp_granularities[]", "letter"))),
        ]
        for param, answer in wrong:
            with self.subTest(param, body=answer[1]):
                self.assertEqual(self.refused(400, param, answer)["type"], "invalid_request_error")
        missing = self.refused(404, "model", self.server.transcribe(self.short, model="whisper-9"))
        self.assertEqual(missing["code"], "model_not_found")
        path = "/v1/audio/transcriptions"
        self.refused(400, None, self.server.call(path, b"{}", "application/json"))
        self.refused(400, None, self.server.call(path, b"no form at all", "multipart/form-data; boundary=X"))
        self.refused(405, None, self.server.call(path))
        self.refused(404, None, self.server.call("/v1/audio/speech", b"", "text/plain"))

    def test_a_large_file_is_refused_whole(self):
        for size in (25 * 1024 * 1024 + 1, 40 * 1024 * 1024):
            with self.subTest(size):
                error = self.refused(413, "file", self.server.transcribe(bytes(size)))
                self.assertEqual(error["code"], "file_too_large")

    def test_models_and_health(self):
        status, body, _ = self.server.call("/v1/models")
        self.assertEqual((status, json.loads(body)["data"][0]["id"]), (200, "whisper-base"))
        self.assertEqual(json.loads(self.server.call("/health")[1])["status"], "ok")


def ffmpeg(*arguments: str, name: str) -> bytes:
    """A file that ffmpeg makes; `make test` installs it (Debian: apt-get install ffmpeg)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        command = ["ffmpeg", "-v", "error", "-nostdin", *arguments, "-threads", "1", str(file)]
        subprocess.run(command, check=True)
        return file.read_bytes()


class Bombs(unittest.TestCase):
    """Small files that decode to hours of sound, and damaged ones."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.short = (SAMPLES / "lv_0930.wav").read_bytes()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def test_hours_of_sound_are_refused_and_others_are_served(self):
        noise = ["-f", "lavfi", "-i", "anoisesrc=r=16000:a=0.01:d=6000"]
        opus = ffmpeg(*noise, "-c:a", "libopus", "-b:a", "6k", "-application", "lowdelay", name="a.ogg")
        silence = ["-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", "36000"]
        flac = ffmpeg(*silence, "-c:a", "flac", "-frame_size", "65535", name="a.flac")
        self.assertLess(len(opus), 5 * 1024 * 1024)
        self.assertLess(len(flac), 200_000)
        with ThreadPoolExecutor(4) as calls:
            bombs = [calls.submit(self.server.transcribe, bomb) for bomb in (opus, flac, opus)]
            good = calls.submit(self.server.transcribe, self.short, ("language", "en"))
        for bomb in bombs:
            status, body, _ = bomb.result()
            self.assertEqual((status, json.loads(body)["error"]["code"]), (400, "audio_too_long"))
        self.assertEqual(json.loads(good.result()[1])["text"], "He might even have been made amiable himself.")
        self.assertLess(self.peak_bytes(), 1_500_000_000)

    def test_damaged_frames_are_skipped_and_nothing_but_damage_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source.wav"
            source.write_bytes((SAMPLES / "jfk.wav").read_bytes())
            m4a = ffmpeg("-i", str(source), "-c:a", "aac", "-movflags", "+faststart", name="a.m4a")
        start = m4a.index(b"mdat") + 4
        half = start + (len(m4a) - start) // 2
        status, body, _ = self.server.transcribe(m4a[:start] + bytes(len(m4a) - start))
        self.assertEqual(status, 400, body)
        status, body, _ = self.server.transcribe(m4a[:half] + bytes(len(m4a) - half), ("language", "en"))
        self.assertEqual(status, 200, body)
        self.assertIn("fellow Americans", json.loads(body)["text"])
        status, body, _ = self.server.transcribe(m4a[: len(m4a) * 2 // 3], ("language", "en"))
        self.assertEqual(status, 200, body)
        self.assertIn("fellow Americans", json.loads(body)["text"])


class Queue(unittest.TestCase):
    """One worker, room for one more."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--workers", "1", "--queue", "1")
        cls.sample = (SAMPLES / "jfk.wav").read_bytes()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def in_hand(self) -> int:
        return json.loads(self.server.call("/health")[1])["inHand"]

    def test_a_full_queue_says_when_to_come_again(self):
        with ThreadPoolExecutor(6) as calls:
            answers = list(calls.map(lambda _: self.server.transcribe(self.sample), range(6)))
        statuses = sorted(answer[0] for answer in answers)
        self.assertEqual(set(statuses), {200, 429})
        self.assertGreaterEqual(statuses.count(200), 2)
        for status, body, headers in answers:
            if status == 429:
                self.assertGreaterEqual(int(headers["retry-after"]), 1)
                self.assertEqual(json.loads(body)["error"]["code"], "rate_limit_exceeded")

    def test_a_client_that_hangs_up_frees_its_place(self):
        body, kind = form([("model", "whisper-base")], self.sample)
        host = self.server.address.removeprefix("http://")
        held = [http.client.HTTPConnection(host) for _ in range(2)]
        for connection in held:
            connection.request("POST", "/v1/audio/transcriptions", body, {"Content-Type": kind})
        # Health is answered while the model is at work, or nobody would see both.
        eventually("both are in hand", lambda: self.in_hand() == 2)
        for connection in held:
            connection.close()
        eventually("their places are free", lambda: self.in_hand() == 0)


if __name__ == "__main__":
    unittest.main()
