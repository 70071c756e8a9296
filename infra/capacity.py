#!/usr/bin/env python3
"""The tables of the page on capacity: tasks, table units, requests, dollars, limits, and the time to answer.

  python3 infra/capacity.py            prints them
  python3 infra/capacity.py --write    puts those that the page has marks for between them

Inputs are in capacity.toml, each with its source. The rest is arithmetic on them, and a simulation of the worst minute:
chunks wait in one line, first come first served, for one of N slots. A slot is held from the first call of the model to
the last, the pauses between them included, as in the worker. Everything is drawn from a seed, so that figures are the
same everywhere.
"""

from __future__ import annotations

import heapq
import math
import re
import sys
import tomllib
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import NamedTuple

INFRA = Path(__file__).resolve().parent
PAGE = INFRA.parent / "docs/capacity.md"
INPUTS = tomllib.loads((INFRA / "capacity.toml").read_text())
PRICED, ELSEWHERE = INPUTS.pop("priced"), INPUTS.pop("elsewhere")
K = SimpleNamespace(**{name: known[0] for group in INPUTS.values() for name, known in group.items()})
SIZES = (1_000, 100_000, 10_000_000)
HOURS, SECONDS, GB = 730, 86_400, 1e9
CALL = (K.fastest_call + K.slowest_call) / 2

# ---- a job, in units of the table -----------------------------------------------------------------------------------


def write(size: float) -> int:
    """Write units of an item: one for each kilobyte that it begins."""
    return max(1, math.ceil(size / 1024))


CHUNKS, JOB_READ, RESULT_READ = int(K.chunks), math.ceil(K.job_item / 4096), math.ceil(K.typical_transcript / 4096)
# Of a typical job. A transaction costs twice; index entries are a write each, and a move two.
CREATE = 2 * (sum(map(write, (K.job_item, K.recent_item, K.key_item))) + CHUNKS * write(K.claimed_chunk))
SETTLE = CHUNKS * (write(K.claimed_chunk) + write(K.typical_chunk) + write(K.job_item))
FINISH = 2 * (write(K.typical_transcript) + write(K.job_item))
INDEX_WRITES = 3 * write(K.user_index_entry) + 2 * write(K.open_index_entry)
WRITES = CREATE + SETTLE + FINISH + INDEX_WRITES
# Counting open jobs, each chunk before its claim, all chunks at the end, whether there is a webhook, a wait with Redis,
# and a look afterwards.
CHUNK_READS = CHUNKS * math.ceil(K.claimed_chunk / 4096) + math.ceil(CHUNKS * K.typical_chunk / 4096)
READS = 2.5 + CHUNK_READS + (2 + K.waits_redis) * JOB_READ + RESULT_READ
STORED = K.job_item + CHUNKS * K.typical_chunk + K.typical_transcript + K.user_index_entry + (CHUNKS + 3) * K.overhead

# ---- a size of use --------------------------------------------------------------------------------------------------


class Moment:
    """What happens at once: figures a second, and what is needed for them."""

    def __init__(self, in_flight: float):
        self.in_flight, self.chunks, self.jobs = in_flight, in_flight / CALL, in_flight / CALL / K.chunks
        self.waiting = self.jobs * K.turnaround
        self.workers = max(2, math.ceil(in_flight * K.spare / K.slots))
        cpu = self.jobs * K.api_cpu / (K.api_task_cpu * K.busy_share)
        self.apis = math.ceil(max(K.api_tasks, self.waiting / K.waits_a_task, cpu))
        self.idle_sqs = self.workers * (K.idle_receives + K.idle_depths) + self.apis * K.probes
        self.idle_reads = (self.workers * K.idle_queries + self.apis * K.probes) * 0.5
        self.sqs = self.jobs * (K.sends + K.receives + K.deletes + K.renewals) + self.idle_sqs
        self.table_reads = self.jobs * READS + self.idle_reads
        # Messages that Redis hands out: each change, to each api.
        self.words = self.jobs * K.publishes * self.apis
        self.redis, self.tasks = 2 * self.apis + self.workers, self.workers + self.apis
        self.vcpus = self.workers * K.worker_cpu + self.apis * K.api_task_cpu
        self.writes, self.table_writes = self.jobs * WRITES, self.jobs * (WRITES - INDEX_WRITES)
        self.open_writes, self.sweeper_reads = self.jobs * 2, self.workers / K.sweep * 1.5
        self.requests, self.slots = self.jobs * K.requests, in_flight * K.spare
        self.endpoint_bits = self.chunks * K.endpoint_bytes * 8 / K.zones


