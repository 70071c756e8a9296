"""CloudFormation stacks by change sets, which are shown before they are executed, and what must not be replaced."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from botocore.exceptions import BotoCoreError, ClientError

# What holds data, or is written down elsewhere under its name. A replacement is a new, empty one.
GUARDED = ("AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::S3::Bucket")
ALLOW = {"Effect": "Allow", "Principal": "*", "Action": "Update:*", "Resource": "*"}
REFUSE = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": ["Update:Replace", "Update:Delete"],
    "Resource": "*",
    "Condition": {"StringEquals": {"ResourceType": list(GUARDED)}},
}
NOTHING_TO_DO = ("didn't contain changes", "No updates are to be performed")
# What an operator has to do first, by the status of the stack.
MEND = {
    "UPDATE_ROLLBACK_FAILED": "continue-update-rollback",
    "ROLLBACK_FAILED": "delete-stack",
    "DELETE_FAILED": "delete-stack",
    "CREATE_FAILED": "delete-stack",
}


class Failure(Exception):
    """Ends the command; its text is all that the user is shown."""


def loses(change: dict) -> bool:
    """Whether the change removes what holds data, or puts an empty one in its place."""
    removed = change["Action"] == "Remove" or change.get("Replacement") == "True"
    return change["ResourceType"] in GUARDED and removed


def line(change: dict) -> str:
    word, replacement = change["Action"].lower(), change.get("Replacement")
    if word == "modify":
        word = {"True": "REPLACE", "Conditional": "may replace"}.get(replacement, word)
    targets = [detail["Target"] for detail in change.get("Details", []) if change["Action"] == "Modify"]
    why = sorted({target.get("Name") or target.get("Attribute") or "?" for target in targets})
    text = f"    {word:<12}{change['ResourceType']:<44}{change['LogicalResourceId']}"
    text += f"  ({', '.join(why)})" if why else ""
    if change["ResourceType"] in GUARDED and replacement == "Conditional":
        text += "   <== refused by the stack's policy, should it come to a replacement"
    return text + "   <== WOULD BE LOST" * loses(change)


class Stacks:
    def __init__(self, session, pause: float = 5, role: str | None = None):
        self.client = session.client("cloudformation")
        self.pause = pause
        # The role that CloudFormation assumes; by default it has the caller's rights.
        self.role = {"RoleARN": role} if role else {}

    def describe(self, name: str) -> dict:
        try:
            return self.client.describe_stacks(StackName=name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in str(error):
                return {}
            raise

    def status(self, name: str) -> str:
        """Empty when there is nothing, or only a change set without a stack."""
        return self.describe(name).get("StackStatus", "").replace("REVIEW_IN_PROGRESS", "")

    def outputs(self, name: str) -> dict[str, str]:
        return {one["OutputKey"]: one["OutputValue"] for one in self.describe(name).get("Outputs", [])}

    def fault(self, name: str) -> str | None:
        """Why the stack cannot be updated as it stands."""
        status = self.status(name)
        if status.endswith("_IN_PROGRESS"):
            return f"stack {name} is {status}: it is being changed. Try again when that has ended."
        if status in MEND:
            mend = f"aws cloudformation {MEND[status]} --stack-name {name}"
            return f"stack {name} is {status}. Mend what its events name, then: {mend}"
        return None

    def change_set(self, name: str, body: str, parameters: dict[str, str], tags: dict[str, str]) -> dict | None:
        """What would be done, as CloudFormation describes it; None when nothing would."""
        if self.status(name) == "ROLLBACK_COMPLETE":
            self.delete(name)
        new = not self.status(name)
        asked = {"ChangeSetName": f"deploy-{time.time_ns() // 1_000_000}", "StackName": name}
        self.client.create_change_set(
            **asked,
            **self.role,
            ChangeSetType="CREATE" if new else "UPDATE",
            TemplateBody=body,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
        found = self.client.describe_change_set(**asked)
        while found["Status"] in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
            time.sleep(min(self.pause, 2))
            found = self.client.describe_change_set(**asked)
        if found["Status"] == "FAILED":
            self.discard(found)
            if any(words in found.get("StatusReason", "") for words in NOTHING_TO_DO):
                return None
            raise Failure(f"stack {name}: the change set could not be made: {found.get('StatusReason', '?')}")
        pages = self.client.get_paginator("describe_change_set").paginate(**asked)
        changes = [change["ResourceChange"] for page in pages for change in page["Changes"]]
        return {**asked, "New": new, "Changes": changes}

    def discard(self, change_set: dict) -> None:
        """Leaves no trace of a change set that is not executed."""
        name = change_set["StackName"]
        self.client.delete_change_set(ChangeSetName=change_set["ChangeSetName"], StackName=name)
        if self.describe(name).get("StackStatus") == "REVIEW_IN_PROGRESS":
            self.delete(name)

    def execute(self, change_set: dict, replace: list[str], undone: Callable[[], list[str]]) -> None:
        """`undone` is called as soon as CloudFormation begins a rollback, for what is then gone with the resources."""
        name, begun = change_set["StackName"], time.time()
        lost = [change["LogicalResourceId"] for change in change_set["Changes"] if loses(change)]
        if refused := [resource for resource in lost if resource not in replace]:
            self.discard(change_set)
            flags = " ".join(f"--replace {resource}" for resource in refused)
            raise Failure(
                f"{name} was not touched: {', '.join(refused)} would be replaced or removed. If that is what you want, "
                f"and the data is safe elsewhere: {flags}"
            )
        if not change_set["New"]:
            # CloudFormation itself refuses too, also when the stack is updated by hand.
            self.protect(name, [ALLOW] if lost else [ALLOW, REFUSE])
        last_words: list[str] = []

        def at(status: str) -> None:
            if not last_words and "ROLLBACK" in status:
                last_words.extend(undone())

        try:
            # What this very change set made goes again when it fails, Retain or not: else a failed creation leaves its
            # table behind, whose name is then taken at the next try.
            self.client.execute_change_set(
                ChangeSetName=change_set["ChangeSetName"], StackName=name, RetainExceptOnCreate=True
            )
            status = self.wait(name, at)
        finally:
            if self.status(name) not in ("", "ROLLBACK_COMPLETE"):
                self.protect(name, [ALLOW, REFUSE])
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            text = "\n".join([self.why(name, begun), *last_words])
            raise Failure(f"stack {name} was not deployed, it is {status}:\n{text}")

    def wait(self, name: str, at: Callable[[str], None] = lambda status: None) -> str:
        last_line = begun = time.monotonic()
        while (status := self.describe(name).get("StackStatus", "DELETE_COMPLETE")).endswith("_IN_PROGRESS"):
            at(status)
            if time.monotonic() - last_line > 30:
                last_line = time.monotonic()
                print(f"  {name}: {status} ({last_line - begun:.0f} s)")
            time.sleep(self.pause)
        at(status)
        return status

    def why(self, name: str, since: float) -> str:
        failed = [
            f"  {event['LogicalResourceId']}: {event.get('ResourceStatusReason', '?')}"
            for event in reversed(self.client.describe_stack_events(StackName=name)["StackEvents"])
            if event["ResourceStatus"].endswith("_FAILED") and event["Timestamp"].timestamp() >= since - 60
        ]
        return "\n".join(failed) or "  its events tell no reason"

    def protect(self, name: str, statements: list[dict]) -> None:
        self.client.set_stack_policy(StackName=name, StackPolicyBody=json.dumps({"Statement": statements}))

    def delete(self, name: str) -> None:
        # By its id: a stack that is gone is not found by its name.
        if identifier := self.describe(name).get("StackId"):
            begun = time.time()
            self.client.delete_stack(StackName=name, **self.role)
            status = self.wait(identifier)
            if status != "DELETE_COMPLETE":
                raise Failure(f"stack {name} was not deleted, it is {status}:\n{self.why(identifier, begun)}")


def last_words(session, name: str) -> list[str]:
    """Why tasks of ECS ended, and the last that they logged. No failure of asking is worth another error."""
    found = []
    for ask in (ended, logged):
        with suppress(BotoCoreError, ClientError):
            found += ask(session, name)
    return found


def ended(session, name: str) -> list[str]:
    ecs, counted = session.client("ecs"), Counter()
    tasks = ecs.list_tasks(cluster=name, desiredStatus="STOPPED")["taskArns"]
    for task in ecs.describe_tasks(cluster=name, tasks=tasks)["tasks"] if tasks else []:
        why = [task.get("stoppedReason")]
        for one in task.get("containers", []):
            why += [one.get("reason"), f"exit code {one['exitCode']}" if one.get("exitCode") else None]
        counted[f"{task.get('group', 'task')}: {', '.join(filter(None, why)) or 'no reason given'}"] += 1
    return [f"  {count} stopped of {text}" for text, count in counted.most_common()]


def logged(session, name: str) -> list[str]:
    logs, found = session.client("logs"), []
    for program in ("api", "worker"):
        group = f"/longhand/{name}/{program}"
        latest = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=1)
        for stream in latest["logStreams"]:
            events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], limit=5)
            found += [f"  {program}: {event['message'].rstrip()}" for event in events["events"]]
    return found
