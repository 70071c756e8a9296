"""Creates or updates a CloudFormation stack in an emulator and prints its outputs as JSON; says on stderr what of the
template the emulator cannot make. Run with the virtual environment's Python.

usage: deploy.py STACK TEMPLATE [Parameter=value ...]
"""

import json
import os
import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from unsupported import reduced


def deploy(name: str, template: str, parameters: dict[str, str]) -> dict[str, str]:
    # Unlike the other SDKs, boto3 does not read AWS_REGION.
    cloudformation = boto3.client("cloudformation", region_name=os.environ.get("AWS_REGION"))
    template, left_out = reduced(template, parameters)
    for line in left_out:
        print(f"{name}: left out: {line}", file=sys.stderr)
    arguments = {
        "StackName": name,
        "TemplateBody": template,
        # The roles of functions and tasks.
        "Capabilities": ["CAPABILITY_IAM"],
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    }
    try:
        cloudformation.create_stack(**arguments)
        finished = "stack_create_complete"
    except cloudformation.exceptions.AlreadyExistsException:
        finished = "stack_update_complete"
        try:
            cloudformation.update_stack(**arguments)
        except ClientError as error:
            # CloudFormation has no other way to say that everything is as it should be.
            if "No updates are to be performed" not in str(error):
                raise
            finished = None
    if finished:
        try:
            cloudformation.get_waiter(finished).wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
        except WaiterError:
            sys.exit(f"stack {name} was not deployed:\n{why(cloudformation, name)}")
    stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def why(cloudformation, name: str) -> str:
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    failed = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
    return "\n".join(f"  {event['LogicalResourceId']}: {event.get('ResourceStatusReason', '?')}" for event in failed)


if __name__ == "__main__":
    name, path, *pairs = sys.argv[1:]
    with open(path) as template:
        try:
            outputs = deploy(name, template.read(), dict(pair.split("=", 1) for pair in pairs))
        except (BotoCoreError, ClientError) as error:
            sys.exit(str(error))
    print(json.dumps(outputs))
