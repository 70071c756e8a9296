"""The rules of infra/alarms.yaml on what the queueing model says: quiet when all is as planned, loud when not."""

from __future__ import annotations

import sys
import unittest
from dataclasses import dataclass
from random import Random

from cloud import MATH, PARTS
from support import INFRA
from unsupported import effective

sys.path.insert(0, str(INFRA))

import capacity  # noqa: E402 - found by the path above

DOCUMENTS = {part.name: part.template for part in PARTS}
ALARMS = {
    name: resource["Properties"]
    for name, resource in DOCUMENTS["alarms"]["Resources"].items()
    if resource["Type"] == "AWS::CloudWatch::Alarm"
}
DEFAULTS = {name: about.get("Default") for name, about in DOCUMENTS["service"]["Parameters"].items()}
PLANNED = DEFAULTS["WorkerMinTasks"] * DEFAULTS["WorkerSlots"]
COMPARED = {
    "GreaterThanOrEqualToThreshold": lambda value, threshold: value >= threshold,
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
}


def fires(alarm: str, figures: list[float | None]) -> bool:
    """Whether the alarm goes off within these periods. A period without a figure is None."""
    rule = ALARMS[alarm]
    missing = {"breaching": True, "notBreaching": False}.get(rule["TreatMissingData"])
    compare = COMPARED[rule["ComparisonOperator"]]
    breaches = [missing if figure is None else compare(figure, rule["Threshold"]) for figure in figures]
    length = rule["EvaluationPeriods"]
    needed = rule.get("DatapointsToAlarm", length)
    return any(breaches[at : at + length].count(True) >= needed for at in range(len(breaches) - length + 1))


@dataclass
class World:
    """What happened: jobs by (end, seconds to it), chunks by (arrival, end)."""

    jobs: list[tuple[float, float]]
    chunks: list[tuple[float, float]]
    seconds: int

    @classmethod
    def of(cls, chunks_per_second: float, slots: int, seconds: int, failing: float) -> World:
        rate = chunks_per_second
        jobs = list(capacity.jobs(Random(1), lambda _: rate, rate, seconds, failing))
        asked = [(at, held) for at, holds, _ in jobs for held in holds]
        starts = capacity.serve(asked, slots)
        ends = [start + held for start, (_, held) in zip(starts, asked, strict=True)]
        left = iter(ends)
        done = [(at, max(next(left) for _ in holds) + more) for at, holds, more in jobs]
        chunks = [(at, end) for (at, _), end in zip(asked, ends, strict=True)]
        return cls([(end, end - at) for at, end in done], chunks, seconds)

    def figure(self, metric: str, statistic: str, begin: float, end: float) -> float | None:
        if metric == "ApproximateAgeOfOldestMessage":
            return max((min(done, end) - at for at, done in self.chunks if at < end and done > begin), default=0)
        answers = [took for ended, took in self.jobs if begin <= ended < end]
        match (metric, statistic):
            case _ if not answers:
                return None
            case (_, "SampleCount"):
                return len(answers)
            case ("AnsweredInTime", "Average"):
                return 100 * sum(took <= 15 for took in answers) / len(answers)
            case ("JobsFailed", "Sum"):
                return None
        raise AssertionError(f"the model knows nothing of {metric}, {statistic}")

    def figures(self, alarm: str) -> list[float | None]:
        """What CloudWatch compares in each period."""
        rule = ALARMS[alarm]
        metrics = {one["Id"]: one["MetricStat"] for one in rule.get("Metrics", []) if "MetricStat" in one}
        period = rule.get("Period") or next(iter(metrics.values()))["Period"]
        found = []
        for begin in range(0, self.seconds, period):
            if not metrics:
                found.append(self.figure(rule["MetricName"], rule["Statistic"], begin, begin + period))
                continue
            values = {
                name: self.figure(one["Metric"]["MetricName"], one["Stat"], begin, begin + period)
                for name, one in metrics.items()
            }
            [expression] = [one["Expression"] for one in rule["Metrics"] if "Expression" in one]
            known = values["jobs"] is not None
            found.append(eval(expression, {}, {**MATH, **values}) if known else None)
        return found


