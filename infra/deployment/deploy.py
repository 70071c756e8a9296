"""Deploys an environment: a change set for each stack, the images between them, and a test with real speech."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from botocore.exceptions import ClientError

import build
from command import connect, parser, run
from environment import ALSO_CALLED, EXAMPLE, INFRA, Environment
from stacks import Failure, Stacks, line, loses, task_failures

SKIPPED = "  SKIPPED (--emulator):"


class Deployment:
    def __init__(self) -> None:
        made = parser("deploy", "Deploys Longhand to an AWS account with infra/env/ENV.env. Safe to repeat.")
        made.add_argument("--plan", action="store_true", help="show what would change, and change nothing")
        made.add_argument("--tag", help="deploy existing images with this tag and build nothing: a rollback")
        made.add_argument("--no-smoke", action="store_true", help="skip the test with real speech at the end")
        made.add_argument("--user", help="the user of this test; by default the user of the token or key")
        replace = "allow the loss of this resource (the logical id that --plan shows) and its data; may be repeated"
        made.add_argument("--replace", action="append", default=[], metavar="RESOURCE", help=replace)
        self.options = options = made.parse_args()
        # The emulator does not run Fargate's tasks, so there is nothing to test.
        self.smokes = not (options.plan or options.no_smoke or options.emulator)
        self.outputs: dict[str, str] = {}
        # Only in a plan: the outputs of stacks that do not exist yet.
        self.awaited: set[str] = set()
        self.changed: list[str] = []
        self.environment, self.session, self.identity = connect(options, self.faults)
        role = self.environment.values.get("CLOUDFORMATION_ROLE_ARN")
        self.stacks = Stacks(self.session, 0.2 if options.emulator else 5, role)
        self.images = build.Images(self.session, self.environment.get("CPU_ARCHITECTURE"))
        # --tag takes a commit, or the whole tag as ECR shows it.
        self.commit = options.tag.removesuffix(self.images.suffix) if options.tag else build.commit()
        self.tag = self.commit + self.images.suffix

    def faults(self, environment: Environment, session, identity: dict) -> list[str]:
        """The faults of the machine and the account."""
        options, auth = self.options, environment.get("AUTH")
        found = [] if options.emulator else environment.placeholders()
        if not (options.plan or options.tag or options.emulator):
            found += build.faults()
        if self.smokes and auth != "none" and not os.environ.get("LONGHAND_TOKEN"):
            found.append(f"AUTH is {auth}, so the test at the end needs LONGHAND_TOKEN; or pass --no-smoke")
        if self.smokes and not (os.environ.get("LONGHAND_BIN_DIR") or shutil.which("cargo")):
            found.append("the test at the end needs cargo (https://rustup.rs); or pass --no-smoke")
        if not identity:
            return found
        arn = environment.values.get("SECRET_ARN", "")
        # An emulator needs no secret, so the example's ARN will do there.
        if arn.startswith("arn:") and not (options.emulator and re.search(EXAMPLE, arn)):
            # The current version is a parameter, so that a new version is a change.
            try:
                versions = session.client("secretsmanager").describe_secret(SecretId=arn)["VersionIdsToStages"]
                current = [version for version, stages in versions.items() if "AWSCURRENT" in stages]
                found += [] if current else ["the secret of SECRET_ARN has no value"]
                self.outputs["SecretVersion"] = "".join(current)
            except ClientError as error:
                found.append(f"the secret of SECRET_ARN cannot be read: {error}")
        if environment.gateway == "lambda":
            limits = session.client("lambda").get_account_settings()["AccountLimit"]
            found += environment.too_few_environments(limits["ConcurrentExecutions"])
        stacks = Stacks(session)
        return found + [fault for part in environment.parts if (fault := stacks.fault(environment.stack(part)))]

    def run(self) -> None:
        plan, function = self.options.plan, self.environment.gateway == "lambda"
        if not plan:
            self.create_ecs_role()
        target = self.stacks.parameters(self.environment.stack("gateway")).get("Target", "")
        for part in self.environment.order(target):
            if part == "gateway" and function and self.options.emulator and not plan:
                print(f"{SKIPPED} gateway: it needs the function; `make up GATEWAY=1` runs both")
                continue
            self.deploy(part)
            # In a plan the repositories and the bucket may not exist yet.
            if part == "images":
                for program in ["worker"] if function else ["api", "worker"]:
                    if repository := self.outputs.get(f"{program.capitalize()}RepositoryUri"):
                        exists = partial(self.images.digest, repository, self.tag)
                        push = partial(self.images.push, program, repository, self.tag)
                        self.build(f"image {program}:{self.tag}", exists, push)
                        self.outputs[f"{program.capitalize()}Image"] = self.images.pinned(repository, self.tag)
            if part == "code" and "CodeBucket" in self.outputs:
                self.outputs["CodeKey"] = f"api-{self.tag}.zip"
                place = self.outputs["CodeBucket"], self.outputs["CodeKey"]
                exists = partial(self.images.function_exists, *place)
                self.build(f"function {place[1]}", exists, partial(self.images.upload_function, *place))

    def build(self, name: str, exists: Callable[[], object], make: Callable[[], None]) -> None:
        if self.options.plan:
            return
        if self.options.emulator:
            print(f"{SKIPPED} {name}: it needs Docker")
        elif not exists():
            if self.options.tag:
                raise Failure(
                    f"{name} does not exist: use a --tag that exists (the last fifty images are kept), or omit --tag"
                )
            make()

    def create_ecs_role(self) -> None:
        """ECS creates this role with the first cluster of an account, and rejects that cluster without it."""
        try:
            self.session.client("iam").create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
            print("  created the role AWSServiceRoleForECS, which an account needs for its first cluster")
        except ClientError as error:
            # It exists, or the caller may not create roles and somebody else has created it.
            if error.response["Error"]["Code"] not in ("InvalidInput", "EntityAlreadyExists", "AccessDenied"):
                raise

    def deploy(self, part: str) -> None:
        environment, plan, name = self.environment, self.options.plan, self.environment.stack(part)
        template, parameters = environment.templates[part], environment.parameters(part, self.outputs)
        status = self.stacks.status(name)
        new = not status or status == "ROLLBACK_COMPLETE"
        if plan and (self.missing(part, parameters) or status == "ROLLBACK_COMPLETE"):
            text = f"new, up to {len(template.resources)} resources" if new else "its changes"
            if missing := self.missing(part, parameters):
                text += f" (depends on {', '.join(sorted(missing))}, which do not exist yet)"
            text += f"; the failed creation of {name} is deleted first" * bool(status and new)
            print(f"{part}: {text}")
            self.changed.append(part)
            self.awaited |= template.outputs if new else set()
            return
        body = template.body
        if self.options.emulator:
            sys.path.append(str(INFRA / "tests"))
            from unsupported import reduced  # needs packages of the tests

            body, skipped = reduced(body, parameters)
            for one in skipped:
                print(f"{SKIPPED} {part}: {one}")
        tags = {"Application": "longhand", "Environment": environment.env}
        if change_set := self.stacks.change_set(name, body, parameters, tags):
            self.changed.append(part)
            self.show(part, change_set)
            if plan:
                self.stacks.discard(change_set)
                self.awaited |= template.outputs if new else set()
            else:
                on_rollback = partial(task_failures, self.session, environment.name) if part == "service" else list
                self.stacks.execute(change_set, self.options.replace, on_rollback)
                print(f"  {name} is deployed")
        else:
            print(f"{part}: no change")
        protected = environment.values.get("DELETION_PROTECTION")
        if part == "data" and protected and not plan:
            enabled = {"EnableTerminationProtection": protected == "true"}
            self.stacks.client.update_termination_protection(StackName=name, **enabled)
        outputs = self.stacks.outputs(name)
        for key in environment.overridden(outputs):
            print(f"  {key}={environment.values[key]} from the parameter file replaces the output of {name}")
        self.outputs |= outputs

    def missing(self, part: str, parameters: dict[str, str]) -> set[str]:
        """Required parameters, and parameters from outputs that do not exist yet."""
        awaited = {name for name in self.environment.asked(part) if {name, ALSO_CALLED.get(name)} & self.awaited}
        return (self.environment.templates[part].required() | awaited) - parameters.keys()

    def show(self, part: str, change_set: dict) -> None:
        changes = change_set["Changes"]
        print(f"{part}: {'new, ' if change_set['New'] else ''}{len(changes)} resources")
        for change in sorted(changes, key=lambda one: (not loses(one), one["Action"], one["ResourceType"])):
            print(line(change))
        if lost := sum(map(loses, changes)):
            print(f"  !!! {lost} of them would be lost with their data: removed, or replaced by empty ones.")

    def url(self) -> str | None:
        # The certificate is for this name, not for AWS's name of the load balancer.
        name = self.environment.values.get("LISTENER_SERVER_NAME")
        return self.outputs.get("ApiUrl") or (f"https://{name}" if name else self.outputs.get("LoadBalancerUrl"))


def main() -> int:
    deployment = Deployment()
    environment, options, identity = deployment.environment, deployment.options, deployment.identity
    region = environment.values["AWS_REGION"]
    print(f"{environment.name} in {region}, account {identity['Account']}, as {identity['Arn']}")
    for warning in environment.warnings():
        print(f"  warning: {warning}")
    deployment.run()
    if options.plan:
        print("\nA plan: nothing was changed." if deployment.changed else "\nNothing would change.")
        return 0
    print(f"\nChanged: {', '.join(deployment.changed)}." if deployment.changed else "\nNothing changed.")
    print(f"  API        {deployment.url()}")
    console = f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
    print(f"  Dashboard  {console}#dashboards:name={environment.name}")
    print(f"  Programs   of commit {deployment.commit}")
    if not deployment.smokes:
        print(f"{SKIPPED if options.emulator else '  SKIPPED (--no-smoke):'} the test with real speech")
        return 0
    test = [str(INFRA / "smoke.py"), str(deployment.url()), *(["--user", options.user] if options.user else [])]
    if subprocess.run([sys.executable, *test, "--within", "180"]).returncode != 0:
        raise Failure(f"the deployment succeeded, but its test failed. To repeat the test: {' '.join(test)}")
    return 0


if __name__ == "__main__":
    run(main)
