"""Deploys an environment: stacks in order, images between them, real speech at the end. Safe to repeat."""

from __future__ import annotations

import argparse
import os
import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import build
import environment as environments
from environment import Environment
from stacks import NO_POLICY, STACK_POLICY, ChangeSet, Failure, Stacks, run
from tasks import last_words

sys.path += [str(environments.INFRA), str(environments.INFRA.parent / "localstack")]
from provision import Binaries  # noqa: E402 - found by the path above
from services import Failure as LocalFailure  # noqa: E402
from smoke import smoke  # noqa: E402


def say(text: str = "") -> None:
    print(text, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="infra/deploy.sh",
        description="Deploys Longhand into an AWS account, as infra/env/ENV.env says. Safe to repeat.",
    )
    parser.add_argument("env", metavar="ENV", help="the environment: infra/env/ENV.env")
    parser.add_argument("--plan", action="store_true", help="show what would change, and change nothing")
    parser.add_argument("--tag", help="deploy what was pushed before under this tag, and build nothing: a rollback")
    parser.add_argument("--no-smoke", action="store_true", help="leave out the test with real speech at the end")
    parser.add_argument(
        "--user", help="whose job that test is; by default the token's subject. With an API key, its user"
    )
    parser.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="RESOURCE",
        help="let this table, queue or bucket be replaced or removed, and what it holds be lost; once for each",
    )
    parser.add_argument(
        "--emulator",
        action="store_true",
        help="AWS_ENDPOINT_URL is a local emulator: leave out what it cannot do, and say what that is",
    )
    return parser.parse_args()


def session_for(region: str | None, emulator: bool) -> tuple[boto3.Session | None, dict, list[str]]:
    """A session, who we are in it, and what is wrong with it."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if emulator and not endpoint:
        return None, {}, ["--emulator is for the endpoint that AWS_ENDPOINT_URL names, and that is not set"]
    if endpoint and not emulator:
        return None, {}, [f"AWS_ENDPOINT_URL is {endpoint}: unset it for AWS itself; for an emulator say --emulator"]
    if not region:
        return None, {}, []
    try:
        session = boto3.Session(region_name=region)
        return session, session.client("sts").get_caller_identity(), []
    except (BotoCoreError, ClientError) as error:
        return None, {}, [f"the AWS credentials do not work: {error}"]


class Deployment:
    def __init__(self, options: argparse.Namespace, environment: Environment, session: boto3.Session):
        self.options = options
        self.environment = environment
        self.stacks = Stacks(session, pause=0.2 if options.emulator else 5)
        self.session = session
        self.outputs: dict[str, str] = {}
        # Only in a plan: the outputs of stacks that are not there yet.
        self.awaited: set[str] = set()
        self.changed: list[str] = []
        self.images = build.Images(session, environment.architecture)
        # The commit, or what ECR lists.
        self.tag = options.tag.removesuffix(self.images.tag("")) if options.tag else build.tag()

    def run(self) -> None:
        if not self.options.plan:
            self.role_of_ecs()
        for part in self.environment.parts:
            if part == "service":
                self.prepare_images()
            if part == "gateway" and self.environment.gateway == "lambda" and not self.prepare_function():
                continue
            self.deploy(part)

    def role_of_ecs(self) -> None:
        """An account's first cluster makes this role, and is refused because the role is not there yet."""
        iam = self.session.client("iam")
        try:
            iam.create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
            say("  made the role AWSServiceRoleForECS, this account's first use of ECS")
        except ClientError as error:
            # It is there; or others make roles here, and have made this one.
            if error.response["Error"]["Code"] not in ("InvalidInput", "EntityAlreadyExists", "AccessDenied"):
                raise

    def prepare_images(self) -> None:
        for program, output, parameter in (
            ("api", "ApiRepositoryUri", "ApiImage"),
            ("worker", "WorkerRepositoryUri", "WorkerImage"),
        ):
            repository = self.outputs.get(output)
            if repository is None:
                continue  # only in a plan: there is no repository yet
            tag = self.images.tag(self.tag)
            self.outputs[parameter] = f"{repository}:{tag}"
            if self.options.plan:
                continue
            if self.options.emulator:
                say(f"  LEFT OUT, by --emulator: building and pushing image {program}:{tag} (no Docker engine)")
            elif self.options.tag:
                if not self.images.there(repository, tag):
                    raise Failure(f"there is no image {repository}:{tag}")
            else:
                self.images.push(program, repository, tag)

    def prepare_function(self) -> bool:
        """Whether the gateway can be made."""
        bucket = self.outputs.get("CodeBucket")
        if bucket is None:
            return True  # only in a plan: there is no bucket yet
        self.outputs["CodeKey"] = key = self.images.key(self.tag)
        if self.options.plan:
            return True
        if self.options.emulator:
            say(f"  LEFT OUT, by --emulator: function {key} (no Docker engine), and with it the gateway.")
            say("      `make up GATEWAY=1` has both")
            return False
        if self.options.tag:
            if not self.images.function_there(bucket, self.tag):
                raise Failure(f"there is no function s3://{bucket}/{key}")
        else:
            self.images.upload_function(bucket, self.tag)
        return True

    def deploy(self, part: str) -> None:
        name = self.environment.stack(part)
        template = self.environment.templates[part]
        parameters = self.environment.parameters(part, self.outputs)
        missing = template.required() - parameters.keys() | self.environment.filled(part, self.awaited)
        if missing and self.options.plan:
            new = not self.stacks.exists(name)
            size = f"new, up to {len(template.resources)} resources. Which, " if new else "there. What changes in it, "
            say(f"{part}: {size}can be told when there is")
            say(f"    {', '.join(sorted(missing))}")
            self.awaited |= template.outputs if new else set()
            self.changed.append(part)
            return
        if self.options.plan and self.stacks.left_over(name):
            say(f"{part}: new; what its failed creation left of {name} is removed first")
            self.changed.append(part)
            return
        body = template.body
        if self.options.emulator:
            from unsupported import reduced  # needs what only the local stack's Python has

            body, gone = reduced(body, parameters)
            for one in gone:
                say(f"  LEFT OUT, by --emulator: {part}: {one}")
        tags = {"Application": "longhand", "Environment": self.environment.env}
        change_set = self.stacks.change_set(name, body, parameters, tags)
        if change_set is None:
            say(f"{part}: no change")
        else:
            self.changed.append(part)
            self.show(part, change_set)
            if self.options.plan:
                self.stacks.discard(change_set)
                self.awaited |= template.outputs if change_set.new else set()
            else:
                self.execute(part, change_set)
        outputs = self.stacks.outputs(name)
        for key in self.environment.overridden(outputs):
            say(f"  {key} is {self.environment.values[key]}, by the parameter file, in place of what {name} made")
        self.outputs |= outputs

    def show(self, part: str, change_set: ChangeSet) -> None:
        say(f"{part}: {'new, ' if change_set.new else ''}{len(change_set.changes)} resources")
        for change in sorted(change_set.changes, key=lambda change: (not change.loses, change.action, change.kind)):
            say(change.line())
        lost = [change for change in change_set.changes if change.loses]
        if lost:
            say(f"  !!! {len(lost)} of them would be LOST to the service: an empty one, or none, would take its place.")

    def execute(self, part: str, change_set: ChangeSet) -> None:
        lost = [change.resource for change in change_set.changes if change.loses]
        unsaid = [resource for resource in lost if resource not in self.options.replace]
        if unsaid:
            self.stacks.discard(change_set)
            flags = " ".join(f"--replace {resource}" for resource in unsaid)
            raise Failure(
                f"{part} was not touched: {', '.join(unsaid)} would be replaced or removed. If that is what you want, "
                f"and the data is safe elsewhere: {flags}"
            )
        try:
            if not change_set.new:
                self.stacks.protect(change_set.stack, NO_POLICY if lost else STACK_POLICY)
            self.stacks.execute(change_set, self.last_words if part == "service" else list)
        finally:
            # What failed to be created takes no policy, and an error here would hide why it failed.
            if self.stacks.exists(change_set.stack):
                self.stacks.protect(change_set.stack, STACK_POLICY)
        say(f"  {change_set.stack} is done")

    def last_words(self) -> list[str]:
        return last_words(self.session, self.environment.name)

    def url(self) -> str | None:
        # By the name in its certificate, where it has one: AWS's own name for the load balancer is not in it.
        name = self.environment.values.get("LISTENER_SERVER_NAME")
        return self.outputs.get("ApiUrl") or (f"https://{name}" if name else self.outputs.get("LoadBalancerUrl"))


