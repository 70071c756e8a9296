"""The capacity model: the tables are those on its page, the inputs those in the code, the waits what theory says."""

from __future__ import annotations

import re
import sys
import unittest
from random import Random

from support import INFRA, ROOT

sys.path.insert(0, str(INFRA))

import capacity  # noqa: E402 - found by the path above
from capacity import K  # noqa: E402


def erlang_c(slots: int, load: float) -> float:
    """The chance that one who comes has to wait, when `load` slots are busy on average (M/M/n)."""
    blocked = 1.0
    for n in range(1, slots + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / slots * (1 - blocked))


def hundreds(value: float) -> str:
    return f"{round(value, -1):,.0f}"


class Page(unittest.TestCase):
    def test_the_tables_are_those_that_the_program_computes(self):
        page = capacity.PAGE.read_text()
        self.assertEqual(capacity.with_tables(page), page, "stale: python3 infra/capacity.py --write")

    def test_the_production_file_costs_what_the_page_says(self):
        file = (INFRA / "env" / "production.env").read_text()
        for asked in ("GATEWAY_TARGET=vpclink", "CACHE=valkey", "INTERNET_EGRESS=nat", "ASR_BASE_URL=https://"):
            self.assertIn(f"\n{asked}", file)
        bills = {region: sum(lines.values()) for region, lines in capacity.production().items()}
        page = capacity.PAGE.with_name("deploy-aws.md").read_text()
        cost = " ".join(page.partition("\n## 8. Cost\n")[2].partition("\n## ")[0].split())
        for region, dollars in bills.items():
            self.assertIn(f"{hundreds(dollars)}{' dollars a month' * (region == 'us-east-1')} in {region}", cost)
        self.assertIn(f"us-east-1 are of {capacity.PRICED}", cost)
        outside = [dollars for line, dollars in capacity.production()["us-east-1"].items() if "NAT" in line]
        self.assertIn(f"{hundreds(sum(outside))} of the {hundreds(bills['us-east-1'])} dollars are", cost)


class Inputs(unittest.TestCase):
    def number_in(self, path: str, pattern: str) -> float:
        found = re.search(pattern, (ROOT / path).read_text())
        self.assertIsNotNone(found, f"{path} has no {pattern}")
        return float(found[1])

    def test_tasks_are_as_large_as_the_template_makes_them(self):
        for task, cpu, memory in [
            ("Api", K.api_task_cpu, K.api_task_memory),
            ("Worker", K.worker_cpu, K.worker_memory),
        ]:
            with self.subTest(task):
                block = rf"(?s)\n  {task}Task:\n    Type: AWS::ECS::TaskDefinition\n(?:(?!\n  \S).)*?\n      "
                self.assertEqual(self.number_in("infra/service.yaml", block + r'Cpu: "(\d+)"'), 1024 * cpu)
                self.assertEqual(self.number_in("infra/service.yaml", block + r'Memory: "(\d+)"'), 1024 * memory)

    def test_what_the_code_says(self):
        for name, path, pattern in [
            ("shards", "shared/src/store/item.rs", r"OPEN_SHARDS: u8 = (\d+);"),
            ("sweep", "worker/src/sweeper.rs", r'"LONGHAND_SWEEP_SECONDS",\s*(\d+)'),
            ("rate", "api/src/limits.rs", r'"LONGHAND_RATE_PER_MINUTE",\s*(\d+)'),
            ("first_pause", "worker/src/asr/settings.rs", r"first_pause: Duration::from_millis\((\d+)\)"),
            ("result_kept", "shared/src/cache/remote.rs", r"SHARED_TTL: Duration = Duration::from_mins\((\d+)\)"),
            ("tries", "worker/src/asr/settings.rs", r'"ASR_MAX_RETRIES",\s*(\d+)'),
            ("kept_days", "infra/data.yaml", r"AudioRetentionDays:\s*Type: Number\s*Default: (\d+)"),
        ]:
            with self.subTest(name):
                value = self.number_in(path, pattern)
                value = {"first_pause": value / 1000, "result_kept": value * 60, "tries": value + 1}.get(name, value)
                self.assertEqual(getattr(K, name), value)


