"""The capacity model: the tables are those on its page, the inputs those in the code, the waits what theory says."""

from __future__ import annotations

import re
import sys
import unittest
from random import Random

from support import ROOT

sys.path.insert(0, str(ROOT / "infra"))

import capacity  # noqa: E402 - found by the path above
import capacity_model as model  # noqa: E402
import queueing  # noqa: E402
from capacity_inputs import K  # noqa: E402
from item_sizes import item_size  # noqa: E402


class Page(unittest.TestCase):
    def test_the_tables_are_those_that_the_program_computes(self):
        page = capacity.PAGE.read_text()
        self.assertEqual(capacity.with_tables(page), page, "stale: python3 infra/capacity.py --write")


class Inputs(unittest.TestCase):
    def said(self, path: str, pattern: str) -> float:
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
                self.assertEqual(self.said("infra/service.yaml", block + r'Cpu: "(\d+)"'), 1024 * cpu)
                self.assertEqual(self.said("infra/service.yaml", block + r'Memory: "(\d+)"'), 1024 * memory)

    def test_what_the_code_says(self):
        for name, path, pattern in [
            ("shards", "shared/src/store/item.rs", r"OPEN_SHARDS: u8 = (\d+);"),
            ("sweep", "worker/src/settings.rs", r'"LONGHAND_SWEEP_SECONDS",\s*(\d+)'),
            ("rate", "api/src/limits.rs", r'"LONGHAND_RATE_PER_MINUTE",\s*(\d+)'),
            ("first_pause", "worker/src/settings.rs", r"first_pause: Duration::from_millis\((\d+)\)"),
            ("result_kept", "shared/src/cache/mod.rs", r"SHARED_TTL: Duration = Duration::from_mins\((\d+)\)"),
            ("tries", "worker/src/settings.rs", r'"ASR_MAX_RETRIES",\s*(\d+)'),
            ("kept_days", "infra/data.yaml", r"AudioRetentionDays:\s*Type: Number\s*Default: (\d+)"),
        ]:
            with self.subTest(name):
                said = self.said(path, pattern)
                said = {"first_pause": said / 1000, "result_kept": said * 60, "tries": said + 1}.get(name, said)
                self.assertEqual(getattr(K, name), said)

    def test_each_size_of_an_item_is_counted_as_dynamodb_does(self):
        item = {
            "jobId": {"S": "é"},
            "attempt": {"N": "1"},
            "ttl": {"N": "1798003111"},
            "unsettled": {"NS": ["0", "1"]},
            "history": {"L": [{"M": {"seconds": {"N": "7.209"}}}]},
        }
        names = len("jobIdattemptttlunsettledhistory")
        self.assertEqual(item_size(item), names + 2 + 2 + 6 + (1 + 2) + (3 + 1) + (3 + 1) + len("seconds") + 3)


class Arithmetic(unittest.TestCase):
    def test_units_begin_with_each_kilobyte(self):
        self.assertEqual([model.write(size) for size in (1, 1024, 1025, 2048)], [1, 1, 2, 2])
        self.assertEqual([model.units(size, 4096) for size in (0, 4096, 4097)], [1, 1, 2])

    def test_a_limit_is_reached_by_as_many_users_as_are_said(self):
        for limit in model.LIMITS:
            for moment in (model.busy, model.worst):
                users = limit.users(moment)
                with self.subTest(limit.name):
                    if users == 0:
                        self.assertGreater(limit.used(moment(1)), limit.most)
                        continue
                    self.assertLessEqual(limit.used(moment(users)), limit.most)
                    self.assertGreater(limit.used(moment(users * 1.01)), limit.most)

    def test_the_worst_moment_of_the_design(self):
        at = model.worst(1000)
        self.assertEqual(at.in_flight, 1000)
        self.assertAlmostEqual(at.chunks * model.CALL, 1000)
        self.assertGreaterEqual(at.workers * K.slots, 1000 * K.spare)


class Queueing(unittest.TestCase):
    def test_waits_as_erlang_says(self):
        # Agner Erlang's own case: 10 lines, 8 of them busy on average.
        self.assertAlmostEqual(queueing.erlang_c(10, 8.0), 0.409, places=3)
        for slots, load in [(1, 0.7), (10, 8.0), (50, 46.0)]:
            random, now, chunks = Random(7), 0.0, []
            for _ in range(300_000):
                now += queueing.exponential(random, 1 / load)
                chunks.append((now, queueing.exponential(random, 1.0)))
            starts = [start for start, _ in queueing.serve(chunks, slots)]
            waits = [start - arrival for (arrival, _), start in zip(chunks, starts, strict=True)]
            chance = queueing.erlang_c(slots, load)
            with self.subTest(slots=slots):
                self.assertAlmostEqual(sum(wait > 0 for wait in waits) / len(waits), chance, delta=0.03 * chance + 0.01)
                mean = chance / (slots - load)
                self.assertAlmostEqual(sum(waits) / len(waits), mean, delta=0.12 * mean)

    def test_more_slots_answer_sooner_and_enough_as_soon_as_none_had_to_wait(self):
        scene = capacity.scene(20, 0)
        runs = list(queueing.simulate(scene, capacity.model(0), [400, 800, 1600, None], [3]).values())
        for fewer, more in zip(runs, runs[1:], strict=False):
            self.assertGreaterEqual(fewer.percentile(0.95), more.percentile(0.95))
            self.assertGreaterEqual(fewer.waiting, more.waiting)
        self.assertEqual(runs[2].answers, runs[3].answers)
        self.assertGreater(runs[0].waiting, 0)
        self.assertLess(runs[3].percentile(1), K.slowest_call + 1)

    def test_a_job_of_six_takes_as_long_as_make_load_measured(self):
        # BENCHMARKS.md, Load: turnaround of 100 jobs of six chunks, 5 to 10 s a call, no call failing.
        random, calls, added = Random(1), capacity.model(0), capacity.scene(1, 0).extra
        run = queueing.Run([max(calls.hold(random) for _ in range(6)) + added(random) for _ in range(20_000)])
        for share, measured in [(0.5, 9.617), (0.9, 9.967), (0.99, 10.064)]:
            with self.subTest(share):
                self.assertAlmostEqual(run.percentile(share), measured, delta=0.15)

    def test_jobs_have_1_to_24_chunks_6_on_average(self):
        random = Random(1)
        sizes = [queueing.job_size(random) for _ in range(100_000)]
        self.assertEqual((min(sizes), max(sizes)), (1, 24))
        self.assertAlmostEqual(sum(sizes) / len(sizes), K.chunks, delta=0.06)
        self.assertAlmostEqual(queueing.MEAN_CHUNKS, K.chunks, places=3)


if __name__ == "__main__":
    unittest.main()