def mean(users: float) -> Moment:
    return Moment(users * K.files_a_day / SECONDS * CALL)


def busy(users: float) -> Moment:
    return Moment(mean(users).in_flight * K.busy_hour)


def worst(users: float) -> Moment:
    return Moment(users * K.worst_in_flight)


def cached(users: float) -> float:
    """Bytes of results in Redis after the worst moment."""
    jobs = worst(users).jobs * K.burst + busy(users).jobs * (K.result_kept - K.burst)
    return jobs * K.typical_transcript


# ---- dollars a month ------------------------------------------------------------------------------------------------


def tiers(amount: float, *prices: tuple[float, float]) -> float:
    """What `amount` costs by tiers of (size, price of one)."""
    cost = 0.0
    for size, price in prices:
        cost, amount = cost + min(amount, size) * price, max(amount - size, 0)
    return cost


def fargate(tasks: float, cpu: float, memory: float) -> float:
    return tasks * HOURS * (cpu * K.fargate_cpu + memory * K.fargate_memory)


def costs(users: float) -> dict[str, float]:
    chunks, at, most = users * K.files_a_day * K.days, mean(users), worst(users)
    jobs, audio, seconds = chunks / K.chunks, chunks * K.audio_bytes / GB, SECONDS * K.days
    table = jobs * STORED * K.kept_days / K.days / GB
    # Tasks run all the month, and so do their idle calls.
    sqs = (at.sqs - at.idle_sqs + most.idle_sqs) * seconds / 1e6
    logs = (jobs * K.worker_log + jobs * K.requests * K.api_log) / GB
    bytes_an_hour = at.jobs * (K.typical_transcript * 2 + 4096) * 3600 / GB
    lcus = max(at.jobs * K.requests / 25, at.waiting / 3000, bytes_an_hour)
    # Two nodes; large ones, and shards, where small ones do not hold the results.
    small = cached(users) < 0.7 * GB
    cache = K.cache_small if small else math.ceil(cached(users) / (9 * GB)) * K.cache_large
    endpoints = K.endpoints * K.zones * K.endpoint * HOURS
    return {
        "workers, for the worst moment": fargate(most.workers, K.worker_cpu, K.worker_memory),
        "api tasks, for the worst moment": fargate(most.apis, K.api_task_cpu, K.api_task_memory),
        "DynamoDB writes": jobs * WRITES / 1e6 * K.writes,
        "DynamoDB reads": (jobs * READS + most.idle_reads * seconds) / 1e6 * K.reads,
        "DynamoDB storage and backup": max(table - 25, 0) * K.table_storage + table * K.table_backup,
        "SQS": max(sqs - 1, 0) * K.sqs,
        "S3 storage of audio": tiers(
            audio * K.kept_days / K.days, (50e3, K.s3_storage), (450e3, 0.022), (math.inf, 0.021)
        ),
        "S3 requests": chunks / 1e6 * (K.s3_put + K.s3_get),
        "load balancer": HOURS * (K.alb + lcus * K.lcu),
        "API Gateway (optional)": tiers(jobs * K.requests / 1e6, (300, K.gateway), (math.inf, 0.9)),
        "cache (optional)": 2 * cache * HOURS,
        "interface endpoints": endpoints + (chunks * K.endpoint_bytes / GB + logs) * K.endpoint_data,
        "audio between zones, half of it": audio / 2 * K.between_zones,
        "results to clients": 2 * jobs * K.typical_transcript / GB * K.internet,
        "CloudWatch logs": logs * K.logs,
        "alarms, dashboard, secret": K.watching,
    }


def production() -> dict[str, dict[str, float]]:
    """What infra/env/production.env costs for 1,000 users, by region: all that is optional, and a model outside."""
    found, before, audio = {}, vars(K).copy(), 1000 * K.files_a_day * K.days * K.audio_bytes / GB
    for region in ("us-east-1", *ELSEWHERE):
        vars(K).update(ELSEWHERE.get(region, {}))
        internet = tiers(audio, (10e3, K.internet), (40e3, 0.085), (100e3, 0.07), (math.inf, 0.05))
        nat = {"NAT gateway, by the hour": HOURS * K.nat, "audio to the model: NAT, and out": audio * K.nat + internet}
        found[region] = {name.removesuffix(" (optional)"): cost for name, cost in (costs(1000) | nat).items()}
        vars(K).update(before)
    return found


# ---- limits ---------------------------------------------------------------------------------------------------------


