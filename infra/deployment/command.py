"""What the commands of this folder share: their arguments, the environment, credentials, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from environment import Environment, load
from stacks import Failure


def parser(name: str, description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"infra/{name}.sh", description=description)
    made.add_argument("env", metavar="ENV", help="the environment: infra/env/ENV.env")
    emulator = "AWS_ENDPOINT_URL is a local emulator: leave out what it cannot do, and say what that is"
    made.add_argument("--emulator", action="store_true", help=emulator)
    return made


def connect(
    options: argparse.Namespace, more: Callable[[Environment, object, dict], list[str]] | None = None
) -> tuple[Environment, boto3.Session, dict]:
    """The environment, a session, and its identity; a Failure with every fault, those that `more` finds too. Without
    `more` the file's own faults do not matter but for the region."""
    environment, faults = load(options.env)
    region = environment.values.get("AWS_REGION") if environment else None
    if environment and more is None:
        faults = [] if region else ["AWS_REGION is missing"]
    session, identity, endpoint = None, {}, os.environ.get("AWS_ENDPOINT_URL")
    if options.emulator and not endpoint:
        faults.append("--emulator is for the endpoint that AWS_ENDPOINT_URL names, and that is not set")
    elif endpoint and not options.emulator:
        faults.append(f"AWS_ENDPOINT_URL is {endpoint}: unset it for AWS itself; for an emulator say --emulator")
    elif region:
        try:
            session = boto3.Session(region_name=region)
            identity = session.client("sts").get_caller_identity()
        except (BotoCoreError, ClientError) as error:
            faults.append(f"the AWS credentials do not work: {error}")
    if environment:
        faults += environment.about_account(identity) + (more(environment, session, identity) if more else [])
    if faults:
        raise Failure("nothing was done:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return environment, session, identity


def run(main: Callable[[], int]) -> NoReturn:
    """Expected failures end with a one-line message, not with a traceback."""
    sys.stdout.reconfigure(line_buffering=True)
    try:
        sys.exit(main())
    except (Failure, BotoCoreError, ClientError) as failure:
        sys.exit(f"{os.path.basename(sys.argv[0]).removesuffix('.py')}: {failure}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. What CloudFormation had begun goes on by itself; run this again.")
