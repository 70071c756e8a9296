"""What the local stack creates in an emulator: CloudFormation stacks, and the function's code."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

from provision import Tools
from services import Failure, say


class Cloud:
    """boto3 comes from the virtual environment, which was made with the same Python."""

    def __init__(self, tools: Tools, endpoint: str, credentials: dict[str, str]):
        site.addsitedir(str(tools.venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"))
        import boto3

        # The user's AWS settings must not apply to the emulator.
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        keys = credentials["AWS_ACCESS_KEY_ID"], credentials["AWS_SECRET_ACCESS_KEY"]
        self.session = boto3.Session(*keys, region_name=credentials["AWS_REGION"])
        self.endpoint = endpoint

    def deploy(self, name: str, template: Path, parameters: dict[str, str]) -> dict[str, str]:
        """Creates or updates a stack and returns its outputs."""
        from botocore.exceptions import BotoCoreError, ClientError, WaiterError

        say(f"  deploying infra/{template.name}")
        client = self.session.client("cloudformation", endpoint_url=self.endpoint)
        given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
        stack = {"StackName": name, "TemplateBody": template.read_text(), "Parameters": given}
        stack["Capabilities"] = ["CAPABILITY_IAM"]
        try:
            try:
                client.create_stack(**stack)
                waiter = client.get_waiter("stack_create_complete")
            except client.exceptions.AlreadyExistsException:
                client.update_stack(**stack)
                waiter = client.get_waiter("stack_update_complete")
            waiter.wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
        except WaiterError:
            events = client.describe_stack_events(StackName=name)["StackEvents"]
            failed = [one for one in events if one["ResourceStatus"].endswith("_FAILED")]
            why = "\n".join(f"  {one['LogicalResourceId']}: {one.get('ResourceStatusReason', '?')}" for one in failed)
            raise Failure(f"infra/{template.name} could not be deployed:\n{why}") from None
        except (BotoCoreError, ClientError) as error:
            # An update without changes is an error of CloudFormation.
            if "No updates are to be performed" not in str(error):
                raise Failure(f"infra/{template.name} could not be deployed: {error}") from None
        outputs = client.describe_stacks(StackName=name)["Stacks"][0].get("Outputs", [])
        return {output["OutputKey"]: output["OutputValue"] for output in outputs}

    def upload(self, file: Path, bucket: str) -> None:
        """Uploads the file and deletes the older ones."""
        found = self.session.resource("s3", endpoint_url=self.endpoint).Bucket(bucket)
        found.create()  # no error if it exists
        keys = {one.key for one in found.objects.all()}
        if file.name not in keys:
            found.upload_file(str(file), file.name)
        for key in keys - {file.name}:
            found.Object(key).delete()
