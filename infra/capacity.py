#!/usr/bin/env python3
"""The tables of CAPACITY.md: tasks, table units, requests, dollars, limits, and the time to answer.

  python3 infra/capacity.py            prints them
  python3 infra/capacity.py --write    puts them into CAPACITY.md, between their marks
  python3 infra/capacity.py --check    exits with 1 when those in CAPACITY.md are others

What they are computed from is in capacity_inputs.py, how in capacity_model.py, the simulation in queueing.py.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

from capacity_inputs import GROUPS, SIZES, K
from capacity_model import (
    LIMITS,
    TYPICAL,
    WORST,
    WRITES,
    Limit,
    Moment,
    busy,
    cached,
    costs,
    extras,
    mean,
    monthly,
    reads,
    stored,
    worst,
    write,
    writes,
)
from queueing import Model, Run, Scene, exponential, simulate

PAGE = Path(__file__).resolve().parents[1] / "CAPACITY.md"


# ---- the simulation -------------------------------------------------------------------------------------------------


def model(failing: float = K.failing) -> Model:
    return Model(K.fastest_call, K.slowest_call, failing, int(K.tries), K.first_pause)


def scene(seconds: float, before: float, polled: bool = False) -> Scene:
    """A burst that would keep the worst moment's chunks in flight, and the busy hour's load around it."""
    peak, around, quiet = worst(1000).chunks, busy(1000).chunks, 60.0

    def rate(at: float) -> float:
        return peak if quiet <= at < quiet + before + seconds else around

    def added(random) -> float:
        return K.added + exponential(random, K.added_more) + (random.random() if polled else 0.0)

    begin = quiet + before
    return Scene(rate, peak, begin + seconds + 120, begin, begin + seconds, added)


SLOTS = (600, 700, 800, 900, 1000, 1050, 1100, 1200, 1400, 1600)


def minute() -> dict[int | None, Run]:
    return simulate(scene(K.burst, 0), model(), [*SLOTS, None], range(1, 11))


def steady() -> dict[int | None, Run]:
    return simulate(scene(900, 300), model(), [900, 1000, 1050, 1100, 1200, 1400], [1])


# ---- tables ---------------------------------------------------------------------------------------------------------


def figure(value: float) -> str:
    """Two or three digits that mean something."""
    if value < 1000 and value == int(value):
        return f"{value:.0f}"
    size = math.floor(math.log10(abs(value)))
    if size < 1:
        return f"{value:.{1 - size if size < 0 else 1}f}"
    rounded = round(value, -(size - (2 if value < 1000 else 1)))
    return f"{rounded:,.0f}"


def dollars(value: float) -> str:
    return "under 1" if 0 < value < 0.5 else f"{round(value, -max(0, math.floor(math.log10(value)) - 1)):,.0f}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_size(rows: list[tuple[str, Callable[[float], str]]]) -> str:
    heads = ["daily users", *(f"{users:,}" for users in SIZES)]
    return table(heads, [[name, *(cell(users) for users in SIZES)] for name, cell in rows])


def three(of: Callable[[Moment], float]) -> Callable[[float], str]:
    return lambda users: " / ".join(figure(of(moment(users))) for moment in (mean, busy, worst))


def job_table() -> str:
    jobs = {
        "100 words a chunk": TYPICAL,
        "700 words a chunk": WORST,
        f"and {K.metadata / 1024:.0f} KB of metadata": (*WORST, K.metadata),
    }
    rows = []
    for what, cost in (("write", writes), ("read", reads)):
        each = [cost(*job) for job in jobs.values()]
        rows += [[f"{what}: {step}", *(figure(steps[step]) for steps in each)] for step in each[0]]
        sums = [sum(value for step, value in steps.items() if not step.startswith("(")) for steps in each]
        rows.append([f"**{what} units**", *(f"**{figure(value)}**" for value in sums)])
    rows.append(["bytes kept", *(figure(stored(*job)) for job in jobs.values())])
    return table(["a job of six chunks", *jobs], rows)


def use_table() -> str:
    return by_size(
        [
            ("jobs a month, millions", lambda users: figure(monthly(users)["jobs"] / 1e6)),
            ("jobs/s: mean / busy hour / worst moment", three(lambda at: at.jobs)),
            ("chunks in flight: mean / busy / worst", three(lambda at: at.in_flight)),
            ("worker tasks of 128 slots: mean / busy / worst", three(lambda at: at.workers)),
            ("api tasks: mean / busy / worst", three(lambda at: at.apis)),
            ("waiting clients: mean / busy / worst", three(lambda at: at.waiting)),
            ("write units/s, indexes too: mean / busy / worst", three(lambda at: at.jobs * WRITES)),
            ("read units/s: mean / busy / worst", three(lambda at: at.table_reads)),
            ("SQS requests/s: mean / busy / worst", three(lambda at: at.sqs)),
            ("slots of the model, for the worst moment", lambda users: figure(worst(users).in_flight * K.spare)),
            ("slots of the model, busy hour", lambda users: figure(busy(users).in_flight * K.spare)),
            ("hours of audio a month", lambda users: figure(monthly(users)["chunks"] * K.audio_seconds / 3600)),
            ("connections to the model, worst", lambda users: figure(worst(users).in_flight)),
            ("connections to Redis, worst", lambda users: figure(2 * worst(users).apis + worst(users).workers)),
            ("results in Redis after the worst minute, MB", lambda users: figure(cached(users) / 1e6)),
            ("messages that Redis hands out a second, worst", lambda users: figure(worst(users).words)),
            ("audio kept, TB", lambda users: figure(monthly(users)["audio"] / 1000)),
        ]
    )


def cost_table() -> str:
    each = {users: costs(users) for users in SIZES}
    rows = [[name, *(dollars(each[users][name]) for users in SIZES)] for name in each[SIZES[0]]]
    rows.append(["**all of these**", *(f"**{dollars(sum(each[users].values()))}**" for users in SIZES)])
    rows.append(["a user and month", *(f"{sum(each[users].values()) / users:.2f}" for users in SIZES)])
    other = {users: extras(users) for users in SIZES}
    rows += [[f"*{name}*", *(dollars(other[users][name]) for users in SIZES)] for name in other[SIZES[0]]]
    return table(["dollars a month", *(f"{users:,} users" for users in SIZES)], rows)


def largest_table() -> str:
    rows = []
    for users in SIZES:
        lines = costs(users)
        total = sum(lines.values())
        first = sorted(lines, key=lambda name: -lines[name])[:3]
        rows.append([f"{users:,}", *(f"{name}: {dollars(lines[name])} ({lines[name] / total:.0%})" for name in first)])
    return table(["daily users", "first", "second", "third"], rows)


def limit_table() -> str:
    def reached(limit: Limit, moment: Callable[[float], Moment]) -> str:
        users = limit.users(moment)
        if not users:
            return "none: idle tasks alone"
        return figure(float(f"{users:.1e}")) if users < 1e9 else "over 1 billion"

    ranked = sorted(LIMITS, key=lambda limit: limit.users(worst))
    rows = [
        [limit.name, f"{limit.most:,.0f} {limit.unit}", reached(limit, worst), reached(limit, busy)] for limit in ranked
    ]
    return table(["limit", "is", "users that reach it, worst moment", "users that reach it, busy hour"], rows)


def heat_table() -> str:
    n, metadata = 24, K.metadata

    def job(script: int) -> float:
        steps = n * (write(K.claimed_chunk) + write(script * K.worst_chunk) + write(K.job_item + metadata))
        return steps + 2 * (write(script * K.worst_transcript * n / K.chunks + metadata) + write(K.job_item + metadata))

    a_second = K.rate * K.api_tasks / 60
    rows = [
        ["one job, 24 chunks of 700 words and 8 KB of metadata, all ending within one second", figure(job(1))],
        ["the same in a script of three bytes a letter", figure(job(3))],
        [
            f"one user, {K.rate:,.0f} jobs a minute at each of {K.api_tasks:.0f} apis, in userId-jobStatus",
            figure(a_second * 3 * write(K.user_index_entry)),
        ],
        ["the same with 8 KB of metadata", figure(a_second * 3 * write(K.user_index_entry + metadata))],
        ["the same user's list of recent jobs", figure(a_second * 2 * write(K.recent_item))],
    ]
    return table([f"in one partition, which takes {K.partition_writes:,.0f} WCU/s", "WCU/s"], rows)


def run_cells(run: Run) -> list[str]:
    shares = [f"{run.percentile(share):.1f}" for share in (0.5, 0.95, 0.99, 1)]
    return [*shares, f"{run.late(K.within):.1%}", figure(run.waiting)]


ANSWERS = ["p50", "p95", "p99", "longest", f"over {K.within:.0f} s", "most chunks waiting"]


def minute_table() -> str:
    rows = [["no limit" if slots is None else f"{slots:,}", *run_cells(run)] for slots, run in minute().items()]
    return table(["slots", *ANSWERS], rows)


def steady_table() -> str:
    rows = [[f"{slots:,}", *run_cells(run)] for slots, run in steady().items()]
    return table(["slots", *ANSWERS], rows)


def failing_table() -> str:
    cases = [(0.0, False), (0.0, True), (0.002, False), (0.005, False), (0.01, False), (0.02, False), (0.05, False)]
    rows = []
    for failing, polled in cases:
        run = simulate(scene(K.burst, 0, polled), model(failing), [None], range(1, 6))[None]
        rows.append([f"{failing:.1%}" + (", no Redis" if polled else ""), *run_cells(run)[:-1]])
    return table(["calls that fail, slots enough", *ANSWERS[:-1]], rows)


def input_table() -> str:
    rows = []
    for group, known in GROUPS.items():
        for name, (value, unit, source) in known.items():
            rows.append([group, f"`{name}`", f"{value:,g}" if value < 1e6 else f"{value:,.0f}", unit, source])
    return "\n".join(
        ["| | input | value | unit | where from |", "|---|---|---:|---|---|"]
        + ["| " + " | ".join(row) + " |" for row in rows]
    )


TABLES: dict[str, Callable[[], str]] = {
    "use": use_table,
    "job": job_table,
    "cost": cost_table,
    "largest": largest_table,
    "limits": limit_table,
    "heat": heat_table,
    "minute": minute_table,
    "steady": steady_table,
    "failing": failing_table,
    "inputs": input_table,
}


def with_tables(page: str) -> str:
    """The page with each table as it is computed now."""
    for name, make in TABLES.items():
        mark = re.compile(rf"(<!-- capacity.py: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(mark.findall(page)) != 1:
            raise SystemExit(f"{PAGE.name} has to have the marks of the table {name!r} once")
        text = make()
        page = mark.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    return page


def main(arguments: list[str]) -> int:
    if arguments == ["--write"]:
        PAGE.write_text(with_tables(PAGE.read_text()))
    elif arguments == ["--check"]:
        if with_tables(PAGE.read_text()) != PAGE.read_text():
            print(f"{PAGE.name} has other tables than it should: python3 infra/capacity.py --write", file=sys.stderr)
            return 1
    elif arguments:
        print(__doc__, file=sys.stderr)
        return 2
    else:
        print("\n\n".join(f"{name}\n\n{make()}" for name, make in TABLES.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
