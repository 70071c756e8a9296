"""Removes an environment's stacks, the last first. The data stays, unless told otherwise."""

from __future__ import annotations

import argparse
import sys

from botocore.exceptions import ClientError

import environment as environments
from deploy import say, session_for
from stacks import Failure, Stacks, run


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="infra/destroy.sh",
        description="Removes what infra/deploy.sh made. Table, queues, bucket and images stay, unless --data is given.",
    )
    parser.add_argument("env", metavar="ENV", help="the environment: infra/env/ENV.env")
    parser.add_argument("--data", action="store_true", help="the data too: jobs, transcripts, audio, images. For good")
    parser.add_argument("--emulator", action="store_true", help="AWS_ENDPOINT_URL is a local emulator")
    return parser.parse_args()


def confirm(question: str, name: str) -> None:
    """Not a yes, which is typed too easily."""
    say(question)
    print(f"Type {name} to go on: ", end="", flush=True)
    if sys.stdin.readline().strip() != name:
        raise Failure("nothing was removed")


def empty(session, bucket: str) -> None:
    """Every version too: a bucket that holds one is not deleted."""
    s3 = session.client("s3")
    try:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            keys = [
                {"Key": one["Key"], "VersionId": one["VersionId"]}
                for one in page.get("Versions", []) + page.get("DeleteMarkers", [])
            ]
            if keys:
                answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
                if answer.get("Errors"):
                    raise Failure(f"{bucket}: {answer['Errors'][0]}")
        s3.delete_bucket(Bucket=bucket)
        say(f"  bucket {bucket} is gone")
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchBucket", "404"):
            raise


def refuse_protected(session, table: str) -> None:
    dynamodb = session.client("dynamodb")
    try:
        if dynamodb.describe_table(TableName=table)["Table"].get("DeletionProtectionEnabled"):
            raise Failure(
                f"nothing was removed: table {table} is protected (DELETION_PROTECTION=true). Whoever means it: "
                f"aws dynamodb update-table --table-name {table} --no-deletion-protection-enabled, then again"
            )
    except dynamodb.exceptions.ResourceNotFoundException:
        pass


def drop_table(session, table: str) -> None:
    dynamodb = session.client("dynamodb")
    try:
        dynamodb.delete_table(TableName=table)
        dynamodb.get_waiter("table_not_exists").wait(TableName=table, WaiterConfig={"Delay": 2, "MaxAttempts": 150})
        say(f"  table {table} is gone")
    except dynamodb.exceptions.ResourceNotFoundException:
        pass


def drop_images(session, name: str) -> None:
    ecr = session.client("ecr")
    for program in ("api", "worker"):
        try:
            ecr.delete_repository(repositoryName=f"{name}-{program}", force=True)
            say(f"  images {name}-{program} are gone")
        except ecr.exceptions.RepositoryNotFoundException:
            pass


def main() -> int:
    options = arguments()
    environment, faults = environments.load(options.env)
    if environment is None:
        raise Failure("\n".join(faults))
    session, identity, faults = session_for(environment.values.get("AWS_REGION"), options.emulator)
    if not environment.values.get("AWS_REGION"):
        faults.append("AWS_REGION is missing")
    faults += environment.strangers(identity)
    if faults:
        raise Failure("nothing was removed:\n" + "\n".join(f"  - {fault}" for fault in faults))
    stacks = Stacks(session, pause=0.2 if options.emulator else 5)

    # What was deployed under another setting of the file, too.
    kept = () if options.data else ("data", "images", "code")
    there = [part for part in reversed(environments.ORDER) if stacks.describe(environment.stack(part))]
    going = [part for part in there if part not in kept]
    table, bucket = f"{environment.name}-jobs", f"{environment.name}-audio-{identity['Account']}"
    question = f"{environment.name} in {environment.region}, account {identity['Account']}: "
    question += f"{', '.join(going) or 'no stack'} will be removed.\n"
    if options.data:
        question += f"ALL DATA GOES WITH IT, for good: table {table}, bucket {bucket}, queues, images."
    else:
        question += f"Table {table}, the queues, bucket {bucket} and the images stay;\n"
        question += f"infra/deploy.sh {options.env} takes them up again."
    if not going and not options.data:
        say(f"{environment.name}: nothing to remove")
        return 0
    if options.data:
        # Before the first stack goes: the queues and all that runs would be gone, and the table would still be there.
        refuse_protected(session, table)
    confirm(question, environment.name)
    for part in going:
        say(f"removing {environment.stack(part)}")
        stacks.delete(environment.stack(part))
    if options.data:
        # Retained by their stacks, so that no stack's deletion loses them by accident.
        drop_table(session, table)
        empty(session, bucket)
        empty(session, f"{environment.name}-code-{identity['Account']}")
        drop_images(session, environment.name)
    say(f"{environment.name} is removed." + ("" if options.data else " Its data stays."))
    return 0


if __name__ == "__main__":
    run("destroy", main)
