"""Arguments, credentials and errors of the commands in this folder."""

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
    emulator = "AWS_ENDPOINT_URL is a local emulator: skip and list what it does not support"
    made.add_argument("--emulator", action="store_true", help=emulator)
    return made


def connect(
    options: argparse.Namespace, more: Callable[[Environment, object, dict], list[str]] | None = None
) -> tuple[Environment, boto3.Session, dict]:
    """The environment, a session and the caller's identity, or a Failure with all faults.

    `more` finds further faults. Without it, of the file's own faults only a missing region counts.
    """
    environment, faults = load(options.env)
    region = environment.values.get("AWS_REGION") if environment else None
    if environment and more is None:
        faults = [] if region else ["AWS_REGION is missing"]
    session, identity, endpoint = None, {}, os.environ.get("AWS_ENDPOINT_URL")
    if options.emulator and not endpoint:
        faults.append("--emulator needs AWS_ENDPOINT_URL, which is not set")
    elif endpoint and not options.emulator:
        faults.append(f"AWS_ENDPOINT_URL is {endpoint}: unset it to use AWS, or pass --emulator")
    elif region:
        try:
            session = boto3.Session(region_name=region)
            identity = session.client("sts").get_caller_identity()
        except (BotoCoreError, ClientError) as error:
            faults.append(f"the AWS credentials do not work: {error}")
    if environment:
        account, found = environment.values.get("AWS_ACCOUNT"), identity.get("Account")
        if account and found and account != found:
            faults.append(f"AWS_ACCOUNT is {account}, and the credentials are for {found}")
        faults += more(environment, session, identity) if more else []
    if faults:
        keys = "\ninfra/env/example.env describes the keys of the parameter file."
        raise Failure("Nothing was changed. Problems:\n" + "\n".join(f"  - {fault}" for fault in faults) + keys)
    return environment, session, identity


def run(main: Callable[[], int]) -> NoReturn:
    """Expected failures end with a message and without a traceback."""
    sys.stdout.reconfigure(line_buffering=True)
    try:
        sys.exit(main())
    except (Failure, BotoCoreError, ClientError) as failure:
        sys.exit(f"{os.path.basename(sys.argv[0]).removesuffix('.py')}: {failure}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. AWS completes what it has started. Wait for that before you run this command again.")
