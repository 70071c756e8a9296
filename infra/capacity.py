#!/usr/bin/env python3
"""The tables of docs/capacity.md: tasks, table units, requests, dollars, limits, and the time to an answer.

  python3 infra/capacity.py            prints all tables
  python3 infra/capacity.py --write    updates those of the page

The inputs and their sources are in capacity.toml. The rest is arithmetic and a simulation of the worst minute: chunks
wait in one queue for one of N slots, first come, first served. A chunk holds its slot from its first model call to its
last, including the pauses between retries. The worker frees the slot in these pauses, so it needs slightly fewer slots.
The seeds are fixed, so the figures are reproducible.
"""

from __future__ import annotations

import heapq
import math
import re
import sys
import tomllib
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import NamedTuple

INFRA = Path(__file__).resolve().parent
PAGE = INFRA.parent / "docs/capacity.md"
INPUTS = tomllib.loads((INFRA / "capacity.toml").read_text())
PRICED, ELSEWHERE, USES = (INPUTS.pop(name) for name in ("priced", "elsewhere", "use"))
K = SimpleNamespace(**{name: known[0] for group in INPUTS.values() for name, known in group.items()})
SIZES = (1_000, 100_000, 10_000_000)
HOURS, SECONDS, GB = 730, 86_400, 1e9
CALL = (K.fastest_call + K.slowest_call) / 2


def write(size: float) -> int:
    """The write units of an item: one for each kilobyte or part of it."""
    return max(1, math.ceil(size / 1024))


# DynamoDB units of a typical job. A transaction costs twice. An index entry costs one write, and two when its key
# changes.
CHUNKS, JOB_READ, RESULT_READ = int(K.chunks), math.ceil(K.job_item / 4096), math.ceil(K.typical_transcript / 4096)
CREATE = 2 * (sum(map(write, (K.job_item, K.recent_item, K.key_item))) + CHUNKS * write(K.claimed_chunk))
SETTLE = CHUNKS * (write(K.claimed_chunk) + write(K.typical_chunk) + write(K.job_item))
FINISH = 2 * (write(K.typical_transcript) + write(K.job_item))
INDEX_WRITES = 3 * write(K.user_index_entry) + 2 * write(K.open_index_entry)
WRITES = CREATE + SETTLE + FINISH + INDEX_WRITES
# Reads: the count of open jobs, all chunks at the end, the webhook's state, one wait with Redis, and one look at the
# result. A redelivered chunk, which is read before its claim, is rare.
CHUNK_READS = math.ceil(CHUNKS * K.typical_chunk / 4096)
READS = 2.5 + CHUNK_READS + (2 + K.waits_redis) * JOB_READ + RESULT_READ
STORED = K.job_item + CHUNKS * K.typical_chunk + K.typical_transcript + K.user_index_entry + (CHUNKS + 3) * K.overhead


class Moment:
    """The load with this many chunks in flight, per second, and what it needs."""

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
        # Each published message goes to each api.
        self.redis_messages, self.redis = self.jobs * K.publishes * self.apis, 2 * self.apis + self.workers
        self.tasks, self.vcpus = self.workers + self.apis, self.workers * K.worker_cpu + self.apis * K.api_task_cpu
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


def fargate(tasks: float, cpu: float, memory: float) -> float:
    return tasks * HOURS * (cpu * K.fargate_cpu + memory * K.fargate_memory)


