"""CloudFormation stacks: change sets that are shown before they are executed, and what must not be replaced."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from botocore.exceptions import BotoCoreError, ClientError

# What holds data, or is written down elsewhere under its name. A replacement is a new, empty one.
GUARDED = ("AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::S3::Bucket")
# The belt: CloudFormation itself refuses, also when somebody updates the stack by hand.
STACK_POLICY = {
    "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "Update:*", "Resource": "*"},
        {
            "Effect": "Deny",
            "Principal": "*",
            "Action": ["Update:Replace", "Update:Delete"],
            "Resource": "*",
            "Condition": {"StringEquals": {"ResourceType": list(GUARDED)}},
        },
    ]
}
NO_POLICY = {"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "Update:*", "Resource": "*"}]}
NOTHING_TO_DO = ("didn't contain changes", "No updates are to be performed")


class Failure(Exception):
    """Ends the command; its text is all that the user is shown."""


def run(name: str, main: Callable[[], int]) -> NoReturn:
    """The command `main`: what is no fault of the program ends in a line, not in a traceback."""
    try:
        sys.exit(main())
    except (Failure, BotoCoreError, ClientError) as failure:
        sys.exit(f"{name}: {failure}")
    except KeyboardInterrupt:
        sys.exit(f"\n{name}: broken off. What CloudFormation had begun goes on by itself; run this again.")


@dataclass
class Change:
    action: str
    resource: str
    kind: str
    replacement: str
    why: list[str] = field(default_factory=list)

    @property
    def loses(self) -> bool:
        """Whether it takes away, or puts an empty one in the place of, what must stay."""
        return self.kind in GUARDED and (self.action == "Remove" or self.replacement == "True")

    @property
    def may_lose(self) -> bool:
        """CloudFormation finds out while it is at it; the stack's policy stops it then."""
        return self.kind in GUARDED and self.replacement == "Conditional"

    def line(self) -> str:
        word = {"True": "REPLACE", "Conditional": "may replace"}.get(self.replacement, self.action.lower())
        if self.action != "Modify":
            word = self.action.lower()
        text = f"    {word:<12}{self.kind:<44}{self.resource}"
        if self.action == "Modify" and self.why:
            text += f"  ({', '.join(self.why)})"
        if self.may_lose:
            text += "   <== refused by the stack's policy, should it come to a replacement"
        return text + ("   <== WOULD BE LOST" if self.loses else "")


@dataclass
class ChangeSet:
    stack: str
    identifier: str
    new: bool
    changes: list[Change]


