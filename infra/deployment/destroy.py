"""Removes an environment's stacks, the last first. The data stays, unless `--data` is given."""

from __future__ import annotations

import sys

from command import connect, parser, run
from environment import ORDER
from stacks import Failure, Stacks


def empty(session, bucket: str) -> None:
    """With every version: a bucket that holds one is not deleted."""
    if bucket in [one["Name"] for one in session.client("s3").list_buckets()["Buckets"]]:
        found = session.resource("s3").Bucket(bucket)
        for batch in found.object_versions.delete():
            if batch.get("Errors"):
                raise Failure(f"{bucket}: {batch['Errors'][0]}")
        found.delete()
        print(f"  bucket {bucket} is gone")


def drop_images(session, repository: str) -> None:
    ecr = session.client("ecr")
    try:
        ecr.delete_repository(repositoryName=repository, force=True)
        print(f"  images {repository} are gone")
    except ecr.exceptions.RepositoryNotFoundException:
        pass


def main() -> int:
    made = parser("destroy", "Removes what infra/deploy.sh made. Table, queues, bucket and images stay without --data.")
    made.add_argument("--data", action="store_true", help="the data too: jobs, transcripts, audio, images. For good")
    options = made.parse_args()
    environment, session, identity = connect(options)
    name, account = environment.name, identity["Account"]
    role = environment.values.get("CLOUDFORMATION_ROLE_ARN")
    stacks, dynamodb = Stacks(session, 0.2 if options.emulator else 5, role), session.client("dynamodb")
    kept = () if options.data else ("data", "images", "code")
    going = [part for part in reversed(ORDER) if part not in kept and stacks.describe(environment.stack(part))]
    table, bucket = f"{name}-jobs", f"{name}-audio-{account}"
    if not going and not options.data:
        print(f"{name}: nothing to remove")
        return 0
    try:
        described = dynamodb.describe_table(TableName=table)["Table"]
    except dynamodb.exceptions.ResourceNotFoundException:
        described = None
    stack = environment.stack("data")
    protected = [f"stack {stack}"] if stacks.describe(stack).get("EnableTerminationProtection") else []
    protected += [f"table {table}"] if described and described.get("DeletionProtectionEnabled") else []
    if options.data and protected:
        # Before the first stack goes: the queues and all that runs would be gone, and the table would still be there.
        raise Failure(
            f"nothing was removed: {' and '.join(protected)} {'is' if len(protected) == 1 else 'are'} protected. If it "
            "has to be: DELETION_PROTECTION=false in the parameter file, infra/deploy.sh, then again"
        )
    print(f"{name} in {session.region_name}, account {account}: {', '.join(going) or 'no stack'} will be removed.")
    if options.data:
        print(f"ALL DATA GOES WITH IT, for good: table {table}, bucket {bucket}, queues, images.")
    else:
        print(f"Table {table}, the queues, bucket {bucket} and the images stay;")
        print(f"infra/deploy.sh {options.env} takes them up again.")
    # Not a yes, which is typed too easily.
    print(f"Type {name} to go on: ", end="", flush=True)
    if sys.stdin.readline().strip() != name:
        raise Failure("nothing was removed")
    for part in going:
        print(f"removing {environment.stack(part)}")
        stacks.delete(environment.stack(part))
    if options.data:
        # Retained by their stacks, so that no stack's deletion loses them by accident.
        if described:
            dynamodb.delete_table(TableName=table)
            dynamodb.get_waiter("table_not_exists").wait(TableName=table, WaiterConfig={"Delay": 2, "MaxAttempts": 150})
            print(f"  table {table} is gone")
        for one in (bucket, f"{name}-code-{account}"):
            empty(session, one)
        for program in ("api", "worker"):
            drop_images(session, f"{name}-{program}")
    print(f"{name} is removed." + ("" if options.data else " Its data stays."))
    return 0


if __name__ == "__main__":
    run(main)
