"""Deploys an environment: each stack by a change set, images between them, real speech at the end. Safe to repeat."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

from botocore.exceptions import ClientError

import build
from command import connect, parser, run
from environment import ALSO_CALLED, INFRA, Environment
from stacks import Failure, Stacks, last_words, line, loses


def arguments() -> argparse.Namespace:
    made = parser("deploy", "Deploys Longhand into an AWS account, as infra/env/ENV.env says. Safe to repeat.")
    made.add_argument("--plan", action="store_true", help="show what would change, and change nothing")
    made.add_argument("--tag", help="deploy what was pushed before under this tag, and build nothing: a rollback")
    made.add_argument("--no-smoke", action="store_true", help="leave out the test with real speech at the end")
    made.add_argument("--user", help="whose job that test is; by default the token's, or the key's")
    replace = "let this table, queue or bucket be replaced or removed, and what it holds be lost; once for each"
    made.add_argument("--replace", action="append", default=[], metavar="RESOURCE", help=replace)
    return made.parse_args()


def secret_version(session, arn: str) -> str:
    """The secret's current version, so that a new one changes what is deployed."""
    try:
        versions = session.client("secretsmanager").describe_secret(SecretId=arn)["VersionIdsToStages"]
    except ClientError as error:
        raise Failure(f"SECRET_ARN cannot be looked at: {error}") from None
    current = [version for version, stages in versions.items() if "AWSCURRENT" in stages]
    if not current:
        raise Failure("SECRET_ARN names a secret without a value")
    return current[0]