def costs(users: float) -> dict[str, float]:
    chunks, at, most = users * K.files_a_day * K.days, mean(users), worst(users)
    jobs, audio, seconds = chunks / K.chunks, chunks * K.audio_bytes / GB, SECONDS * K.days
    table = jobs * STORED * K.kept_days / K.days / GB
    # The tasks, and so their idle calls, run all month.
    sqs = (at.sqs - at.idle_sqs + most.idle_sqs) * seconds / 1e6
    logs = (jobs * K.worker_log + jobs * K.requests * K.api_log) / GB
    bytes_an_hour = at.jobs * (K.typical_transcript * 2 + 4096) * 3600 / GB
    lcus = max(at.jobs * K.requests / 25, at.waiting / 3000, bytes_an_hour)
    # Results in Redis after the worst moment. Two nodes per shard: small ones if they hold them, else large ones.
    cached = (most.jobs * K.burst + busy(users).jobs * (K.result_kept - K.burst)) * K.typical_transcript / GB
    cache = K.cache_small if cached < 0.7 else math.ceil(cached / 9) * K.cache_large
    endpoints = K.endpoints * K.zones * K.endpoint * HOURS
    # The price falls by 0.001 above 50 TB, and again above 500 TB; that of API Gateway by 0.1 above 300 million.
    kept, requests = audio * K.kept_days / K.days, jobs * K.requests / 1e6
    return {
        "workers, for the worst moment": fargate(most.workers, K.worker_cpu, K.worker_memory),
        "api tasks, for the worst moment": fargate(most.apis, K.api_task_cpu, K.api_task_memory),
        "DynamoDB writes": jobs * WRITES / 1e6 * K.writes,
        "DynamoDB reads": (jobs * READS + most.idle_reads * seconds) / 1e6 * K.reads,
        "DynamoDB storage and backup": max(table - 25, 0) * K.table_storage + table * K.table_backup,
        "SQS": max(sqs - 1, 0) * K.sqs,
        "S3 storage of audio": kept * K.s3_storage - 0.001 * (max(kept - 50e3, 0) + max(kept - 500e3, 0)),
        "S3 requests": chunks / 1e6 * (K.s3_put + K.s3_get),
        "load balancer": HOURS * (K.alb + lcus * K.lcu),
        "API Gateway (optional)": requests * K.gateway - 0.1 * max(requests - 300, 0),
        "cache (optional)": 2 * cache * HOURS,
        "interface endpoints": endpoints + (chunks * K.endpoint_bytes / GB + logs) * K.endpoint_data,
        "audio between zones, half of it": audio / 2 * K.between_zones,
        "results to clients": 2 * jobs * K.typical_transcript / GB * K.internet,
        "CloudWatch logs": logs * K.logs,
        "alarms, dashboard, secret": K.watching,
    }


def production() -> dict[str, dict[str, float]]:
    """The cost of infra/env/production.env by region: 1,000 users, all options, and a model on the internet."""
    found, before, audio = {}, vars(K).copy(), 1000 * K.files_a_day * K.days * K.audio_bytes / GB
    for region in ("us-east-1", *ELSEWHERE):
        vars(K).update(ELSEWHERE.get(region, {}))
        nat = {"NAT gateway, by the hour": HOURS * K.nat, "audio to the model: NAT, out": audio * (K.nat + K.internet)}
        found[region] = costs(1000) | nat
        vars(K).update(before)
    return found


class Limit(NamedTuple):
    most: float
    name: str
    source: str
    attribute: str

    def users(self, moment: Callable[[float], Moment]) -> int:
        """The most daily users within the limit; 0 if idle tasks alone exceed it."""
        return bisect(range(1, 10**12), self.most, key=lambda users: getattr(moment(users), self.attribute))


LIMITS = [Limit(*quota) for quota in INPUTS["quotas"].values()]

# `MAX_CHUNKS` of shared/src/domain/id.rs. A test compares them.
MAX_CHUNKS = 24
# The weights of 1 to MAX_CHUNKS chunks in a job: geometric, with a mean of 6.
WEIGHTS = [0.84422**more for more in range(MAX_CHUNKS)]
MEAN_CHUNKS = sum(chunks * weight for chunks, weight in enumerate(WEIGHTS, start=1)) / sum(WEIGHTS)
# Arrival, the seconds that each chunk holds a slot, and the time that Longhand adds.
Job = tuple[float, list[float], float]


def hold(random: Random, failing: float) -> float:
    """How long one chunk holds its slot. A failed call takes as long as a successful one and is retried."""
    held = 0.0
    for retry in range(int(K.tries)):
        held += random.uniform(K.fastest_call, K.slowest_call)
        if random.random() >= failing:
            break
        held += K.first_pause * 2**retry * random.uniform(0.5, 1)
    return held


def jobs(random: Random, rate: Callable[[float], float], most: float, until: float, failing: float) -> Iterator[Job]:
    """A Poisson process of `rate` chunks a second, which is at most `most`."""
    now = 0.0
    while (now := now + random.expovariate(most / MEAN_CHUNKS)) < until:
        if random.random() * most < rate(now):
            [size] = random.choices(range(1, 25), WEIGHTS)
            added = K.added + random.expovariate(1 / K.added_more)
            yield now, [hold(random, failing) for _ in range(size)], added


def serve(chunks: Iterable[tuple[float, float]], slots: int | None) -> Iterator[float]:
    """When each chunk (arrival, time held) gets a slot. The chunks are in the order of arrival."""
    free = [0.0] * (slots or 0)
    for arrival, held in chunks:
        start = max(arrival, free[0]) if free else arrival
        if free:
            heapq.heapreplace(free, start + held)
        yield start


class Run:
    """The seconds from submit to answer of each job, and the most chunks that waited for a slot at once."""

    def __init__(self) -> None:
        self.answers: list[float] = []
        self.waiting = 0

    def percentile(self, share: float) -> float:
        """By nearest rank: 0.99 for p99, 1 for the longest."""
        return sorted(self.answers)[max(0, math.ceil(share * len(self.answers)) - 1)]


