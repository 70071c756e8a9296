"""What CAPACITY.md is computed from: each figure with its unit, and where and when it was measured or looked up.

Change one, and run `python3 infra/capacity.py --write`. Prices are those of us-east-1 in US dollars, without the free
months of a new account. All sources were read on 2026-11-23, as stored copies; the date behind one is its own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple


class Known(NamedTuple):
    value: float
    unit: str
    source: str


REMEMBERED = "as remembered, not confirmed"
RUN = "measured 2026-11-23, local stack, debug build"
README = "BENCHMARKS.md, release build, 2 cores"

USAGE = {
    "files_a_day": Known(96, "chunks per daily user", "the design"),
    "chunks": Known(6, "chunks per job", "the design: typical, 24 at most"),
    "worst_in_flight": Known(1, "chunks in flight per daily user, worst moment", "the design: 1,000 for 1,000 users"),
    "fastest_call": Known(5, "s", "the design"),
    "slowest_call": Known(10, "s", "the design"),
    "busy_hour": Known(4, "times the day's mean", "assumed: 4/24, 17 % of a day, in its busiest hour"),
    "days": Known(30, "days a month", "convention; 730 hours"),
    "audio_seconds": Known(40, "s per chunk", "assumed: 100 words at 150 a minute"),
    "audio_bytes": Known(1_280_000, "bytes per chunk", "assumed: 40 s of 16 kHz mono 16-bit WAV; 5 MB at most"),
    "kept_days": Known(30, "days", "infra/data.yaml AudioRetentionDays, LONGHAND_RETENTION_DAYS"),
    "requests": Known(3, "HTTP requests per job", "assumed: POST /uploads, a submit that waits, one look later"),
    "turnaround": Known(9.5, "s per job", "the simulation, slots enough: p50"),
}

MEASURED = {
    "sends": Known(1.0, "SendMessageBatch per job", RUN),
    "receives": Known(
        6.0, "ReceiveMessage per job", "worst: each message to another worker. Measured: 1.0 with one worker"
    ),
    "deletes": Known(6.0, "DeleteMessageBatch per job", f"worst: none together. {RUN}: 5.5 at 0.2 jobs/s, 1.6 at 5"),
    "renewals": Known(0.45, "ChangeMessageVisibilityBatch per job", f"{RUN}, 0.2 jobs/s"),
    "idle_receives": Known(0.6, "ReceiveMessage/s per worker", f"{RUN}, 90 s idle: three queues, 5 s each"),
    "idle_depths": Known(0.067, "GetQueueAttributes/s per worker", f"{RUN}, 90 s idle: each sweep"),
    "idle_queries": Known(0.267, "Query/s per worker", f"{RUN}, 90 s idle: 4 each sweep"),
    "probes": Known(
        0.2, "readiness checks/s per api task", "assumed: each 10 s from two zones; 1 GetItem, 1 GetQueueAttributes"
    ),
    "waits_redis": Known(1.13, "GetItem per job that is waited for, with Redis", RUN),
    "waits_table": Known(12.8, "GetItem per job that is waited for, without Redis", RUN),
    "publishes": Known(13, "PUBLISH per job", f"{RUN}: two a chunk, one at the end"),
    "api_log": Known(402, "bytes per request", f"{RUN}, JSON"),
    "worker_log": Known(2037, "bytes per job", f"{RUN}, JSON"),
    "api_cpu": Known(0.005, "s of CPU per job", f"{README}: 0.003 with 1.3 looks; more for waits"),
    "chunk_cpu": Known(0.015, "s of CPU per chunk", f"assumed: {README}: 0.003 to 0.006 without TLS"),
}

# Bytes of real items, as DynamoDB counts them: names and values. Written by the worker, read from the emulator's table.
ITEMS = {
    "job_item": Known(344, "bytes", f"{RUN}: 310, and a user id of 36"),
    "recent_item": Known(128, "bytes", f"{RUN}: 94, and a user id of 36"),
    "key_item": Known(215, "bytes", f"{RUN}: 181, and a user id of 36"),
    "claimed_chunk": Known(530, "bytes", f"{RUN}: 436, and a path of 100 in place of 6"),
    "typical_chunk": Known(2_116, "bytes, 100 words", f"{RUN}: 2,022, and a path of 100"),
    "worst_chunk": Known(11_499, "bytes, 700 words", f"{RUN}: 11,405, and a path of 100"),
    "typical_transcript": Known(6_441, "bytes, 6 x 100 words", f"{RUN}: 5,877, and six paths of 100"),
    "worst_transcript": Known(30_312, "bytes, 6 x 700 words", f"{RUN}: 29,748, and six paths of 100"),
    "user_index_entry": Known(320, "bytes", "the projection of infra/data.yaml, no metadata"),
    "open_index_entry": Known(100, "bytes", "keys only"),
    "overhead": Known(100, "bytes per item and index entry, stored", REMEMBERED),
}

SIZING = {
    "slots": Known(128, "chunks at once per worker", "the default of infra/service.yaml"),
    "worker_cpu": Known(0.5, "vCPU per worker", "infra/service.yaml; 128 slots / 7.5 s x chunk_cpu is 0.26"),
    "worker_memory": Known(1, "GB per worker", "infra/service.yaml; BENCHMARKS.md: 81 to 198 MB with 1,008 in flight"),
    "api_tasks": Known(10, "tasks at least", "the design"),
    "api_task_cpu": Known(0.5, "vCPU per api task", "infra/service.yaml"),
    "api_task_memory": Known(1, "GB per api task", "infra/service.yaml; 65 MB with 1,000 waiting clients"),
    "waits_a_task": Known(1000, "waiting clients per api task", "BENCHMARKS.md: measured so far and no further"),
    "busy_share": Known(0.5, "of a task's CPU, at most", "assumed"),
    "spare": Known(1.1, "slots of the model over the mean in flight", "the simulation"),
    "zones": Known(2, "zones", "infra/network.yaml"),
    "endpoints": Known(5, "interface endpoints", "infra/network.yaml"),
    "addresses": Known(2038, "addresses for tasks", "infra/network.yaml: two subnets of 1,024, less 5 each"),
    "endpoint_bytes": Known(
        4096, "bytes of SQS traffic per chunk", "assumed: a message of 1 KB, both ways, and headers"
    ),
    "burst": Known(60, "s that the worst moment lasts", "assumed"),
}

PRICES = {
    "fargate_cpu": Known(0.04048, "$ per vCPU-hour, x86", "wring.co/blog/aws-fargate-pricing-guide (2026-03-10)"),
    "fargate_memory": Known(0.004445, "$ per GB-hour, x86", "the same"),
    "arm": Known(0.80, "of the x86 price", "vantage.sh/blog/fargate-pricing: 0.03238 and 0.00356"),
    "spot": Known(0.30, "of the price, at best", "wring.co: up to 70 % off; it varies"),
    "writes": Known(0.625, "$ per million write units", "airbyte.com .. dynamodb-pricing (2025-07-21)"),
    "reads": Known(0.125, "$ per million read units", "the same"),
    "table_storage": Known(0.25, "$ per GB-month over 25 GB", "aws.amazon.com/dynamodb/pricing (undated copy)"),
    "table_backup": Known(0.20, "$ per GB-month, point-in-time recovery", REMEMBERED),
    "sqs": Known(
        0.50,
        "$ per million requests",
        "cloudburn.io/blog/amazon-sqs-pricing (2026-03-14): 0.40, and 0.10 for fair queues",
    ),
    "s3_storage": Known(
        0.023, "$ per GB-month, first 50 TB", "devnotes.tech (undated); 0.022 and 0.021 above: " + REMEMBERED
    ),
    "s3_put": Known(5.0, "$ per million PUT", "devnotes.tech (undated)"),
    "s3_get": Known(0.4, "$ per million GET", "the same"),
    "alb": Known(0.0225, "$ per hour", "wifitalents.com/elastic-load-balancer-statistics (undated)"),
    "lcu": Known(0.008, "$ per LCU-hour: 25 new connections/s, 3,000 open, or 1 GB/h", "the same; handbook.vantage.sh"),
    "gateway": Known(1.0, "$ per million requests, 0.90 above 300 million", "apigatewaycost.com/aws (undated)"),
    "lambda_requests": Known(0.20, "$ per million requests", "appropri8 (2025-12-02)"),
    "lambda_gb_s": Known(
        0.0000133334, "$ per GB-second, arm64", f"{REMEMBERED}; x86 0.0000166667: appropri8 (2025-12-02)"
    ),
    "cache_small": Known(0.0256, "$ per hour, cache.t4g.small, Valkey, 1.4 GB", REMEMBERED),
    "cache_large": Known(0.1752, "$ per hour, cache.r7g.large, Valkey, 13 GB", REMEMBERED),
    "endpoint": Known(0.01, "$ per hour, zone and interface endpoint", "zacfukuda.com (2026-06-01)"),
    "endpoint_data": Known(0.01, "$ per GB", "the same"),
    "nat": Known(0.045, "$ per hour, and per GB", "the same"),
    "between_zones": Known(0.02, "$ per GB, both directions", "usage.ai/blogs/aws-network-costs (2026-05): 0.01 each"),
    "internet": Known(0.09, "$ per GB out, first 10 TB; less above", "devnotes.tech (undated): 0.09, 0.085, 0.07"),
    "logs": Known(0.50, "$ per GB taken in", "factualminds.com .. cloudwatch-pricing (2026-06-13)"),
    "watching": Known(
        10, "$ for alarms, dashboard, metrics of filters and one secret", "estimate: $0.10, $3, $0.30, $0.40 each"
    ),
    "model_hour": Known(0.01, "$ per hour of audio", "no price: a unit to multiply"),
    "gpu_calls": Known(16, "calls at once per GPU", "no figure: depends on model and GPU; measure yours"),
    "gpu_hour": Known(1.0, "$ per GPU-hour", "no price: a unit to multiply"),
}

QUOTAS = {
    "in_flight": Known(120_000, "messages in flight per standard queue, about", "AWS docs, SQS quotas-queues"),
    "new_table": Known(
        4_000, "write units/s of a new table, then twice the last peak", "AWS re:Post, on-demand-table-throttling"
    ),
    "table": Known(40_000, "write units/s per table; can be raised", "AWS docs, DynamoDB Limits"),
    "partition_writes": Known(1_000, "write units/s per partition", "AWS re:Post, on-demand-table-throttling"),
    "partition_reads": Known(3_000, "read units/s per partition", "the same"),
    "gateway_rate": Known(10_000, "requests/s per account and region; can be raised", "AWS docs, apigateway limits"),
    "executions": Known(1_000, "executions at once per account; can be raised", "serverlessland.com operator guide"),
    "new_account": Known(
        6, "vCPUs on Fargate for a new account; can be raised", f"{REMEMBERED}; a user reports 5 (2021)"
    ),
    "tasks": Known(
        5_000, "tasks per ECS service; can be raised", "awsdocs/amazon-ecs-developer-guide service-quotas.md"
    ),
    "targets": Known(1_000, "targets per load balancer; can be raised", "AWS docs, ALB load-balancer-limits"),
    "s3_puts": Known(3_500, "PUT/s per partitioned prefix, at least", "AWS re:Post, http-5xx-errors-s3"),
    "endpoint_rate": Known(10e9, "bit/s per endpoint and zone, growing to 100e9", "AWS docs, PrivateLink quotas"),
    "nat_connections": Known(55_000, "connections of a NAT gateway to one address", REMEMBERED),
    "redis_words": Known(200_000, "messages/s handed out by one node", "assumed; measured by nobody here"),
    "redis_connections": Known(65_000, "connections per node", REMEMBERED),
}

# What the code says; a test compares.
CODE = {
    "shards": Known(4, "partition keys of openJobs", "shared/src/store/item.rs OPEN_SHARDS"),
    "sweep": Known(15, "s between sweeps of one worker", "LONGHAND_SWEEP_SECONDS"),
    "rate": Known(600, "jobs per minute, user and server", "LONGHAND_RATE_PER_MINUTE"),
    "result_kept": Known(300, "s that Redis keeps a result", "shared/src/cache/mod.rs SHARED_TTL"),
    "tries": Known(4, "calls per chunk at most", "ASR_MAX_RETRIES 3, and the first"),
    "first_pause": Known(0.5, "s before the second call, doubled each time", "worker/src/settings.rs"),
    "metadata": Known(8_192, "bytes of metadata at most", "shared/src/job.rs: 16 of 512 bytes"),
}

SIMULATION = {
    "failing": Known(
        0.005, "of the model's calls fail and are made again", "assumed; a failed one takes as long as a good one"
    ),
    "within": Known(15, "s to the answer", "the design"),
    "added": Known(0.09, "s that Longhand adds at least", "BENCHMARKS.md, make load at 5 jobs/s: p50 0.09 to 0.11"),
    "added_more": Known(
        0.025, "s more, on average, exponential", "so that p99 is 0.20: BENCHMARKS.md, make load 0.14 to 0.20"
    ),
}

GROUPS = {
    "usage": USAGE,
    "measured": MEASURED,
    "items": ITEMS,
    "sizing": SIZING,
    "prices": PRICES,
    "quotas": QUOTAS,
    "code": CODE,
    "simulation": SIMULATION,
}

SIZES = (1_000, 100_000, 10_000_000)

K = SimpleNamespace(**{name: known.value for group in GROUPS.values() for name, known in group.items()})
