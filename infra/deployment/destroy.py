"""Removes the stacks of an environment in reverse order. The data stays, unless `--data` is passed."""

from __future__ import annotations

import sys

from command import connect, parser, run
from environment import ORDER
from stacks import Failure, Stacks


def delete_data(session, name: str, table: str | None, buckets: list[str]) -> None:
    """Deletes what the stacks retain, so that no deletion of a stack loses it by accident."""
    if table:
        dynamodb = session.client("dynamodb")
        dynamodb.delete_table(TableName=table)
        dynamodb.get_waiter("table_not_exists").wait(TableName=table, WaiterConfig={"Delay": 2, "MaxAttempts": 150})
        print(f"  table {table} is deleted")
    existing = {one["Name"] for one in session.client("s3").list_buckets()["Buckets"]}
    for bucket in map(session.resource("s3").Bucket, existing.intersection(buckets)):
        # A bucket can be deleted only without any version of an object.
        for batch in bucket.object_versions.delete():
            if batch.get("Errors"):
                raise Failure(f"{bucket.name}: {batch['Errors'][0]}")
        bucket.delete()
        print(f"  bucket {bucket.name} is deleted")
    ecr = session.client("ecr")
    for repository in (f"{name}-api", f"{name}-worker"):
        try:
            ecr.delete_repository(repositoryName=repository, force=True)
            print(f"  images {repository} are deleted")
        except ecr.exceptions.RepositoryNotFoundException:
            pass


def main() -> int:
    made = parser("destroy", "Removes an environment. Table, queues, bucket and images stay without --data.")
    made.add_argument("--data", action="store_true", help="delete jobs, transcripts, audio and images permanently, too")
    options = made.parse_args()
    environment, session, identity = connect(options)
    name, account = environment.name, identity["Account"]
    role = environment.values.get("CLOUDFORMATION_ROLE_ARN")
    stacks, dynamodb = Stacks(session, 0.2 if options.emulator else 5, role), session.client("dynamodb")
    kept = () if options.data else ("data", "images", "code")
    removed = [part for part in reversed(ORDER) if part not in kept and stacks.describe(environment.stack(part))]
    table, bucket, stack = f"{name}-jobs", f"{name}-audio-{account}", environment.stack("data")
    if not removed and not options.data:
        print(f"{name}: nothing to remove")
        return 0
    try:
        described = dynamodb.describe_table(TableName=table)["Table"]
    except dynamodb.exceptions.ResourceNotFoundException:
        described = {}
    protected = [f"stack {stack}"] if stacks.describe(stack).get("EnableTerminationProtection") else []
    protected += [f"table {table}"] if described.get("DeletionProtectionEnabled") else []
    if options.data and protected:
        # Checked before the first stack is deleted: otherwise the queues would be deleted and the table would stay.
        raise Failure(
            f"nothing was removed: deletion protection is on for {' and '.join(protected)}. To delete the data, deploy "
            "with DELETION_PROTECTION=false in the parameter file, then run this again"
        )
    print(f"{name} in {session.region_name}, account {account}: {', '.join(removed) or 'no stack'} will be removed.")
    if options.data:
        print(f"ALL DATA WILL BE DELETED PERMANENTLY: table {table}, bucket {bucket}, queues, images.")
        if environment.values.get("TABLE_NAME", table) != table:
            print(f"The restored table {environment.values['TABLE_NAME']} stays: delete it yourself.")
    else:
        print(f"Table {table}, the queues, bucket {bucket} and the images stay;")
        print(f"infra/deploy.sh {options.env} uses them again.")
    # A name, since "yes" is typed too easily.
    print(f"Type {name} to confirm: ", end="", flush=True)
    if sys.stdin.readline().strip() != name:
        raise Failure("nothing was removed")
    for part in removed:
        print(f"removing {environment.stack(part)}")
        stacks.delete(environment.stack(part))
    if options.data:
        delete_data(session, name, table if described else None, [bucket, f"{name}-code-{account}"])
    print(f"{name} is removed." + ("" if options.data else " Its data stays."))
    return 0


if __name__ == "__main__":
    run(main)