def main() -> int:
    options = arguments()
    environment, faults = environments.load(options.env)
    region = environment.values.get("AWS_REGION") if environment else None
    session, identity, more = session_for(region, options.emulator)
    faults += more
    if environment:
        faults += environment.strangers(identity)
        faults += [] if options.emulator else environment.placeholders()
        if not (options.plan or options.tag or options.emulator):
            faults += build.faults()
        smokes = not (options.plan or options.no_smoke or options.emulator)
        auth = environment.values.get("AUTH", "jwt")
        if smokes and auth != "none" and not os.environ.get("LONGHAND_TOKEN"):
            faults.append(f"AUTH is {auth}: the test at the end needs LONGHAND_TOKEN, as any client; or --no-smoke")
        if smokes:
            try:
                Binaries().check(["longhand"])
            except LocalFailure as failure:
                faults.append(f"the test at the end: {failure} Or --no-smoke")
        if smokes and auth == "apikey" and not options.user:
            faults.append(
                "AUTH is apikey: the test at the end needs --user, whose key LONGHAND_TOKEN is; or --no-smoke"
            )
        if identity:
            stacks = Stacks(session)
            faults += filter(None, (stacks.fault(environment.stack(part)) for part in environment.parts))
    if faults:
        raise Failure("nothing was done:\n" + "\n".join(f"  - {fault}" for fault in faults))

    say(f"{environment.name} in {region}, account {identity['Account']}, as {identity['Arn']}")
    for warning in environment.warnings():
        say(f"  warning: {warning}")
    deployment = Deployment(options, environment, session)
    deployment.run()
    if options.plan:
        say("\nA plan: nothing was changed." if deployment.changed else "\nNothing would change.")
        return 0
    say("\nNothing changed." if not deployment.changed else f"\nChanged: {', '.join(deployment.changed)}.")
    say(f"  API        {deployment.url()}")
    console = f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
    say(f"  Dashboard  {console}#dashboards:name={environment.name}")
    say(f"  Programs   of commit {deployment.tag}")
    if options.emulator:
        say("  LEFT OUT, by --emulator: the test with real speech, since nothing here runs Fargate's tasks")
    elif options.no_smoke:
        say("  LEFT OUT, by --no-smoke: the test with real speech")
    else:
        say("Real speech")
        try:
            smoke(deployment.url(), options.user)
        except LocalFailure as failure:
            again = f"infra/smoke.py {deployment.url()}" + (f" --user {options.user}" if options.user else "")
            raise Failure(f"all is deployed, but its test failed: {failure}\nThe test by itself: {again}") from None
    return 0


if __name__ == "__main__":
    run("deploy", main)
