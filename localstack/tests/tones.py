"""Recordings whose words are numbers in tones, and a model server that reads them: a cut word or a lost one shows.

    tones.py make FILE SECONDS     writes a WAV file, and the word's times as JSON to stdout
    tones.py serve PORT            POST /v1/audio/transcriptions, with words and their times

A word is a number of four hexadecimal digits, each a tone of 60 ms. Ten minutes in the middle have no pauses, only gaps
of 120 ms between words.
"""

from __future__ import annotations

import http.server
import io
import json
import random
import sys
import wave
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from asr_engine import SAMPLE_RATE, Undecodable, decode  # noqa: E402 - found by the path above

DIGIT = SAMPLE_RATE * 60 // 1000
WORD = 4 * DIGIT
FRAME = SAMPLE_RATE // 200
SEGMENT_WORDS = 10
TONES = [400 + 150 * digit for digit in range(16)]
# Full scale is 1. Opus adds noise around tones, far below this.
AUDIBLE = 0.02


def tone(digit: int) -> numpy.ndarray:
    sound = 0.3 * numpy.sin(2 * numpy.pi * TONES[digit] * numpy.arange(DIGIT) / SAMPLE_RATE)
    fade = numpy.minimum(1, numpy.minimum(numpy.arange(DIGIT), numpy.arange(DIGIT)[::-1]) / 48)
    return sound * fade


def make(path: str, seconds: int) -> list[float]:
    """Writes the file and returns the start of each word."""
    chance, starts = random.Random(1), []
    tones = [tone(digit) for digit in range(16)]
    sound = numpy.zeros(seconds * SAMPLE_RATE, numpy.float32)
    at = SAMPLE_RATE // 2
    while at + WORD < sound.size:
        number = len(starts)
        for place, digit in enumerate((number >> 12, number >> 8, number >> 4, number)):
            begin = at + place * DIGIT
            sound[begin : begin + DIGIT] = tones[digit & 15]
        starts.append(at / SAMPLE_RATE)
        without_pauses = abs(at / SAMPLE_RATE - seconds / 2) < 300
        at += WORD + int(SAMPLE_RATE * (0.12 if without_pauses else chance.uniform(0.35, 0.9)))
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return starts


def words_in(sound: numpy.ndarray) -> list[dict]:
    """The words in the sound. What is shorter or longer than a word is "torn"."""
    frames = sound[: sound.size // FRAME * FRAME].reshape(-1, FRAME)
    loud = numpy.sqrt((frames**2).mean(axis=1)) > AUDIBLE
    # Quiet frames between the digits of a word are a part of it.
    edges = numpy.flatnonzero(numpy.diff(numpy.concatenate([[0], loud, [0]])))
    words = []
    for start, end in edges.reshape(-1, 2) * FRAME:
        if words and start - words[-1][1] < SAMPLE_RATE // 20:
            words[-1][1] = end
        else:
            words.append([start, end])
    found = []
    for start, end in words:
        text = "torn"
        if abs(end - start - WORD) < DIGIT // 2:
            text = "".join(f"{digit_at(sound, start + place * DIGIT):x}" for place in range(4))
        found.append({"word": text, "start": start / SAMPLE_RATE, "end": end / SAMPLE_RATE})
    return found


def digit_at(sound: numpy.ndarray, start: int) -> int:
    middle = sound[start + DIGIT // 4 : start + DIGIT * 3 // 4]
    spectrum = numpy.abs(numpy.fft.rfft(middle, 4096))
    return round((spectrum.argmax() * SAMPLE_RATE / 4096 - TONES[0]) / 150) & 15


def answer(audio: bytes) -> dict:
    try:
        sound = decode(io.BytesIO(audio), 400, lambda: None)
    except Undecodable:
        sound = numpy.zeros(0, numpy.float32)
    words = words_in(sound)
    segments = [words[at : at + SEGMENT_WORDS] for at in range(0, len(words), SEGMENT_WORDS)]
    return {
        "text": " ".join(word["word"] for word in words),
        "duration": sound.size / SAMPLE_RATE,
        "language": "english",
        "words": words,
        "segments": [
            {"start": part[0]["start"], "end": part[-1]["end"], "text": " ".join(word["word"] for word in part)}
            for part in segments
        ],
    }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply({"status": "ok"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        boundary = b"--" + self.headers.get_param("boundary").encode()
        part = next((part for part in body.split(boundary) if b'name="file"' in part[:1000]), b"")
        self.reply(answer(part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")))

    def reply(self, document: dict) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        print(json.dumps(make(sys.argv[2], int(sys.argv[3]))))
    else:
        http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
