"""From use to write units, tasks, dollars, and the users who reach a limit: plain arithmetic on the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from capacity_inputs import K

HOURS = 730
SECONDS = 86_400
GB = 1e9
CALL = (K.fastest_call + K.slowest_call) / 2


# ---- the table ------------------------------------------------------------------------------------------------------


def units(size: float, each: int) -> int:
    """What an item of so many bytes costs: 1 KB a write unit, 4 KB a read unit, at least one."""
    return max(1, math.ceil(size / each))


def write(size: float) -> int:
    return units(size, 1024)


def writes(chunk: float, transcript: float, metadata: float = 0) -> dict[str, int]:
    """Write units of a job, by step; a transaction costs twice. Index entries are a write each, and a move two."""
    n = int(K.chunks)
    job, listed = K.job_item + metadata, K.user_index_entry + metadata
    return {
        "create: job, recent, key, chunks": 2
        * (write(job) + write(K.recent_item) + write(K.key_item) + n * write(K.claimed_chunk)),
        "claims": n * write(K.claimed_chunk),
        "verdicts": n * write(chunk),
        "strikes (job's item)": n * write(job),
        "end: transcript, job": 2 * (write(transcript + metadata) + write(job)),
        "index userId-jobStatus: put, move": 3 * write(listed),
        "index openJobs: put, delete": 2 * write(K.open_index_entry),
    }


def reads(chunk: float, transcript: float, metadata: float = 0) -> dict[str, float]:
    """Read units of a job, by step. Only index queries are read the cheap way, at half."""
    n, job = int(K.chunks), units(K.job_item + metadata, 4096)
    transcript += metadata
    return {
        "open jobs counted at the submit": 0.5 + 1 + 1,
        "end: all chunks": float(units(n * chunk, 4096)),
        "end: is anybody to be told?": float(job),
        "a client that waits, with Redis": K.waits_redis * job,
        "(without Redis)": K.waits_table * job + units(transcript, 4096),
        "a look later than 5 minutes": float(job + units(transcript, 4096)),
    }


TYPICAL = (K.typical_chunk, K.typical_transcript)
WORST = (K.worst_chunk, K.worst_transcript)
WRITES = sum(writes(*TYPICAL).values())
INDEX_WRITES = sum(cost for step, cost in writes(*TYPICAL).items() if step.startswith("index"))
READS = sum(cost for step, cost in reads(*TYPICAL).items() if not step.startswith("("))


def stored(chunk: float, transcript: float, metadata: float = 0) -> float:
    """Bytes that a job takes in the table and its index for as long as it is kept."""
    items = K.job_item + K.chunks * chunk + transcript + (K.chunks + 2) * K.overhead
    return items + K.user_index_entry + K.overhead + 3 * metadata


# ---- a size of use --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """What happens at once, for so many users."""

    users: float
    in_flight: float

    @property
    def chunks(self) -> float:
        """A second."""
        return self.in_flight / CALL

    @property
    def jobs(self) -> float:
        """A second."""
        return self.chunks / K.chunks

    @property
    def waiting(self) -> float:
        """Clients that wait for their job."""
        return self.jobs * K.turnaround

    @property
    def workers(self) -> int:
        return max(2, math.ceil(self.in_flight * K.spare / K.slots))

    @property
    def apis(self) -> int:
        cpu = self.jobs * K.api_cpu / (K.api_task_cpu * K.busy_share)
        return math.ceil(max(K.api_tasks, self.waiting / K.waits_a_task, cpu))

    @property
    def sqs(self) -> float:
        """Requests a second."""
        a_job = K.sends + K.receives + K.deletes + K.renewals
        return self.jobs * a_job + self.workers * (K.idle_receives + K.idle_depths) + self.apis * K.probes

    @property
    def table_reads(self) -> float:
        return self.jobs * READS + self.workers * K.idle_queries * 0.5 + self.apis * K.probes * 0.5

    @property
    def words(self) -> float:
        """Messages that Redis hands out a second: each change, to each api."""
        return self.jobs * K.publishes * self.apis


def mean(users: float) -> Moment:
    return Moment(users, users * K.files_a_day / SECONDS * CALL)


def busy(users: float) -> Moment:
    return Moment(users, mean(users).in_flight * K.busy_hour)


def worst(users: float) -> Moment:
    return Moment(users, users * K.worst_in_flight)


def cached(users: float) -> float:
    """Bytes of results in Redis after the worst moment."""
    jobs = worst(users).jobs * K.burst + busy(users).jobs * (K.result_kept - K.burst)
    return jobs * K.typical_transcript


# ---- dollars --------------------------------------------------------------------------------------------------------


def fargate(tasks: float, cpu: float, memory: float) -> float:
    return tasks * HOURS * (cpu * K.fargate_cpu + memory * K.fargate_memory)


def workers_cost(tasks: float) -> float:
    return fargate(tasks, K.worker_cpu, K.worker_memory)


def s3_storage(gigabytes: float) -> float:
    first, next_ = min(gigabytes, 50e3), min(max(gigabytes - 50e3, 0), 450e3)
    return first * K.s3_storage + next_ * 0.022 + max(gigabytes - 500e3, 0) * 0.021


def monthly(users: float) -> dict[str, float]:
    """Chunks and jobs a month, and what they move."""
    chunks = users * K.files_a_day * K.days
    return {"chunks": chunks, "jobs": chunks / K.chunks, "audio": chunks * K.audio_bytes / GB}


def lcus(users: float) -> float:
    at = mean(users)
    bytes_an_hour = at.jobs * (K.typical_transcript * 2 + 4096) * 3600 / GB
    return max(at.jobs * K.requests / 25, at.waiting / 3000, bytes_an_hour)


def cache_cost(users: float) -> float:
    """Two nodes; large ones, and shards, where small ones do not hold the results."""
    if cached(users) < 0.7 * GB:
        return 2 * K.cache_small * HOURS
    return 2 * math.ceil(cached(users) / (9 * GB)) * K.cache_large * HOURS


def costs(users: float) -> dict[str, float]:
    month, at = monthly(users), mean(users)
    jobs, chunks = month["jobs"], month["chunks"]
    most = worst(users)
    table = jobs * stored(*TYPICAL) * K.kept_days / K.days / GB
    # Tasks run all the month, and so do their idle calls.
    sqs = (at.jobs * (K.sends + K.receives + K.deletes + K.renewals)) + most.workers * (K.idle_receives + K.idle_depths)
    sqs += most.apis * K.probes
    seconds = SECONDS * K.days
    idle_reads = (most.workers * K.idle_queries + most.apis * K.probes) * 0.5 * seconds
    logs = (jobs * K.worker_log + jobs * K.requests * K.api_log) / GB
    gateway = jobs * K.requests / 1e6
    return {
        "workers, for the worst moment": workers_cost(most.workers),
        "api tasks, for the worst moment": fargate(most.apis, K.api_task_cpu, K.api_task_memory),
        "DynamoDB writes": jobs * WRITES / 1e6 * K.writes,
        "DynamoDB reads": (jobs * READS + idle_reads) / 1e6 * K.reads,
        "DynamoDB storage and backup": max(table - 25, 0) * K.table_storage + table * K.table_backup,
        "SQS": max(sqs * seconds / 1e6 - 1, 0) * K.sqs,
        "S3 storage of audio": s3_storage(month["audio"] * K.kept_days / K.days),
        "S3 requests": chunks / 1e6 * (K.s3_put + K.s3_get),
        "load balancer": HOURS * (K.alb + lcus(users) * K.lcu),
        "API Gateway (optional)": min(gateway, 300) * K.gateway + max(gateway - 300, 0) * 0.9,
        "cache (optional)": cache_cost(users),
        "interface endpoints": K.endpoints * K.zones * K.endpoint * HOURS
        + (chunks * K.endpoint_bytes / GB + logs) * K.endpoint_data,
        "audio between zones, half of it": month["audio"] / 2 * K.between_zones,
        "results to clients": 2 * jobs * K.typical_transcript / GB * K.internet,
        "CloudWatch logs": logs * K.logs,
        "alarms, dashboard, secret": K.watching,
    }


def extras(users: float) -> dict[str, float]:
    """What is not in the sum: other ways, and the model."""
    month, most = monthly(users), worst(users)
    gb_seconds = month["jobs"] * (K.turnaround + 0.1) * 0.25
    return {
        "workers, for the busy hour (and 30 % more)": workers_cost(
            math.ceil(max(2, 1.3 * busy(users).in_flight / K.slots))
        ),
        "workers, for the worst moment, on arm64": workers_cost(most.workers) * K.arm,
        "workers, for the worst moment, on Spot": workers_cost(most.workers) * K.spot,
        "the api as a Lambda function, 256 MB, in place of tasks and balancer": gb_seconds * K.lambda_gb_s
        + month["jobs"] * K.requests / 1e6 * K.lambda_requests,
        "audio to a model on the internet (NAT, and out)": HOURS * K.nat
        + month["audio"] * (K.nat + internet_price(month["audio"])),
        "the model, for each cent per hour of audio": month["chunks"] * K.audio_seconds / 3600 * K.model_hour,
        f"or, per dollar of a GPU-hour, GPUs of {K.gpu_calls:.0f} calls at once for the busy hour, all month": gpus(
            busy(users)
        ),
        "the same for the worst moment": gpus(most),
    }


def gpus(at: Moment) -> float:
    """Dollars of as many GPUs as take the calls of such a moment, all month."""
    return math.ceil(at.in_flight * K.spare / K.gpu_calls) * K.gpu_hour * HOURS


def internet_price(gigabytes: float) -> float:
    """Of a GB, on average; the prices of the upper tiers as remembered."""
    tiers = [(10e3, K.internet), (40e3, 0.085), (100e3, 0.07), (math.inf, 0.05)]
    left, dollars = gigabytes, 0.0
    for size, price in tiers:
        part = min(left, size)
        dollars, left = dollars + part * price, left - part
    return dollars / gigabytes


# ---- limits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    name: str
    most: float
    unit: str
    used: Callable[[Moment], float]

    def users(self, moment: Callable[[float], Moment]) -> float:
        """How many daily users reach it; none, when what stands idle is too much. What is used only grows with them."""
        low, high = 1.0, 1e12
        if self.used(moment(low)) > self.most:
            return 0
        while high / low > 1.001:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.used(moment(middle)) <= self.most else (low, middle)
        return low


def shard_writes(at: Moment) -> float:
    return at.jobs * 2 / K.shards


LIMITS = [
    Limit(
        "Fargate in a new account",
        K.new_account,
        "vCPUs",
        lambda at: at.workers * K.worker_cpu + at.apis * K.api_task_cpu,
    ),
    Limit(
        "write units/s of a new table (then twice its last peak)",
        K.new_table,
        "WCU/s",
        lambda at: at.jobs * (WRITES - INDEX_WRITES),
    ),
    Limit("write units/s of a table, default quota", K.table, "WCU/s", lambda at: at.jobs * (WRITES - INDEX_WRITES)),
    Limit("openJobs: 4 shards, a partition each", K.partition_writes, "WCU/s", shard_writes),
    Limit(
        "openJobs while jobs take over 30 s: 4 shards, a partition each",
        K.partition_writes,
        "WCU/s",
        lambda at: 2 * shard_writes(at),
    ),
    Limit("openJobs: 4 shards on one partition", K.partition_writes, "WCU/s", lambda at: at.jobs * 2),
    Limit(
        "openJobs: a shard read by all sweepers",
        K.partition_reads,
        "RCU/s",
        lambda at: at.workers / K.sweep * 1.5,
    ),
    Limit("messages in flight in the queue", K.in_flight, "messages", lambda at: at.in_flight),
    Limit("Lambda executions, when clients wait", K.executions, "at once", lambda at: at.waiting),
    Limit("API Gateway requests", K.gateway_rate, "1/s", lambda at: at.jobs * K.requests),
    Limit("targets of a load balancer", K.targets, "api tasks", lambda at: at.apis),
    Limit("addresses of infra/network.yaml", K.addresses, "tasks", lambda at: at.workers + at.apis),
    Limit("tasks of an ECS service", K.tasks, "workers", lambda at: at.workers),
    Limit("S3 uploads under one prefix, before S3 has split it", K.s3_puts, "PUT/s", lambda at: at.chunks),
    Limit("what one Redis node hands out", K.redis_words, "1/s", lambda at: at.words),
    Limit("connections of one Redis node", K.redis_connections, "connections", lambda at: 2 * at.apis + at.workers),
    Limit(
        "endpoint of SQS, in a zone, before it has grown",
        K.endpoint_rate,
        "bit/s",
        lambda at: at.chunks * K.endpoint_bytes * 8 / K.zones,
    ),
    Limit(
        "a NAT gateway to one address of a model on the internet",
        K.nat_connections,
        "connections",
        lambda at: at.in_flight,
    ),
]