class Deployment:
    def __init__(self, options: argparse.Namespace):
        self.options, self.plan, self.emulator = options, options.plan, options.emulator
        # The test with real speech is not run for nothing, nor where nothing runs Fargate's tasks.
        self.smokes = not (options.plan or options.no_smoke or options.emulator)
        self.outputs: dict[str, str] = {}
        # Only in a plan: the outputs of stacks that do not exist yet.
        self.awaited: set[str] = set()
        self.changed: list[str] = []
        self.environment, self.session, self.identity = connect(options, self.faults)
        role = self.environment.values.get("CLOUDFORMATION_ROLE_ARN")
        self.stacks = Stacks(self.session, 0.2 if self.emulator else 5, role)
        self.images = build.Images(self.session, self.environment.get("CPU_ARCHITECTURE"))
        # The commit, or the whole tag, as ECR lists it.
        self.commit = options.tag.removesuffix(self.images.suffix) if options.tag else build.tag()
        self.tag = self.commit + self.images.suffix

    def faults(self, environment: Environment, session, identity: dict) -> list[str]:
        found = [] if self.emulator else environment.placeholders()
        if not (self.plan or self.options.tag or self.emulator):
            found += build.faults()
        auth, instead = environment.get("AUTH"), "; or --no-smoke"
        if self.smokes and auth != "none" and not os.environ.get("LONGHAND_TOKEN"):
            found.append(f"AUTH is {auth}: the test at the end needs LONGHAND_TOKEN, as any client{instead}")
        if self.smokes and not (os.environ.get("LONGHAND_BIN_DIR") or shutil.which("cargo")):
            found.append(f"the test at the end needs cargo (https://rustup.rs), for the longhand command{instead}")
        if identity:
            arn = environment.values.get("SECRET_ARN", "")
            try:
                self.outputs["SecretVersion"] = secret_version(session, arn) if arn.startswith("arn:") else ""
            except Failure as failure:
                found.append(str(failure))
            if environment.gateway == "lambda":
                limits = session.client("lambda").get_account_settings()["AccountLimit"]
                found += environment.too_few_environments(limits["ConcurrentExecutions"])
            stacks = Stacks(session)
            found += filter(None, (stacks.fault(environment.stack(part)) for part in environment.parts))
        return found

    def run(self) -> None:
        if not self.plan:
            self.role_of_ecs()
        for part in self.environment.parts:
            if part == "gateway" and self.environment.gateway == "lambda" and self.emulator and not self.plan:
                continue  # there is no function
            self.deploy(part)
            # In a plan what they are put into may not exist yet.
            if part == "images":
                for program in ("api", "worker"):
                    needed = program == "worker" or self.environment.gateway != "lambda"
                    repository = self.outputs.get(f"{program.capitalize()}RepositoryUri")
                    if needed and repository:
                        self.image(program, repository)
            if part == "code" and "CodeBucket" in self.outputs:
                self.function(self.outputs["CodeBucket"])

    def role_of_ecs(self) -> None:
        """An account's first cluster makes this role, and is refused because the role does not exist yet."""
        try:
            self.session.client("iam").create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
            print("  made the role AWSServiceRoleForECS, this account's first use of ECS")
        except ClientError as error:
            # It exists; or others make roles here, and have made this one.
            if error.response["Error"]["Code"] not in ("InvalidInput", "EntityAlreadyExists", "AccessDenied"):
                raise

    def image(self, program: str, repository: str) -> None:
        if self.emulator and not self.plan:
            print(f"  LEFT OUT, by --emulator: building and pushing image {program}:{self.tag} (no Docker engine)")
        elif not self.plan and not self.images.digest(repository, self.tag):
            if self.options.tag:
                raise Failure(f"there is no image {repository}:{self.tag}")
            self.images.push(program, repository, self.tag)
        self.outputs[f"{program.capitalize()}Image"] = self.images.pinned(repository, self.tag)

    def function(self, bucket: str) -> None:
        self.outputs["CodeKey"] = key = f"api-{self.tag}.zip"
        if self.emulator and not self.plan:
            print(f"  LEFT OUT, by --emulator: function {key} (no Docker engine), and with it the gateway.")
            print("      `make up GATEWAY=1` has both")
        elif not self.plan and not self.images.function_exists(bucket, key):
            if self.options.tag:
                raise Failure(f"there is no function s3://{bucket}/{key}")
            self.images.upload_function(bucket, key)

    def deploy(self, part: str) -> None:
        name, template = self.environment.stack(part), self.environment.templates[part]
        status, parameters = self.stacks.status(name), self.environment.parameters(part, self.outputs)
        missing = self.missing(part) - parameters.keys()
        failed = status == "ROLLBACK_COMPLETE"
        if self.plan and (missing or failed):
            new = failed or not status
            text = f"new, up to {len(template.resources)} resources" if new else "what changes in it"
            text += f" (depends on {', '.join(sorted(missing))}, which do not exist yet)" if missing else ""
            text += f"; what its failed creation left of {name} is removed first" if failed else ""
            print(f"{part}: {text}")
            self.awaited |= template.outputs if new else set()
            self.changed.append(part)
            return
        body = template.body
        if self.emulator:
            sys.path.append(str(INFRA / "tests"))
            from unsupported import reduced  # needs packages that only rehearsals have

            body, left_out = reduced(body, parameters)
            for one in left_out:
                print(f"  LEFT OUT, by --emulator: {part}: {one}")
        tags = {"Application": "longhand", "Environment": self.environment.env}
        change_set = self.stacks.change_set(name, body, parameters, tags)
        if change_set is None:
            print(f"{part}: no change")
        else:
            self.changed.append(part)
            self.show(part, change_set)
            if self.plan:
                self.stacks.discard(change_set)
                self.awaited |= template.outputs if change_set["New"] else set()
            else:
                undone = (lambda: last_words(self.session, self.environment.name)) if part == "service" else list
                self.stacks.execute(change_set, self.options.replace, undone)
                print(f"  {name} is done")
        protected = self.environment.values.get("DELETION_PROTECTION")
        if part == "data" and protected and not self.plan:
            self.stacks.client.update_termination_protection(
                StackName=name, EnableTerminationProtection=protected == "true"
            )
        outputs = self.stacks.outputs(name)
        for key in self.environment.overridden(outputs):
            print(f"  {key} is {self.environment.values[key]}, by the parameter file, in place of what {name} made")
        self.outputs |= outputs

    def missing(self, part: str) -> set[str]:
        """The parameters that have no default, or that outputs fill that do not exist yet."""
        asked = self.environment.asked(part)
        awaited = {name for name in asked if {name, ALSO_CALLED.get(name)} & self.awaited}
        return self.environment.templates[part].required() | awaited

    def show(self, part: str, change_set: dict) -> None:
        changes = change_set["Changes"]
        print(f"{part}: {'new, ' if change_set['New'] else ''}{len(changes)} resources")
        for change in sorted(changes, key=lambda one: (not loses(one), one["Action"], one["ResourceType"])):
            print(line(change))
        if lost := sum(map(loses, changes)):
            print(f"  !!! {lost} of them would be LOST to the service: an empty one, or none, would take its place.")

    def url(self) -> str | None:
        # By the name in its certificate, where it has one: AWS's own name for the load balancer is not in it.
        name = self.environment.values.get("LISTENER_SERVER_NAME")
        return self.outputs.get("ApiUrl") or (f"https://{name}" if name else self.outputs.get("LoadBalancerUrl"))


def main() -> int:
    options = arguments()
    deployment = Deployment(options)
    environment, identity = deployment.environment, deployment.identity
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
        why = "--emulator: the test with real speech, since nothing here runs Fargate's tasks"
        print(f"  LEFT OUT, by {why if options.emulator else '--no-smoke: the test with real speech'}")
        return 0
    user = ["--user", options.user] if options.user else []
    test = [str(INFRA / "smoke.py"), deployment.url(), *user]
    if subprocess.run([sys.executable, *test, "--within", "180"]).returncode != 0:
        raise Failure(f"all is deployed, but its test failed. The test by itself: {' '.join(test)}")
    return 0


if __name__ == "__main__":
    run(main)
