"""CloudFormation stacks, deployed by change sets that are shown first and must not replace data."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from botocore.exceptions import BotoCoreError, ClientError, WaiterError

# These hold data, or clients know their names. A replacement would be new and empty.
GUARDED = ("AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::S3::Bucket")
ALLOW = {"Effect": "Allow", "Principal": "*", "Action": "Update:*", "Resource": "*"}
REFUSE = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": ["Update:Replace", "Update:Delete"],
    "Resource": "*",
    "Condition": {"StringEquals": {"ResourceType": list(GUARDED)}},
}
NO_CHANGE = ("didn't contain changes", "No updates are to be performed")
# The command that an operator has to run first, by the status of the stack.
REPAIR = {
    "UPDATE_ROLLBACK_FAILED": "continue-update-rollback",
    **dict.fromkeys(("ROLLBACK_FAILED", "DELETE_FAILED", "CREATE_FAILED"), "delete-stack"),
}


class Failure(Exception):
    """Ends the command. The user sees only its text."""


def loses(change: dict) -> bool:
    """Whether the change removes or replaces a resource that holds data."""
    removed = change["Action"] == "Remove" or change.get("Replacement") == "True"
    return change["ResourceType"] in GUARDED and removed


def line(change: dict) -> str:
    action, replacement = change["Action"].lower(), change.get("Replacement")
    why = ""
    if action == "modify":
        action = {"True": "REPLACE", "Conditional": "may replace"}.get(replacement, action)
        targets = [detail["Target"] for detail in change.get("Details", [])]
        names = sorted({target.get("Name") or target.get("Attribute") or "?" for target in targets})
        why = f"  ({', '.join(names)})" * bool(names)
    if change["ResourceType"] in GUARDED and replacement == "Conditional":
        why += "   <== the stack policy refuses a replacement"
    text = f"    {action:<12}{change['ResourceType']:<44}{change['LogicalResourceId']}{why}"
    return text + "   <== DATA LOSS" * loses(change)


class Stacks:
    def __init__(self, session, pause: float = 5, role: str | None = None):
        self.client = session.client("cloudformation")
        self.pause = pause
        # CloudFormation assumes this role. Without one it has the caller's permissions.
        self.role = {"RoleARN": role} if role else {}

    def describe(self, name: str) -> dict:
        try:
            return self.client.describe_stacks(StackName=name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in str(error):
                return {}
            raise

    def status(self, name: str) -> str:
        """Empty without a stack, or with only a change set."""
        return self.describe(name).get("StackStatus", "").replace("REVIEW_IN_PROGRESS", "")

    def outputs(self, name: str) -> dict[str, str]:
        return {one["OutputKey"]: one["OutputValue"] for one in self.describe(name).get("Outputs", [])}

    def parameters(self, name: str) -> dict[str, str]:
        return {one["ParameterKey"]: one["ParameterValue"] for one in self.describe(name).get("Parameters", [])}

    def fault(self, name: str) -> str | None:
        """Why the stack cannot be updated in its present state."""
        status = self.status(name)
        if status.endswith("_IN_PROGRESS"):
            return f"stack {name} is {status}: wait until this change has ended, then try again"
        if status in REPAIR:
            repair = f"aws cloudformation {REPAIR[status]} --stack-name {name}"
            return f"stack {name} is {status}: correct the cause that its events name, then run: {repair}"
        return None

    def change_set(self, name: str, body: str, parameters: dict[str, str], tags: dict[str, str]) -> dict | None:
        """A new change set with its changes, or None if nothing would change."""
        if self.status(name) == "ROLLBACK_COMPLETE":
            self.delete(name)
        new = not self.status(name)
        key = {"ChangeSetName": f"deploy-{time.time_ns() // 1_000_000}", "StackName": name}
        self.client.create_change_set(
            **key,
            **self.role,
            ChangeSetType="CREATE" if new else "UPDATE",
            TemplateBody=body,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
        try:
            delay = {"Delay": min(self.pause, 2), "MaxAttempts": 900}
            self.client.get_waiter("change_set_create_complete").wait(**key, WaiterConfig=delay)
        except WaiterError as error:
            reason = str(error.last_response.get("StatusReason", error))
            self.discard(key)
            if any(words in reason for words in NO_CHANGE):
                return None
            raise Failure(f"stack {name}: the change set could not be created: {reason}") from None
        pages = self.client.get_paginator("describe_change_set").paginate(**key)
        changes = [change["ResourceChange"] for page in pages for change in page["Changes"]]
        return {**key, "New": new, "Changes": changes}

    def discard(self, change_set: dict) -> None:
        """Deletes a change set, and its stack if that has no resources yet."""
        name = change_set["StackName"]
        self.client.delete_change_set(ChangeSetName=change_set["ChangeSetName"], StackName=name)
        if self.describe(name).get("StackStatus") == "REVIEW_IN_PROGRESS":
            self.delete(name)

    def execute(self, change_set: dict, replace: list[str], on_rollback: Callable[[], list[str]]) -> None:
        """`on_rollback` is called when a rollback starts, since the rollback removes the failed tasks."""
        name, begun = change_set["StackName"], time.time()
        lost = [change["LogicalResourceId"] for change in change_set["Changes"] if loses(change)]
        if refused := [resource for resource in lost if resource not in replace]:
            self.discard(change_set)
            raise Failure(
                f"{name} was not changed: {', '.join(refused)} would be replaced or removed. If you want this and have "
                f"a copy of the data, pass {' '.join(f'--replace {resource}' for resource in refused)}"
            )
        if not change_set["New"]:
            # With this policy CloudFormation refuses a replacement too, also when somebody updates the stack by hand.
            self.protect(name, [ALLOW] if lost else [ALLOW, REFUSE])
        try:
            # RetainExceptOnCreate: a failed creation must not leave its table behind, whose name would then be taken.
            key = {"ChangeSetName": change_set["ChangeSetName"], "StackName": name}
            self.client.execute_change_set(**key, RetainExceptOnCreate=True)
            status, details = self.wait(name, on_rollback)
        finally:
            if self.status(name) not in ("", "ROLLBACK_COMPLETE"):
                self.protect(name, [ALLOW, REFUSE])
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise Failure(
                "\n".join([f"stack {name} was not deployed: {status}", *self.failures(name, begun), *details])
            )

    def wait(self, name: str, on_rollback: Callable[[], list[str]] = list) -> tuple[str, list[str]]:
        """The final status, and what `on_rollback` returned."""
        printed = begun = time.monotonic()
        details = None
        while True:
            status = self.describe(name).get("StackStatus", "DELETE_COMPLETE")
            if details is None and "ROLLBACK" in status:
                details = on_rollback()
            if not status.endswith("_IN_PROGRESS"):
                return status, details or []
            if time.monotonic() - printed > 30:
                printed = time.monotonic()
                print(f"  {name}: {status} ({printed - begun:.0f} s)")
            time.sleep(self.pause)

    def failures(self, name: str, since: float) -> list[str]:
        events = reversed(self.client.describe_stack_events(StackName=name)["StackEvents"])
        return [
            f"  {event['LogicalResourceId']}: {event.get('ResourceStatusReason', '?')}"
            for event in events
            if event["ResourceStatus"].endswith("_FAILED") and event["Timestamp"].timestamp() >= since - 60
        ]

    def protect(self, name: str, statements: list[dict]) -> None:
        self.client.set_stack_policy(StackName=name, StackPolicyBody=json.dumps({"Statement": statements}))

    def delete(self, name: str) -> None:
        # By id: CloudFormation does not find a deleted stack by name.
        if identifier := self.describe(name).get("StackId"):
            begun = time.time()
            self.client.delete_stack(StackName=name, **self.role)
            status, _ = self.wait(identifier)
            if status != "DELETE_COMPLETE":
                raise Failure("\n".join([f"stack {name} was not deleted: {status}", *self.failures(identifier, begun)]))


def task_failures(session, name: str) -> list[str]:
    """Why ECS tasks stopped, and their last log lines. Errors are ignored: the deployment's own failure follows."""
    found = []
    for read in (stopped_tasks, last_log_lines):
        with suppress(BotoCoreError, ClientError):
            found += read(session, name)
    return found


def stopped_tasks(session, name: str) -> list[str]:
    ecs, counted = session.client("ecs"), Counter()
    tasks = ecs.list_tasks(cluster=name, desiredStatus="STOPPED")["taskArns"]
    for task in ecs.describe_tasks(cluster=name, tasks=tasks)["tasks"] if tasks else []:
        why = [task.get("stoppedReason")]
        for container in task.get("containers", []):
            code = container.get("exitCode")
            why += [container.get("reason"), f"exit code {code}" if code else None]
        counted[f"{task.get('group', 'task')}: {', '.join(filter(None, why)) or 'no reason given'}"] += 1
    return [f"  {count} stopped: {text}" for text, count in counted.most_common()]


def last_log_lines(session, name: str) -> list[str]:
    logs, found = session.client("logs"), []
    for program in ("api", "worker"):
        group = f"/longhand/{name}/{program}"
        latest = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=1)
        for stream in latest["logStreams"]:
            events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], limit=5)
            found += [f"  {program}: {event['message'].rstrip()}" for event in events["events"]]
    return found
