"""Makes a new table out of a backup of an environment's table, with what AWS does not restore. The old one stays."""

from __future__ import annotations

from datetime import UTC, datetime

from command import connect, parser, run


def main() -> int:
    made = parser(
        "restore",
        "Makes a new table out of a backup of the environment's table. The old one stays, and is in use until the "
        "parameter file names the new one.",
    )
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--latest", action="store_true", help="as it was some minutes ago")
    source.add_argument("--at", metavar="TIME", type=datetime.fromisoformat, help="as it was at 2026-11-23T05:00:00Z")
    source.add_argument("--backup", metavar="ARN", help="as it is in this on-demand backup")
    options = made.parse_args()
    environment, session, _ = connect(options)
    dynamodb = session.client("dynamodb")
    old = environment.values.get("TABLE_NAME", f"{environment.name}-jobs")
    new = f"{environment.name}-jobs-{datetime.now(UTC):%Y%m%d%H%M%S}"
    print(f"restoring {old} into {new}")
    if options.backup:
        dynamodb.restore_table_from_backup(TargetTableName=new, BackupArn=options.backup)
    else:
        when = {"RestoreDateTime": options.at} if options.at else {"UseLatestRestorableTime": True}
        dynamodb.restore_table_to_point_in_time(SourceTableName=old, TargetTableName=new, **when)
    # Two days: a large table takes hours.
    until = {"Delay": 1 if options.emulator else 30, "MaxAttempts": 5760}
    dynamodb.get_waiter("table_exists").wait(TableName=new, WaiterConfig=until)
    # What AWS leaves out of a restored table: expiry, recovery, protection, bounds.
    expiry = {"Enabled": True, "AttributeName": "ttl"}
    dynamodb.update_time_to_live(TableName=new, TimeToLiveSpecification=expiry)
    recovery = {"PointInTimeRecoveryEnabled": True}
    dynamodb.update_continuous_backups(TableName=new, PointInTimeRecoverySpecification=recovery)
    before = dynamodb.describe_table(TableName=old)["Table"]
    if before.get("DeletionProtectionEnabled"):
        dynamodb.update_table(TableName=new, DeletionProtectionEnabled=True)
    if before.get("OnDemandThroughput"):
        dynamodb.get_waiter("table_exists").wait(TableName=new, WaiterConfig=until)
        dynamodb.update_table(TableName=new, OnDemandThroughput=before["OnDemandThroughput"])
    print(f"{new} exists; nothing uses it yet. To use it, these lines in infra/env/{options.env}.env:")
    print(f"TABLE_NAME={new}\nTABLE_ARN={dynamodb.describe_table(TableName=new)['Table']['TableArn']}")
    print(f"and then infra/deploy.sh {options.env}. The consequences: docs/operations.md, Restore the table.")
    return 0


if __name__ == "__main__":
    run(main)
