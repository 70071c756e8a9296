"""What the local stack makes in an emulator: stacks of CloudFormation, and the function's zip."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

from provision import Tools
from services import Failure


class Cloud:
    """boto3 is the virtual environment's, which is made of the Python that runs this."""

    def __init__(self, tools: Tools, endpoint: str, credentials: dict[str, str]):
        site.addsitedir(str(tools.venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"))
        import boto3

        # Nothing of the user's AWS set-up may mix with the emulator's.
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        self.session = boto3.Session(
            credentials["AWS_ACCESS_KEY_ID"],
            credentials["AWS_SECRET_ACCESS_KEY"],
            region_name=credentials["AWS_REGION"],
        )
        self.endpoint = endpoint

    def deploy(self, name: str, template: Path, parameters: dict[str, str]) -> dict[str, str]:
        """Creates or updates a stack; its outputs."""
        from botocore.exceptions import BotoCoreError, ClientError, WaiterError

        client = self.session.client("cloudformation", endpoint_url=self.endpoint)
        given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
        # The roles of functions and tasks.
        asked = {"StackName": name, "TemplateBody": template.read_text(), "Parameters": given}
        asked["Capabilities"] = ["CAPABILITY_IAM"]
        try:
            try:
                client.create_stack(**asked)
                done = "stack_create_complete"
            except client.exceptions.AlreadyExistsException:
                client.update_stack(**asked)
                done = "stack_update_complete"
            client.get_waiter(done).wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
        except WaiterError:
            events = client.describe_stack_events(StackName=name)["StackEvents"]
            failed = [one for one in events if one["ResourceStatus"].endswith("_FAILED")]
            why = "\n".join(f"  {one['LogicalResourceId']}: {one.get('ResourceStatusReason', '?')}" for one in failed)
            raise Failure(f"infra/{template.name} could not be deployed:\n{why}") from None
        except (BotoCoreError, ClientError) as error:
            # CloudFormation has no other way to say that everything is as it should be.
            if "No updates are to be performed" not in str(error):
                raise Failure(f"infra/{template.name} could not be deployed: {error}") from None
        outputs = client.describe_stacks(StackName=name)["Stacks"][0].get("Outputs", [])
        return {output["OutputKey"]: output["OutputValue"] for output in outputs}

    def upload(self, file: Path, bucket: str) -> None:
        """Alone: what else is in the bucket is an older one."""
        found = self.session.resource("s3", endpoint_url=self.endpoint).Bucket(bucket)
        # Created again, a bucket of one's own stays as it is.
        found.create()
        there = {one.key for one in found.objects.all()}
        if file.name not in there:
            found.upload_file(str(file), file.name)
        for key in there - {file.name}:
            found.Object(key).delete()
