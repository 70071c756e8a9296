"""Restores a backup into a new table, with the settings that AWS does not restore. The old table stays."""

from __future__ import annotations

from datetime import UTC, datetime

from command import connect, parser, run
from environment import Environment
from stacks import Failure


def most_units(environment: Environment) -> dict[str, int] | None:
    keys = ("MAX_READ_UNITS", "MAX_WRITE_UNITS")
    try:
        reads, writes = (int(environment.get(key, "data")) for key in keys)
    except ValueError:
        raise Failure(f"Nothing was changed. {' and '.join(keys)} must be whole numbers.") from None
    return {"MaxReadRequestUnits": reads, "MaxWriteRequestUnits": writes} if min(reads, writes) > 0 else None


def main() -> int:
    about = "Restores a backup into a new table. The old one stays in use until a deployment with the new one."
    made = parser("restore", about)
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--latest", action="store_true", help="the state of some minutes ago")
    source.add_argument(
        "--at", metavar="TIME", type=datetime.fromisoformat, help="the state at this time: 2026-11-23T05:00:00Z"
    )
    source.add_argument("--backup", metavar="ARN", help="an on-demand backup")
    options = made.parse_args()
    environment, session, _ = connect(options)
    most = most_units(environment)
    dynamodb = session.client("dynamodb")
    old = environment.values.get("TABLE_NAME", f"{environment.name}-jobs")
    new = f"{environment.name}-jobs-{datetime.now(UTC):%Y%m%d%H%M%S%f}"
    print(f"restoring {old} into {new}. If this is interrupted, delete {new} before you start again.")
    if options.backup:
        dynamodb.restore_table_from_backup(TargetTableName=new, BackupArn=options.backup)
    else:
        when = {"RestoreDateTime": options.at} if options.at else {"UseLatestRestorableTime": True}
        dynamodb.restore_table_to_point_in_time(SourceTableName=old, TargetTableName=new, **when)
    # Up to two days: a large table takes hours.
    until = {"Delay": 1 if options.emulator else 30, "MaxAttempts": 5760}
    dynamodb.get_waiter("table_exists").wait(TableName=new, WaiterConfig=until)
    # A restored table has no expiry, point-in-time recovery, deletion protection or throughput limits.
    dynamodb.update_time_to_live(TableName=new, TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl"})
    recovery = {"PointInTimeRecoveryEnabled": True}
    dynamodb.update_continuous_backups(TableName=new, PointInTimeRecoverySpecification=recovery)
    changes = []
    if environment.get("DELETION_PROTECTION", "data") == "true":
        changes.append({"DeletionProtectionEnabled": True})
    if most:
        indexes = dynamodb.describe_table(TableName=new)["Table"]["GlobalSecondaryIndexes"]
        updates = [{"Update": {"IndexName": one["IndexName"], "OnDemandThroughput": most}} for one in indexes]
        changes.append({"OnDemandThroughput": most, "GlobalSecondaryIndexUpdates": updates})
    for change in changes:
        dynamodb.update_table(TableName=new, **change)
        dynamodb.get_waiter("table_exists").wait(TableName=new, WaiterConfig=until)
    print(f"{new} exists, and nothing uses it yet. To use it, set these lines in infra/env/{options.env}.env:")
    print(f"TABLE_NAME={new}\nTABLE_ARN={dynamodb.describe_table(TableName=new)['Table']['TableArn']}")
    print(f"and run infra/deploy.sh {options.env}. The consequences: docs/operations.md, Restore the table.")
    return 0


if __name__ == "__main__":
    run(main)
