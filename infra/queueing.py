"""The worst minute, simulated: how long a client waits for an answer, against the number of calls of the model at once.

Chunks wait in one line, first come first served, for one of N slots. A slot is held from the first call of the model
to the last, the pauses between them included, as in the worker. Everything is drawn from a seed, by `random()` alone,
so that the figures are the same wherever this runs.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

MOST_CHUNKS = 24
# Chunks of a job: 1 to 24, each one more with this chance, which makes 6 on average.
ONE_MORE = 0.84422


def job_sizes() -> list[float]:
    """The chance of 1, 2, .. 24 chunks."""
    weights = [ONE_MORE**more for more in range(MOST_CHUNKS)]
    return [weight / sum(weights) for weight in weights]


AT_MOST = list(accumulate(job_sizes()))
MEAN_CHUNKS = sum(chunks * chance for chunks, chance in enumerate(job_sizes(), start=1))


def exponential(random: Random, mean: float) -> float:
    return -mean * math.log(1.0 - random.random())


def job_size(random: Random) -> int:
    return min(bisect(AT_MOST, random.random()) + 1, MOST_CHUNKS)


def arrivals(random: Random, chunks_per_second: Callable[[float], float], most: float, until: float) -> Iterator[float]:
    """Times of jobs: a Poisson process whose rate changes, in chunks a second, and is `most` at most."""
    now = 0.0
    while True:
        now += exponential(random, MEAN_CHUNKS / most)
        if now >= until:
            return
        if random.random() * most < chunks_per_second(now):
            yield now


@dataclass(frozen=True)
class Model:
    """What a chunk costs of a slot's time."""

    fastest: float
    slowest: float
    # The share of calls that fail and are made again; a call that fails takes as long as one that does not.
    failing: float
    tries: int
    first_pause: float

    def hold(self, random: Random) -> float:
        """How long one chunk holds its slot."""
        held, pause = 0.0, self.first_pause
        for _ in range(self.tries):
            held += self.fastest + (self.slowest - self.fastest) * random.random()
            if random.random() >= self.failing:
                break
            held += pause * (0.5 + 0.5 * random.random())
            pause *= 2
        return held


def serve(chunks: Iterable[tuple[float, float]], slots: int | None) -> Iterator[tuple[float, float]]:
    """For chunks of (arrival, time held), in the order of their arrival: when each gets its slot, and gives it back."""
    free = [0.0] * (slots or 0)
    for arrival, held in chunks:
        if slots is None:
            yield arrival, arrival + held
            continue
        start = max(arrival, free[0])
        heapq.heapreplace(free, start + held)
        yield start, start + held


@dataclass
class Run:
    """What came of jobs: seconds to the answer, and the most chunks that waited for a slot at once."""

    answers: list[float] = field(default_factory=list)
    waiting: int = 0

    def percentile(self, share: float) -> float:
        """The nearest-rank percentile: 0.99 for p99, 1 for the longest."""
        ranked = sorted(self.answers)
        return ranked[max(0, math.ceil(share * len(ranked)) - 1)]

    def late(self, limit: float) -> float:
        return sum(answer > limit for answer in self.answers) / len(self.answers)


@dataclass(frozen=True)
class Scene:
    """Arrivals, and which of them are looked at: those submitted from `begin` to `end`."""

    chunks_per_second: Callable[[float], float]
    most: float
    until: float
    begin: float
    end: float
    # Seconds that Longhand adds to a job.
    extra: Callable[[Random], float]


def simulate(scene: Scene, model: Model, slots: Iterable[int | None], seeds: Iterable[int]) -> dict[int | None, Run]:
    """A run for each number of slots, all of the same arrivals and calls: only the waiting differs."""
    runs = {number: Run() for number in slots}
    for seed in seeds:
        random = Random(seed)
        jobs: list[tuple[float, int, float]] = []
        chunks: list[tuple[float, float]] = []
        for at in arrivals(random, scene.chunks_per_second, scene.most, scene.until):
            size = job_size(random)
            jobs.append((at, size, scene.extra(random)))
            chunks += [(at, model.hold(random)) for _ in range(size)]
        for number, run in runs.items():
            served = list(serve(chunks, number))
            run.waiting = max(run.waiting, longest_line(chunks, served))
            ends = iter(end for _, end in served)
            for at, size, added in jobs:
                done = max(next(ends) for _ in range(size))
                if scene.begin <= at < scene.end:
                    run.answers.append(done + added - at)
    return runs


def longest_line(chunks: list[tuple[float, float]], served: list[tuple[float, float]]) -> int:
    """The most that wait at once. Slots go by the order of arrival, so those who wait are the last to have come."""
    longest = begun = 0
    for come, (arrival, _) in enumerate(chunks, start=1):
        while begun < come and served[begun][0] <= arrival:
            begun += 1
        longest = max(longest, come - begun)
    return longest


def erlang_c(slots: int, load: float) -> float:
    """The chance that one who comes has to wait, when `load` slots are busy on average (M/M/n)."""
    blocked = 1.0
    for n in range(1, slots + 1):
        blocked = load * blocked / (n + load * blocked)
    busy = load / slots
    return blocked / (1 - busy * (1 - blocked))