class Limit(NamedTuple):
    most: float
    name: str
    source: str
    attribute: str

    def used(self, at: Moment) -> float:
        return getattr(at, self.attribute)

    def users(self, moment: Callable[[float], Moment]) -> float:
        """How many daily users reach it; none, when idle tasks are too much. What is used only grows with them."""
        low, high = 1.0, 1e12
        if self.used(moment(low)) > self.most:
            return 0
        while high / low > 1.001:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.used(moment(middle)) <= self.most else (low, middle)
        return low


LIMITS = [Limit(*quota) for quota in INPUTS["quotas"].values()]

# ---- the worst minute, simulated ------------------------------------------------------------------------------------

# The chance of at most 1, 2, .. 24 chunks in a job: each one more with this chance, which makes 6 on average.
WEIGHTS = [0.84422**more for more in range(24)]
AT_MOST = list(accumulate(weight / sum(WEIGHTS) for weight in WEIGHTS))
MEAN_CHUNKS = sum(chunks * weight for chunks, weight in enumerate(WEIGHTS, start=1)) / sum(WEIGHTS)


def exponential(random: Random, mean: float) -> float:
    return -mean * math.log(1.0 - random.random())


def hold(random: Random, failing: float) -> float:
    """How long one chunk holds its slot. A call that fails takes as long as one that does not, and is made again."""
    held, pause = 0.0, K.first_pause
    for _ in range(int(K.tries)):
        held += K.fastest_call + (K.slowest_call - K.fastest_call) * random.random()
        if random.random() >= failing:
            break
        held += pause * (0.5 + 0.5 * random.random())
        pause *= 2
    return held


Job = tuple[float, list[float], float]


def jobs(
    random: Random,
    rate: Callable[[float], float],
    most: float,
    until: float,
    failing: float = K.failing,
    polled: bool = False,
) -> Iterator[Job]:
    """Arrival, time held by each chunk, and what Longhand adds. A Poisson process of `rate` chunks a second."""
    now = 0.0
    while (now := now + exponential(random, MEAN_CHUNKS / most)) < until:
        if random.random() * most < rate(now):
            size = min(bisect(AT_MOST, random.random()) + 1, len(AT_MOST))
            added = K.added + exponential(random, K.added_more) + (random.random() if polled else 0.0)
            yield now, [hold(random, failing) for _ in range(size)], added


def serve(chunks: Iterable[tuple[float, float]], slots: int | None) -> Iterator[tuple[float, float]]:
    """For chunks of (arrival, time held), in the order of their arrival: when each gets its slot, and gives it back."""
    free = [0.0] * (slots or 0)
    for arrival, held in chunks:
        start = arrival if slots is None else max(arrival, free[0])
        if slots is not None:
            heapq.heapreplace(free, start + held)
        yield start, start + held


class Run:
    """What came of jobs: seconds to the answer, and the most chunks that waited for a slot at once."""

    def __init__(self) -> None:
        self.answers: list[float] = []
        self.waiting = 0

    def percentile(self, share: float) -> float:
        """The nearest-rank percentile: 0.99 for p99, 1 for the longest."""
        return sorted(self.answers)[max(0, math.ceil(share * len(self.answers)) - 1)]

    def add(self, found: list[Job], slots: int | None, begin: float, end: float) -> None:
        chunks = [(at, held) for at, holds, _ in found for held in holds]
        served = list(serve(chunks, slots))
        # Slots go by the order of arrival, so those who wait are the last to have come.
        begun = 0
        for come, (arrival, _) in enumerate(chunks, start=1):
            while begun < come and served[begun][0] <= arrival:
                begun += 1
            self.waiting = max(self.waiting, come - begun)
        ends = iter(done for _, done in served)
        for at, holds, added in found:
            done = max(next(ends) for _ in holds)
            if begin <= at < end:
                self.answers.append(done + added - at)


def simulate(
    slots: Iterable[int | None], seeds: Iterable[int], failing: float = K.failing, polled: bool = False
) -> dict[int | None, Run]:
    """A minute that would keep the worst moment's chunks in flight, in a busy hour. A run for each number of slots, all
    of the same arrivals and calls: only the waiting differs."""
    peak, around, begin, end = worst(1000).chunks, busy(1000).chunks, 60.0, 60.0 + K.burst
    runs = {number: Run() for number in slots}
    for seed in seeds:
        rate = lambda at: peak if begin <= at < end else around  # noqa: E731
        found = list(jobs(Random(seed), rate, peak, end + 120, failing, polled))
        for number, run in runs.items():
            run.add(found, number, begin, end)
    return runs


# ---- tables ---------------------------------------------------------------------------------------------------------


