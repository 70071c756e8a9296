"""Puts a file into a bucket, alone: what else is there is an older one. Run with the virtual environment's Python.

usage: upload.py FILE BUCKET
"""

import os
import sys
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError


def upload(file: Path, bucket: str) -> None:
    s3 = boto3.client("s3", region_name=os.environ.get("AWS_REGION"))
    if bucket not in [one["Name"] for one in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=bucket)
    there = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    if file.name not in there:
        s3.put_object(Bucket=bucket, Key=file.name, Body=file.read_bytes())
    for key in there:
        if key != file.name:
            s3.delete_object(Bucket=bucket, Key=key)


if __name__ == "__main__":
    try:
        upload(Path(sys.argv[1]), sys.argv[2])
    except (BotoCoreError, ClientError) as error:
        sys.exit(str(error))
