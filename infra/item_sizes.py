#!/usr/bin/env python3
"""How many bytes the items of a job have, as DynamoDB counts them: what capacity_inputs.py has under ITEMS.

. .local/env && .local/venv/bin/python infra/item_sizes.py JOB_ID
"""

from __future__ import annotations

import os
import sys


def value_size(value: dict) -> int:
    """Of a value with its type, as the API has it. Numbers: a byte for two digits, and one more."""
    ((kind, held),) = value.items()
    if kind in ("BOOL", "NULL"):
        return 1
    if kind == "S":
        return len(held.encode())
    if kind == "N":
        return (len(held.lstrip("-").replace(".", "").strip("0")) + 1) // 2 + 1
    if kind == "NS":
        return sum(value_size({"N": number}) for number in held)
    if kind == "L":
        return 3 + len(held) + sum(value_size(each) for each in held)
    if kind == "M":
        return 3 + len(held) + item_size(held)
    raise ValueError(f"no item of Longhand's has a value of type {kind}")


def item_size(item: dict) -> int:
    return sum(len(name.encode()) + value_size(value) for name, value in item.items())


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    import boto3

    table = boto3.client("dynamodb", region_name=os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION"))
    items = table.query(
        TableName=os.environ["LONGHAND_TABLE"],
        KeyConditionExpression="jobId = :job",
        ExpressionAttributeValues={":job": {"S": arguments[0]}},
    )["Items"]
    for item in items:
        print(f"{item_size(item):>8}  {item['item']['S']}")
    return 0 if items else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