def simulate(slots: Iterable[int | None], seeds: Iterable[int], failing: float = K.failing) -> dict[int | None, Run]:
    """A minute of the worst moment within a busy hour of 1,000 users, for each number of slots, with the same jobs."""
    peak, around, begin, end = worst(1000).chunks, busy(1000).chunks, 60.0, 60.0 + K.burst
    runs = {number: Run() for number in slots}
    for seed in seeds:
        rate = lambda at: peak if begin <= at < end else around  # noqa: E731
        found = list(jobs(Random(seed), rate, peak, end + 120, failing))
        chunks = [(at, held) for at, holds, _ in found for held in holds]
        for number, run in runs.items():
            starts = list(serve(chunks, number))
            # Starts are in order, so all chunks that wait at an arrival are the latest ones.
            run.waiting = max(run.waiting, *(n - bisect(starts, at, 0, n) for n, (at, _) in enumerate(chunks, start=1)))
            ends = (start + held for start, (_, held) in zip(starts, chunks, strict=True))
            for at, holds, added in found:
                done = max(next(ends) for _ in holds)
                if begin <= at < end:
                    run.answers.append(done + added - at)
    return runs


def figure(value: float) -> str:
    """Two significant digits; from 10 to 1,000 a whole number."""
    if value < 9.95 and value != int(value):
        return f"{value:#.2g}"
    return f"{round(value, 1 - math.floor(math.log10(value)) if value >= 1000 else 0):,.0f}"


def table(*lines: list[str]) -> str:
    heads, *rows = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows])


def use_table() -> str:
    def cell(attribute: str, users: float) -> str:
        return " / ".join(figure(getattr(moment(users), attribute)) for moment in (mean, busy, worst))

    heads = ["daily users: mean / busy hour / worst moment", *(f"{users:,}" for users in SIZES)]
    return table(heads, *([name, *(cell(attribute, users) for users in SIZES)] for name, attribute in USES.items()))


def cost_table(heads: list[str], users: Iterable[int], bills: list[dict[str, float]]) -> str:
    sums = [sum(bill.values()) for bill in bills]
    return table(
        ["dollars a month", *heads],
        *([line, *(figure(bill[line]) for bill in bills)] for line in bills[0]),
        ["**sum**", *(f"**{figure(one)}**" for one in sums)],
        ["for each user", *(f"{one / size:.2f}" for one, size in zip(sums, users, strict=True))],
    )


def limit_table() -> str:
    rows = sorted((limit.users(worst), limit.users(busy), limit) for limit in LIMITS)
    return table(
        ["limit", "value", "users, worst moment", "users, busy hour"],
        *([limit.name, f"{limit.most:,.0f}", figure(at_worst), figure(at_busy)] for at_worst, at_busy, limit in rows),
    )


def minute_table() -> str:
    slots = (800, 900, 1000, 1100, 1200, 1600, None)
    runs = {f"{number:,}" if number else "no limit": run for number, run in simulate(slots, range(1, 11)).items()}
    for failing in (0.0, 0.01, 0.05):
        runs[f"no limit, {failing:.0%} of calls fail"] = simulate([None], range(1, 6), failing)[None]
    rows = [["slots", "p50", "p95", "p99", "longest", f"over {K.within:.0f} s", "most chunks waiting"]]
    for name, run in runs.items():
        late = sum(answer > K.within for answer in run.answers) / len(run.answers)
        shares = [f"{run.percentile(share):.1f}" for share in (0.5, 0.95, 0.99, 1)]
        rows.append([name, *shares, f"{late:.1%}", figure(run.waiting)])
    return table(*rows)


# Each table, and how many of its rows the page shows.
TABLES = {
    "use": (use_table, 99),
    "cost": (lambda: cost_table([f"{users:,} users" for users in SIZES], SIZES, [*map(costs, SIZES)]), 99),
    "production": (lambda: cost_table([*production()], [1000, 1000], [*production().values()]), 99),
    "limits": (limit_table, 8),
    "minute": (minute_table, 8),
}


def with_tables(page: str) -> str:
    """The page with each of its marked tables computed again."""

    def region(found: re.Match[str]) -> str:
        make, rows = TABLES[found[2]]
        return found[1] + "\n".join(make().splitlines()[: rows + 2]) + f"\n{found[3]}"

    return re.sub(r"(<!-- capacity.py: (\w+) -->\n).*?(<!-- end -->)", region, page, flags=re.DOTALL)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(with_tables(PAGE.read_text()))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        print("\n\n".join(f"{name}\n\n{make()}" for name, (make, _) in TABLES.items()))