class Stacks:
    def __init__(self, session, pause: float = 5):
        self.client = session.client("cloudformation")
        self.pause = pause

    def describe(self, name: str) -> dict | None:
        try:
            return self.client.describe_stacks(StackName=name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise

    def outputs(self, name: str) -> dict[str, str]:
        stack = self.describe(name) or {}
        return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}

    def exists(self, name: str) -> bool:
        """Whether there is something to update. What a failed creation or a change set alone left behind is not."""
        stack = self.describe(name)
        return stack is not None and stack["StackStatus"] not in ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE")

    def left_over(self, name: str) -> bool:
        """Whether its creation failed and was undone. Nothing is in it, yet CloudFormation takes no second try."""
        stack = self.describe(name)
        return stack is not None and stack["StackStatus"] == "ROLLBACK_COMPLETE"

    def fault(self, name: str) -> str | None:
        """Why the stack cannot be updated as it stands."""
        status = (self.describe(name) or {}).get("StackStatus", "")
        if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            return f"stack {name} is {status}: somebody is at work on it. Try again when that has ended."
        if status == "UPDATE_ROLLBACK_FAILED":
            return (
                f"stack {name} is {status}. Mend what its events name, then: "
                f"aws cloudformation continue-update-rollback --stack-name {name}"
            )
        if status in ("ROLLBACK_FAILED", "DELETE_FAILED", "CREATE_FAILED"):
            return (
                f"stack {name} is {status}. Look at its events, then: "
                f"aws cloudformation delete-stack --stack-name {name}"
            )
        return None

    def change_set(self, name: str, body: str, parameters: dict[str, str], tags: dict[str, str]) -> ChangeSet | None:
        """What would be done; None when nothing would."""
        if self.left_over(name):
            self.delete(name)
        stack = self.describe(name)
        new = stack is None or stack["StackStatus"] == "REVIEW_IN_PROGRESS"
        identifier = self.client.create_change_set(
            StackName=name,
            ChangeSetName=f"deploy-{time.time_ns() // 1_000_000}",
            ChangeSetType="CREATE" if new else "UPDATE",
            TemplateBody=body,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )["Id"]
        while True:
            described = self.client.describe_change_set(ChangeSetName=identifier, StackName=name)
            if described["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
                break
            time.sleep(min(self.pause, 2))
        if described["Status"] == "FAILED":
            reason = described.get("StatusReason", "?")
            self.discard(ChangeSet(name, identifier, new, []))
            if any(words in reason for words in NOTHING_TO_DO):
                return None
            raise Failure(f"stack {name}: the change set could not be made: {reason}")
        changes = described["Changes"]
        while described.get("NextToken"):
            described = self.client.describe_change_set(
                ChangeSetName=identifier, StackName=name, NextToken=described["NextToken"]
            )
            changes += described["Changes"]
        return ChangeSet(name, identifier, new, [read(change["ResourceChange"]) for change in changes])

    def discard(self, change_set: ChangeSet) -> None:
        """Leaves no trace of a change set that is not executed."""
        self.client.delete_change_set(ChangeSetName=change_set.identifier, StackName=change_set.stack)
        stack = self.describe(change_set.stack)
        if stack and stack["StackStatus"] == "REVIEW_IN_PROGRESS":
            self.delete(change_set.stack)

    def execute(self, change_set: ChangeSet, undone: Callable[[], list[str]] = list) -> None:
        """`undone` is asked, as soon as CloudFormation begins to undo it, what will then be gone with the resources."""
        name = change_set.stack
        begun = time.time()
        # What this very change set made goes again when it fails, Retain or not: else a creation that fails leaves its
        # table behind, whose name is then taken at the next try.
        self.client.execute_change_set(ChangeSetName=change_set.identifier, StackName=name, RetainExceptOnCreate=True)
        last_words: list[str] = []

        def at(status: str) -> None:
            if not last_words and "ROLLBACK" in status:
                last_words.extend(undone())

        status = self.wait(name, at)
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            text = "\n".join([self.why(name, begun), *last_words])
            raise Failure(f"stack {name} was not deployed, it is {status}:\n{text}")

    def wait(self, name: str, at: Callable[[str], None] = lambda status: None) -> str:
        last_word = begun = time.monotonic()
        while True:
            stack = self.describe(name)
            status = stack["StackStatus"] if stack else "DELETE_COMPLETE"
            at(status)
            if not status.endswith("_IN_PROGRESS"):
                return status
            if time.monotonic() - last_word > 30:
                last_word = time.monotonic()
                print(f"  {name}: {status} ({last_word - begun:.0f} s)", flush=True)
            time.sleep(self.pause)

    def why(self, name: str, since: float) -> str:
        events = self.client.describe_stack_events(StackName=name)["StackEvents"]
        failed = [
            f"  {event['LogicalResourceId']}: {event.get('ResourceStatusReason', '?')}"
            for event in reversed(events)
            if event["ResourceStatus"].endswith("_FAILED") and event["Timestamp"].timestamp() >= since - 60
        ]
        return "\n".join(failed) or "  its events tell no reason"

    def protect(self, name: str, policy: dict) -> None:
        self.client.set_stack_policy(StackName=name, StackPolicyBody=json.dumps(policy))

    def delete(self, name: str) -> None:
        begun = time.time()
        # By its id: a stack that is gone is not found by its name.
        stack = self.describe(name)
        if stack is None:
            return
        self.client.delete_stack(StackName=name)
        status = self.wait(stack["StackId"])
        if status != "DELETE_COMPLETE":
            raise Failure(f"stack {name} was not deleted, it is {status}:\n{self.why(name, begun)}")


def read(change: dict) -> Change:
    why = {
        detail["Target"].get("Name") or detail["Target"].get("Attribute") or "?" for detail in change.get("Details", [])
    }
    return Change(
        action=change["Action"],
        resource=change["LogicalResourceId"],
        kind=change["ResourceType"],
        replacement=change.get("Replacement", "False"),
        why=sorted(why),
    )
