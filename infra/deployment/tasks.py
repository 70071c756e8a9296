"""Why tasks of ECS ended, and the last that they logged: a stack that is undone takes both along."""

from __future__ import annotations

from collections import Counter

from botocore.exceptions import BotoCoreError, ClientError

PROGRAMS = ("api", "worker")
LINES = 5


def last_words(session, name: str) -> list[str]:
    """What can still be told; nothing of it is worth another error."""
    found = []
    for ask in (reasons, logged):
        try:
            found += ask(session, name)
        except (BotoCoreError, ClientError):
            continue
    return found


def reasons(session, name: str) -> list[str]:
    ecs = session.client("ecs")
    tasks = ecs.list_tasks(cluster=name, desiredStatus="STOPPED")["taskArns"]
    if not tasks:
        return []
    counted: Counter[str] = Counter()
    for task in ecs.describe_tasks(cluster=name, tasks=tasks)["tasks"]:
        why = [task.get("stoppedReason", "")]
        for container in task.get("containers", []):
            why.append(container.get("reason", ""))
            why.append(f"exit code {container['exitCode']}" if container.get("exitCode") else "")
        counted[f"{task.get('group', 'task')}: {', '.join(filter(None, why)) or 'no reason given'}"] += 1
    return [f"  {count} stopped of {text}" for text, count in counted.most_common()]


def logged(session, name: str) -> list[str]:
    logs, found = session.client("logs"), []
    for program in PROGRAMS:
        group = f"/longhand/{name}/{program}"
        streams = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=1)
        for stream in streams["logStreams"]:
            events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], limit=LINES)
            found += [f"  {program}: {event['message'].rstrip()}" for event in events["events"]]
    return found