def figure(value: float) -> str:
    """Two or three digits that mean something."""
    if value < 1000 and value == int(value):
        return f"{value:.0f}"
    size = math.floor(math.log10(abs(value)))
    if size < 1:
        return f"{value:.{1 - size if size < 0 else 1}f}"
    return f"{round(value, -(size - (2 if value < 1000 else 1))):,.0f}"


def dollars(value: float) -> str:
    return "under 1" if 0 < value < 0.5 else f"{round(value, -max(0, math.floor(math.log10(value)) - 1)):,.0f}"


def table(*lines: list[str]) -> str:
    heads, *rows = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows])


USES = {
    "jobs/s": "jobs",
    "chunks in flight": "in_flight",
    f"worker tasks of {K.slots} slots": "workers",
    "api tasks": "apis",
    "waiting clients": "waiting",
    "write units/s, indexes too": "writes",
    "read units/s": "table_reads",
    "SQS requests/s": "sqs",
    "slots of the model": "slots",
    "connections to Redis": "redis",
    "messages/s from Redis": "words",
}


def use_table() -> str:
    def cell(attribute: str, users: float) -> str:
        return " / ".join(figure(getattr(moment(users), attribute)) for moment in (mean, busy, worst))

    heads = ["daily users: mean / busy hour / worst moment", *(f"{users:,}" for users in SIZES)]
    return table(heads, *([name, *(cell(attribute, users) for users in SIZES)] for name, attribute in USES.items()))


def cost_table() -> str:
    each = [costs(users) for users in SIZES]
    sums = [sum(one.values()) for one in each]
    return table(
        ["dollars a month", *(f"{users:,} users" for users in SIZES)],
        *([name, *(dollars(one[name]) for one in each)] for name in each[0]),
        ["**sum**", *(f"**{dollars(one)}**" for one in sums)],
        ["for each user", *(f"{one / users:.2f}" for one, users in zip(sums, SIZES, strict=True))],
    )


def production_table() -> str:
    bills = production()
    first = bills["us-east-1"]
    return table(
        ["dollars a month, 1,000 users", *bills],
        *([line, *(dollars(one[line]) for one in bills.values())] for line in sorted(first, key=lambda n: -first[n])),
        ["**sum**", *(f"**{round(sum(one.values()), -1):,.0f}**" for one in bills.values())],
    )


def limit_table() -> str:
    def reached(limit: Limit, moment: Callable[[float], Moment]) -> str:
        users = limit.users(moment)
        if not users:
            return "none: idle tasks alone"
        return figure(float(f"{users:.1e}")) if users < 1e9 else "over 1 billion"

    ranked = sorted(LIMITS, key=lambda limit: limit.users(worst))
    return table(
        ["limit", "value", "users, worst moment", "users, busy hour"],
        *([one.name, f"{one.most:,.0f}", reached(one, worst), reached(one, busy)] for one in ranked),
    )


def minute_table() -> str:
    slots = (800, 900, 1000, 1100, 1200, 1600, None)
    runs = {f"{number:,}" if number else "no limit": run for number, run in simulate(slots, range(1, 11)).items()}
    for failing, polled in ((0.0, False), (0.0, True), (0.01, False), (0.05, False)):
        name = f"no limit, {failing:.0%} of calls fail{', no Redis' * polled}"
        runs[name] = simulate([None], range(1, 6), failing, polled)[None]
    rows = []
    for name, run in runs.items():
        shares = [f"{run.percentile(share):.1f}" for share in (0.5, 0.95, 0.99, 1)]
        late = sum(answer > K.within for answer in run.answers) / len(run.answers)
        rows.append([name, *shares, f"{late:.1%}", figure(run.waiting)])
    return table(["slots", "p50", "p95", "p99", "longest", f"over {K.within:.0f} s", "most chunks waiting"], *rows)


TABLES = {
    "use": use_table,
    "cost": cost_table,
    "production": production_table,
    "limits": limit_table,
    "minute": minute_table,
}


# How many rows of a table the page shows.
ROWS = {"use": 11, "minute": 8, "limits": 8}


def with_tables(page: str) -> str:
    """The page with each table that it has marks for as it is computed now."""
    mark = re.compile(r"(<!-- capacity.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

    def table(found: re.Match[str]) -> str:
        rows = TABLES[found[2]]().splitlines()
        return found[1] + "\n".join(rows[: ROWS.get(found[2], len(rows)) + 2]) + f"\n{found[3]}"

    return mark.sub(table, page)


def main(arguments: list[str]) -> int:
    if arguments == ["--write"]:
        PAGE.write_text(with_tables(PAGE.read_text()))
    elif arguments:
        sys.exit(__doc__)
    else:
        print("\n\n".join(f"{name}\n\n{make()}" for name, make in TABLES.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
