"""The speech-to-text model with its threads and its queue."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from faster_whisper import WhisperModel

SAMPLE_RATE = 16_000
# Of speech that is read at once, in seconds.
LONGEST_CLIP = 29
# Of a word in a span of speech, in seconds. A shorter overlap is an imprecise time of the model.
SHORTEST_PART = 0.1
# Whisper invents text for silence ("Thank you."). A segment above this probability is dropped.
NO_SPEECH = 0.85


@dataclass
class Wanted:
    """The valid parameters of a call."""

    response_format: str
    language: str | None
    prompt: str | None
    temperature: float
    words: bool
    segments: bool
    # "transcribe", or "translate" to English.
    task: str


@dataclass
class Transcript:
    language: str
    duration: float
    segments: list = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()


class QueueFull(Exception):
    """Its argument is the seconds after which to retry."""


class Undecodable(Exception):
    """The file has no sound that can be decoded."""


class TooLong(Exception):
    """The sound is longer than the seconds of its argument."""


class Abandoned(Exception):
    """The client has disconnected, or the server is stopping."""


class Engine:
    """Its methods are for the event loop, except those that block."""

    def __init__(self, model: str, workers: int, queue: int, longest: float):
        self.name = model
        self.longest = longest
        self.workers = workers
        self.capacity = workers + queue
        self.in_hand = 0
        # The smoothed duration of a call in seconds, for Retry-After.
        self.usual_time = 2.0
        self.model: WhisperModel | None = None
        self.stopping = threading.Event()
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="whisper")

    def load(self) -> None:
        """Blocks."""
        from faster_whisper import WhisperModel

        # One thread per call: on two cores two calls at a time need 2.8 s for the six samples, one call with two
        # threads 6.1 s.
        self.model = WhisperModel(self.name, device="cpu", compute_type="int8", num_workers=self.workers, cpu_threads=1)

    async def transcribe(self, audio: BinaryIO, wanted: Wanted, gone: asyncio.Future) -> Transcript:
        """Waits in the queue. The work stops at the next segment once `gone` is done: the client has disconnected."""
        if self.in_hand >= self.capacity:
            wait = math.ceil(self.usual_time * self.in_hand / self.workers)
            raise QueueFull(max(1, min(wait, 60)))
        abandoned = threading.Event()
        self.in_hand += 1
        work = asyncio.get_running_loop().run_in_executor(self.pool, self.run, audio, wanted, abandoned)
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
            abandoned.set()
            # The caller may close the upload only after the thread has ended, since the thread reads it.
            return await work
        finally:
            self.in_hand -= 1

    def run(self, source: BinaryIO, wanted: Wanted, abandoned: threading.Event) -> Transcript:
        """Blocks."""

        def check() -> None:
            if abandoned.is_set() or self.stopping.is_set():
                raise Abandoned

        check()
        begun = time.monotonic()
        audio = decode(source, self.longest, check)
        language = wanted.language
        if audio.size < SAMPLE_RATE // 100:
            # The model fails on less than one frame of 10 ms.
            return Transcript(language or "en", audio.size / SAMPLE_RATE)
        spans = speech(audio)
        if not spans:
            return Transcript(language or "en", audio.size / SAMPLE_RATE)
        found, info = self.model.transcribe(
            audio,
            task=wanted.task,
            language=language,
            initial_prompt=wanted.prompt,
            # By default the model retries with a higher temperature if its text repeats itself.
            temperature=wanted.temperature or [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            beam_size=5,
            word_timestamps=wanted.words,
            # With its own text as context Whisper leaves out sentences that resemble earlier ones: in four minutes of
            # the samples in random order 32 of 434 words, without it 2.
            condition_on_previous_text=False,
            clip_timestamps=clips(spans),
        )
        result = Transcript(info.language, info.duration)
        for segment in found:  # the iterator does the work
            check()
            move_into_speech(segment.words or [], spans)
            if segment.no_speech_prob <= NO_SPEECH:
                result.segments.append(segment)
        self.usual_time += (time.monotonic() - begun - self.usual_time) * 0.2
        return result


def speech(audio) -> list[tuple[float, float]]:
    """Start and end in seconds of what lies between pauses."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    found = get_speech_timestamps(audio, VadOptions(min_silence_duration_ms=300, speech_pad_ms=200))
    return [(one["start"] / SAMPLE_RATE, one["end"] / SAMPLE_RATE) for one in found]


def clips(spans: list[tuple[float, float]]) -> list[float]:
    """Start and end of each clip. Whisper reads 30 s at once: a clip is shorter, so that it ends in a pause."""
    joined = []
    for start, end in spans:
        if joined and end - joined[-2] <= LONGEST_CLIP:
            joined[-1] = end
        else:
            joined += [start, end]
    return joined


def move_into_speech(words: list, spans: list[tuple[float, float]]) -> None:
    """Keeps each word in one span of speech: the last that it overlaps, else the next.

    The model often begins the first word after a pause too early, in the pause or even before it.
    """
    for word in words:
        parts = [span for span in spans if min(word.end, span[1]) - max(word.start, span[0]) >= SHORTEST_PART]
        start, end = parts[-1] if parts else next((span for span in spans if span[1] > word.start), spans[-1])
        word.start = min(max(word.start, start), end)
        word.end = max(min(word.end, end), word.start)


def decode(source: BinaryIO, longest: float, check: Callable[[], None]):
    """The sound as mono samples, at most `longest` seconds. Blocks.

    Damaged frames are skipped, as players do. `check` raises when nobody waits for the transcript.
    """
    import av
    import numpy

    blocks, samples, damaged = [], 0, False
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    try:
        with av.open(source, mode="r", metadata_errors="ignore") as container:
            for packet in container.demux(container.streams.audio[0]):
                check()
                try:
                    frames = [block for frame in packet.decode() for block in resampler.resample(frame)]
                except (av.FFmpegError, ValueError):
                    damaged = True
                    continue
                blocks += [frame.to_ndarray().reshape(-1) for frame in frames]
                samples += sum(frame.samples for frame in frames)
                if samples > longest * SAMPLE_RATE:
                    raise TooLong(longest)
    except (av.FFmpegError, IndexError, ValueError) as error:
        # IndexError: there is no sound track. The sound before the damage is kept.
        damaged = True
        reason = getattr(error, "strerror", None) or "no sound in it"
        if not blocks:
            raise Undecodable(reason) from error
    if damaged and not samples:
        raise Undecodable("every frame is damaged")
    sound = numpy.concatenate(blocks) if blocks else numpy.zeros(0, numpy.int16)
    return sound.astype(numpy.float32) / 32768.0
