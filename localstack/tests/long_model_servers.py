"""The whole service with real models: the local one, and a server that is not ours. Takes minutes.

Alone: cd localstack/tests && python3 -m unittest long_model_servers
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import unittest
import urllib.request
import venv
from pathlib import Path

from support import LOCALSTACK, PYTHON, ROOT, TOOLS, LocalStack, eventually, free_port

# By the path that support makes.
# isort: split
from wer import wer

SAMPLES = LOCALSTACK / "samples"
REFERENCES = json.loads((SAMPLES / "references.json").read_text())
# A short recording, and the words that every transcript of it has. A lossy codec can change the one word between them.
SPOKEN, EXPECTED = "lv_0930.wav", re.compile(r"might even have been made \S+ himself", re.IGNORECASE)
HIGHEST_WER = 0.05

# A file of each format of docs/compatibility.md: the options of ffmpeg, the last of them a muxer.
FORMATS = {
    "WAV": "-f wav",
    "Wave64": "-f w64",
    "AIFF": "-f aiff",
    "CAF": "-c:a alac -f caf",
    "AU": "-f au",
    "MP3": "-ar 11025 -b:a 32k -f mp3",
    "MP2": "-c:a mp2 -f mp2",
    "AAC (ADTS)": "-c:a aac -f adts",
    "AC-3": "-ar 48000 -c:a ac3 -f ac3",
    "FLAC": "-f flac",
    "Ogg": "-c:a libopus -f ogg",
    "M4A": "-c:a aac -f ipod",
    "MP4": "-c:a aac -f mov",
    "WebM": "-c:a libopus -f webm",
    "Matroska": "-c:a libmp3lame -f matroska",
    "ASF (WMA)": "-c:a wmav2 -f asf",
    "AVI": "-c:a libmp3lame -f avi",
    "MPEG-TS": "-c:a aac -f mpegts",
    "MPEG-PS": "-ar 48000 -c:a mp2 -f vob",
    "FLV": "-ar 22050 -c:a libmp3lame -f flv",
    "WavPack": "-c:a wavpack -f wv",
}
# ffmpeg of Debian writes no AMR; PyAV's own does.
AMR = """
import sys, av
source, target = av.open(sys.argv[1]), av.open(sys.argv[2], "w", format="amr")
stream = target.add_stream("libopencore_amrnb", rate=8000)
stream.layout, stream.bit_rate = "mono", 12200
resampler = av.AudioResampler(format=stream.format, layout="mono", rate=8000, frame_size=160)
for frame in source.decode(audio=0):
    for part in resampler.resample(frame):
        target.mux(stream.encode(part))
for part in resampler.resample(None):
    target.mux(stream.encode(part))
target.mux(stream.encode(None))
target.close()
"""


def files(folder: Path) -> dict[str, Path]:
    """The recording in each format, under names that do not tell which."""
    made = {}
    for number, (name, options) in enumerate(FORMATS.items()):
        made[name] = folder / f"{number:02}.bin"
        command = ["ffmpeg", "-v", "error", "-nostdin", "-i", SAMPLES / SPOKEN, *options.split(), made[name]]
        subprocess.run(command, check=True)
    made["AMR"] = folder / f"{len(made):02}.bin"
    subprocess.run([PYTHON, "-c", AMR, SAMPLES / SPOKEN, made["AMR"]], check=True)
    return made


class ModelServer:
    """PyPI's faster-whisper-server in a virtual environment of its own, with the local weights."""

    def __init__(self, test: unittest.TestCase):
        home = TOOLS / "faster-whisper-server"
        requirements = Path(__file__).with_name("model-server.txt")
        stamp = home / "installed"
        if not stamp.exists() or stamp.read_text() != requirements.read_text():
            venv.create(home, with_pip=True, clear=True)
            install = [home / "bin" / "pip", "install", "--quiet", "--no-deps", "--requirement", requirements]
            subprocess.run(install, check=True)
            stamp.write_text(requirements.read_text())
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the server
        command = [home / "bin" / "faster-whisper-server", TOOLS / "model", "--host", "127.0.0.1", "--port", str(port)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
        test.addCleanup(self.log.close)
        test.addCleanup(self.process.wait)
        test.addCleanup(self.process.terminate)
        eventually("the model server answers", self.answers, within=120)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


class ModelServers(unittest.TestCase):
    def test_the_local_model(self) -> None:
        self.transcribes_everything(LocalStack(self))

    def test_faster_whisper_server(self) -> None:
        server = ModelServer(self)
        # On two cores it works at several calls more slowly than at one.
        pace = {"LONGHAND_CONCURRENCY": "1", "ASR_TIMEOUT_SECONDS": "60", "LONGHAND_MAX_CHUNK_SECONDS": "600"}
        self.transcribes_everything(LocalStack(self, ASR="none", ASR_BASE_URL=server.address, **pace))

    def transcribes_everything(self, stack: LocalStack) -> None:
        stack.succeeds("up")
        self.stack = stack
        with self.subTest("samples"):
            job = self.transcribe([SAMPLES / reference["file"] for reference in REFERENCES])
            self.assertEqual(job["jobStatus"], "COMPLETED", job)
            rate = wer(" ".join(reference["text"] for reference in REFERENCES), job["transcription"])
            self.assertLessEqual(rate, HIGHEST_WER, job["transcription"])
        with tempfile.TemporaryDirectory() as folder:
            made = files(Path(folder))
            job = self.transcribe(list(made.values()))
        segments = self.longhand("get", job["jobId"], "--segments", "--json")["segments"]
        for index, name in enumerate(made):
            with self.subTest(name):
                self.assertEqual(job["chunks"][index]["chunkStatus"], "COMPLETED", job["chunks"][index])
                text = " ".join(segment["text"] for segment in segments if segment["chunk"] == index)
                self.assertRegex(text, EXPECTED)

    def test_every_format_that_is_documented_as_transcribed_is_made(self) -> None:
        table = (ROOT / "docs" / "compatibility.md").read_text()
        rows = re.findall(r"^\| ([^|`]+) \| `[^|]+` \| `[^|]+` \|[^|]+\| yes \|$", table, re.MULTILINE)
        self.assertEqual(sorted(rows), sorted([*FORMATS, "AMR"]))

    def transcribe(self, recordings: list[Path]) -> dict:
        return self.longhand(
            "transcribe", *map(str, recordings), "--user", "ana", "--language", "en", "--wait", "--json"
        )

    def longhand(self, *arguments: str) -> dict:
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
        environment = {**self.stack.environment, **self.stack.settings()}
        command = [target / "debug" / "longhand", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        print(done.stderr)
        return json.loads(done.stdout)


if __name__ == "__main__":
    unittest.main()