MODELLED = ("JobsSlow", "JobsFailing", "OldestMessage")


class Alarms(unittest.TestCase):
    def loud(self, chunks_per_second: float, slots: int, failing: float = 0.005, seconds: int = 1800) -> set[str]:
        world = World.of(chunks_per_second, slots, seconds, failing)
        return {alarm for alarm in MODELLED if fires(alarm, world.figures(alarm))}

    def test_none_fires_while_all_is_as_planned(self):
        worst, busy = capacity.worst(1000).chunks, capacity.busy(1000).chunks
        # The worst moment for half an hour, a busy hour, and a service that is hardly used for a day.
        self.assertEqual(self.loud(worst, PLANNED), set())
        self.assertEqual(self.loud(busy, PLANNED, seconds=3600), set())
        self.assertEqual(self.loud(0.05, 32, seconds=86_400), set())

    def test_a_few_late_jobs_prove_nothing(self):
        late = World([(at, 20.0) for at in range(0, 3600, 60)], [], 3600)
        self.assertFalse(fires("JobsSlow", late.figures("JobsSlow")))
        self.assertTrue(fires("JobsSlow", World(late.jobs * 5, [], 3600).figures("JobsSlow")))

    def test_too_few_slots_and_a_model_that_fails_raise_alarms(self):
        worst = capacity.worst(1000).chunks
        self.assertEqual(self.loud(worst, 900), {"JobsSlow", "OldestMessage"})
        self.assertEqual(self.loud(worst, PLANNED, failing=0.05), {"JobsSlow"})
        self.assertTrue(fires("JobsFailing", [0, 0, 12, 15, 10]))
        self.assertFalse(fires("JobsFailing", [0, 100, 0, 100, 0]))

    def test_none_fires_because_it_was_just_made(self):
        """Figures out of logs begin with the stack of alarms, and some others with the first use."""
        for alarm, rule in ALARMS.items():
            # The service, which is there before, has its tasks counted from its own beginning.
            if rule.get("Namespace") != "ECS/ContainerInsights":
                with self.subTest(alarm):
                    self.assertFalse(fires(alarm, [None] * 20))
        self.assertTrue(fires("NoPoll", [0] * 5))

    def test_each_way_in_has_an_alarm(self):
        watched = {(str(rule.get("Namespace")), rule.get("MetricName")) for rule in ALARMS.values()}
        for figure in (
            ("AWS/ApplicationELB", "HTTPCode_Target_5XX_Count"),
            ("AWS/ApiGateway", "5xx"),
            ("AWS/Lambda", "Errors"),
            ("AWS/Lambda", "Throttles"),
        ):
            self.assertIn(figure, watched)
        servers = {"ApiServiceName": "a", "LoadBalancerFullName": "b", "TargetGroupFullName": "c"}
        function = {"FunctionName": "f", "FunctionLogGroupName": "g"}
        for given, there in (
            (servers, {"Api5xx", "LoadBalancer5xx", "TooFewApis"}),
            ({**servers, "ApiId": "i"}, {"Api5xx", "LoadBalancer5xx", "TooFewApis", "Gateway5xx"}),
            ({**function, "ApiId": "i"}, {"Gateway5xx", "FunctionErrors", "FunctionThrottled"}),
        ):
            made = effective(DOCUMENTS["alarms"], given)[0].keys()
            of_ways = {"Api5xx", "LoadBalancer5xx", "TooFewApis", "Gateway5xx", "FunctionErrors", "FunctionThrottled"}
            self.assertEqual(made & of_ways, there)

    def test_jobs_are_in_time_or_late(self):
        filters = DOCUMENTS["alarms"]["Resources"]
        late, in_time = (filters[name]["Properties"] for name in ("JobsLate", "JobsInTime"))
        self.assertEqual(late["FilterPattern"].replace(" > ", " <= "), in_time["FilterPattern"])


if __name__ == "__main__":
    unittest.main()