class Arithmetic(unittest.TestCase):
    def test_units_begin_with_each_kilobyte(self):
        self.assertEqual([capacity.write(size) for size in (0, 1, 1024, 1025, 2048)], [1, 1, 1, 2, 2])
        # These were computed step by step, when each was compared with calls on the emulator.
        self.assertEqual((capacity.WRITES, capacity.INDEX_WRITES, round(capacity.READS, 2)), (69, 5, 11.63))

    def test_each_limit_is_reached_at_its_number_of_users(self):
        for limit in capacity.LIMITS:
            for moment in (capacity.busy, capacity.worst):
                users = limit.users(moment)
                within, beyond = (getattr(moment(some), limit.attribute) for some in (users, users + 1))
                with self.subTest(limit.name):
                    self.assertGreater(beyond, limit.most)
                    if users:
                        self.assertLessEqual(within, limit.most)

    def test_the_worst_moment_of_the_design(self):
        at = capacity.worst(1000)
        self.assertEqual(at.in_flight, 1000)
        self.assertAlmostEqual(at.chunks * capacity.CALL, 1000)
        self.assertGreaterEqual(at.workers * K.slots, 1000 * K.spare)


class Queueing(unittest.TestCase):
    def test_waits_as_erlang_says(self):
        # Agner Erlang's own case: 10 lines, 8 of them busy on average.
        self.assertAlmostEqual(erlang_c(10, 8.0), 0.409, places=3)
        for slots, load in [(1, 0.7), (10, 8.0), (50, 46.0)]:
            random, now, chunks = Random(7), 0.0, []
            for _ in range(300_000):
                now += random.expovariate(load)
                chunks.append((now, random.expovariate(1)))
            starts = list(capacity.serve(chunks, slots))
            waits = [start - arrival for (arrival, _), start in zip(chunks, starts, strict=True)]
            chance = erlang_c(slots, load)
            with self.subTest(slots=slots):
                self.assertAlmostEqual(sum(wait > 0 for wait in waits) / len(waits), chance, delta=0.03 * chance + 0.01)
                mean = chance / (slots - load)
                self.assertAlmostEqual(sum(waits) / len(waits), mean, delta=0.12 * mean)

    def test_more_slots_answer_sooner_and_enough_as_soon_as_none_had_to_wait(self):
        runs = list(capacity.simulate([400, 800, 1600, None], [3], failing=0).values())
        for fewer, more in zip(runs, runs[1:], strict=False):
            self.assertGreaterEqual(fewer.percentile(0.95), more.percentile(0.95))
            self.assertGreaterEqual(fewer.waiting, more.waiting)
        self.assertEqual(runs[2].answers, runs[3].answers)
        self.assertGreater(runs[0].waiting, 0)
        self.assertLess(runs[3].percentile(1), K.slowest_call + 1)

    def test_a_job_of_six_takes_as_long_as_make_load_measured(self):
        # docs/benchmarks.md, Load: turnaround of 100 jobs of six chunks, 5 to 10 s a call, no call failing.
        random, run = Random(1), capacity.Run()
        for _ in range(20_000):
            added = K.added + random.expovariate(1 / K.added_more)
            run.answers.append(max(capacity.hold(random, 0) for _ in range(6)) + added)
        for share, measured in [(0.5, 9.617), (0.9, 9.967), (0.99, 10.064)]:
            with self.subTest(share):
                self.assertAlmostEqual(run.percentile(share), measured, delta=0.15)

    def test_the_maximum_number_of_chunks_is_the_services(self):
        source = (ROOT / "shared/src/domain/id.rs").read_text()
        self.assertIn(f"pub const MAX_CHUNKS: usize = {capacity.MAX_CHUNKS};", source)

    def test_jobs_have_six_chunks_on_average(self):
        jobs = capacity.jobs(Random(1), lambda _: 100.0, 100.0, 6000.0, failing=0)
        sizes = [len(holds) for _, holds, _ in jobs]
        self.assertEqual((min(sizes), max(sizes)), (1, capacity.MAX_CHUNKS))
        self.assertAlmostEqual(sum(sizes) / len(sizes), K.chunks, delta=0.06)
        self.assertAlmostEqual(capacity.MEAN_CHUNKS, K.chunks, places=3)


if __name__ == "__main__":
    unittest.main()
