"""Long recordings through the command and the whole service: no word is lost, and times are those of the original.

Alone: cd localstack/tests && python3 -m unittest long_recordings. LONG_MINUTES=60 makes the first recording longer.
"""

from __future__ import annotations

import bisect
import difflib
import json
import os
import random
import shlex
import subprocess
import tempfile
import unittest
import urllib.request
import wave
from pathlib import Path

from support import LOCALSTACK, PYTHON, ROOT, LocalStack, eventually, free_port

# By the path that support makes.
# isort: split
from wer import errors, words

SAMPLES = LOCALSTACK / "samples"
REFERENCES = json.loads((SAMPLES / "references.json").read_text())
RATE = 16_000
# 60 minutes take five to ten minutes on two cores.
MINUTES = int(os.environ.get("LONG_MINUTES", "15"))
# Of words: more errors than in the samples alone.
MORE_ERRORS = 0.01
SECONDS_OFF = 0.3
TONES_SECONDS = 9000
# For models on processors that other tests use too.
SLOW = {"LONGHAND_CONCURRENCY": "2", "ASR_TIMEOUT_SECONDS": "600", "LONGHAND_MAX_CHUNK_SECONDS": "4000"}


class LongRecordings(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def start(self, **settings: str) -> None:
        self.stack = LocalStack(self, **SLOW, **settings)
        done = self.stack.run("up")
        self.assertEqual(done.returncode, 0, done.stdout)

    def longhand(self, *arguments: str) -> str:
        lines = (self.stack.local / "env").read_text().splitlines()
        settings = dict(shlex.split(line)[1].split("=", 1) for line in lines)
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug"
        command = [Path(os.environ.get("LONGHAND_BIN_DIR") or target) / "longhand", *arguments]
        environment = {**self.stack.environment, **settings}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
        print(done.stderr)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def transcribe(self, *recordings: Path) -> dict:
        arguments = [
            "--user",
            "ana",
            "--language",
            "en",
            "--timestamps",
            "word",
            "--timeout",
            "50m",
            "--wait",
            "--json",
        ]
        job = json.loads(self.longhand("transcribe", *map(str, recordings), *arguments))
        ids = [one["jobId"] for one in job.get("jobs", [job])]
        return {**json.loads(self.longhand("get", *ids, "--words", "--json")), "ids": ids}

    def test_speech_with_gaps_keeps_its_words_and_their_times(self) -> None:
        self.start()
        alone = self.transcribe(*[SAMPLES / reference["file"] for reference in REFERENCES])
        spoken = [spoken_words(alone, number) for number in range(len(REFERENCES))]
        order, offsets = self.talk(MINUTES * 60)
        job = self.transcribe(self.folder / "talk.wav")

        expected = [word for number in order for word in words(REFERENCES[number]["text"])]
        wrong_alone = [errors(words(r["text"]), [w for w, _, _ in spoken[n]]) for n, r in enumerate(REFERENCES)]
        before = sum(wrong_alone[number] for number in order)
        found = [word for segment in job["segments"] for word in words_of(segment)]
        after = errors(expected, [word for word, _, _ in found])
        print(f"{len(order)} samples, {len(expected)} words, {len(job.get('jobs', [job]))} jobs")
        print(f"word errors: alone {before}, in the recording {after}")

        durations = [one["durationSeconds"] for one in alone["chunks"]]
        ends = [at + durations[number] for number, at in zip(order, offsets, strict=True)]
        # Each found word belongs to the sample whose time it has. A gap is divided in its middle.
        borders = [(end + start) / 2 for end, start in zip(ends, offsets[1:], strict=False)]
        off = []
        for index, (number, at) in enumerate(zip(order, offsets, strict=True)):
            truth = [(word, start + at, end + at) for word, start, end in spoken[number]]
            here = [one for one in found if bisect.bisect(borders, (one[1] + one[2]) / 2) == index]
            off += times_off(truth, here)
        off.sort()
        seconds = [one for one, _ in off]
        share = sum(one <= SECONDS_OFF for one in seconds) / len(seconds)
        median, p95, p99, most = (seconds[int(part * (len(seconds) - 1))] for part in (0.5, 0.95, 0.99, 1))
        # Of the words that the model got right, those that are not found in their sample.
        elsewhere = len(expected) - after - len(off)
        print(f"{len(off)} words: times off by {median:.3f} (p50), {p95:.3f} (p95), {p99:.3f} (p99), {most:.3f} s")
        print(f"{max(0, elsewhere)} words have a time in another sample")
        print(f"within {SECONDS_OFF} s: {share:.2%}. The others:")
        print("\n".join(times for one, times in off if one > SECONDS_OFF))
        self.assertLessEqual(after - before, MORE_ERRORS * len(expected))
        # The model's own times vary: it begins a few words up to half a second early. The tones show that Longhand's
        # own times are exact.
        self.assertLess(median, 0.05)
        self.assertGreaterEqual(share, 0.98)
        self.assertLessEqual(elsewhere, len(expected) / 500)

    def talk(self, seconds: int) -> tuple[list[int], list[float]]:
        """Writes the samples in random order with gaps; which they are, and where each begins."""
        chance, sounds = random.Random(7), []
        for reference in REFERENCES:
            with wave.open(str(SAMPLES / reference["file"])) as file:
                sounds.append(file.readframes(file.getnframes()))
        order, offsets, at = [], [], 0
        with wave.open(str(self.folder / "talk.wav"), "wb") as talk:
            talk.setparams((1, 2, RATE, 0, "NONE", ""))
            while at < seconds * RATE:
                number, gap = chance.randrange(len(sounds)), chance.randrange(RATE * 6 // 10, RATE * 2)
                order.append(number)
                offsets.append(at / RATE)
                talk.writeframes(sounds[number] + bytes(2 * gap))
                at += len(sounds[number]) // 2 + gap
        return order, offsets

    def test_a_very_long_recording_is_one_result_of_several_jobs(self) -> None:
        port = free_port()
        server = subprocess.Popen([PYTHON, Path(__file__).with_name("tones.py"), "serve", str(port)])
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        eventually("the model answers", lambda: answers(port))
        wav, talk = self.folder / "tones.wav", self.folder / "tones.mp3"
        make = [PYTHON, Path(__file__).with_name("tones.py"), "make", wav, str(TONES_SECONDS)]
        starts = json.loads(subprocess.run(make, check=True, stdout=subprocess.PIPE).stdout)
        encode = ["ffmpeg", "-v", "error", "-i", wav, "-c:a", "libmp3lame", "-b:a", "64k", talk]
        subprocess.run(encode, check=True)
        wav.unlink()
        self.start(ASR="none", ASR_BASE_URL=f"http://127.0.0.1:{port}")
        job = self.transcribe(talk)

        self.assertGreater(len(job["ids"]), 1)
        spoken = job["transcription"].split()
        self.assertEqual(spoken, [f"{number:04x}" for number in range(len(starts))])
        found = [word for segment in job["segments"] for word in segment["words"]]
        self.assertEqual([word["word"] for word in found], spoken)
        off = [abs(word["start"] - start) for word, start in zip(found, starts, strict=True)]
        chunks = [len(one["chunks"]) for one in job["jobs"]]
        print(f"{len(spoken)} words, jobs of {chunks} chunks, times at most {max(off):.3f} s off")
        self.assertLess(max(off), 0.1)

        srt = self.longhand("get", *job["ids"], "--format", "srt")
        cues = srt.strip().split("\n\n")
        self.assertEqual([cue.split("\n")[0] for cue in cues], [str(number + 1) for number in range(len(cues))])
        self.assertEqual(" ".join(" ".join(cue.split("\n")[2:]) for cue in cues).split(), spoken)
        begins = [cue.split("\n")[1] for cue in cues]
        self.assertEqual(begins, sorted(begins))


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def words_of(segment: dict) -> list[tuple[str, float, float]]:
    """Normalized as for the error rate; a word with a hyphen is several at one time."""
    return [(one, word["start"], word["end"]) for word in segment["words"] for one in words(word["word"])]


def spoken_words(job: dict, chunk: int) -> list[tuple[str, float, float]]:
    """The words of a chunk with times from its beginning."""
    begin = sum(one["durationSeconds"] for one in job["chunks"][:chunk])
    found = [word for segment in job["segments"] if segment["chunk"] == chunk for word in words_of(segment)]
    return [(word, start - begin, end - begin) for word, start, end in found]


def times_off(truth: list[tuple], found: list[tuple]) -> list[tuple[float, str]]:
    """For the words that both have: how far the start or the end is off, and both times."""
    matcher = difflib.SequenceMatcher(None, [one[0] for one in truth], [one[0] for one in found], autojunk=False)
    off = []
    for a, b, size in matcher.get_matching_blocks():
        for (word, *true), (_, *seen) in zip(truth[a : a + size], found[b : b + size], strict=True):
            seconds = max(abs(one - other) for one, other in zip(true, seen, strict=True))
            off.append((seconds, f"{word}: {true[0]:.2f} to {true[1]:.2f} s, found {seen[0]:.2f} to {seen[1]:.2f} s"))
    return off


if __name__ == "__main__":
    unittest.main()
