"""Stands between programs and AWS, or its emulator, and writes down IAM's action and resource of each call."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
from collections import defaultdict
from urllib.parse import parse_qsl, unquote, urlsplit

from server import Quiet, Server

REGION, ACCOUNT = "us-east-1", "000000000000"
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}
# IAM's names for S3's subresources of a bucket, read.
BUCKET_READS = {
    "cors": "s3:GetBucketCORS",
    "encryption": "s3:GetEncryptionConfiguration",
    "lifecycle": "s3:GetLifecycleConfiguration",
    "policy": "s3:GetBucketPolicy",
    "publicAccessBlock": "s3:GetBucketPublicAccessBlock",
    # ListObjectsV2
    "list-type": "s3:ListBucket",
}

SEND = "AmazonSQS.SendMessageBatch"
REFUSED = b'{"__type": "com.amazonaws.sqs#KmsAccessDenied", "message": "not with this key"}'

# An action and the resource that it is for.
Right = tuple[str, str]


def table(name: str, index: str | None = None) -> str:
    return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}" + (f"/index/{index}" if index else "")


def dynamodb(operation: str, body: dict) -> set[Right]:
    """A transaction needs the rights of what is in it, and none of its own."""
    if operation == "TransactWriteItems":
        actions = {
            "Put": "PutItem",
            "Update": "UpdateItem",
            "Delete": "DeleteItem",
            "ConditionCheck": "ConditionCheckItem",
        }
        return {
            (f"dynamodb:{actions[kind]}", table(part["TableName"]))
            for item in body["TransactItems"]
            for kind, part in item.items()
        }
    if operation == "BatchGetItem":
        return {("dynamodb:BatchGetItem", table(name)) for name in body["RequestItems"]}
    return {(f"dynamodb:{operation}", table(body["TableName"], body.get("IndexName")))}


def sqs(operation: str, body: dict) -> set[Right]:
    """Batches need the right of the single call."""
    name = body["QueueUrl"].rsplit("/", 1)[1]
    return {(f"sqs:{operation.removesuffix('Batch')}", f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")}


def s3(method: str, path: str, query: dict[str, str]) -> set[Right]:
    bucket, _, key = path.lstrip("/").partition("/")
    arn = f"arn:aws:s3:::{bucket}"
    if key:
        action = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}.get(method)
        return {(f"s3:{action or method}", f"{arn}/{key}")}
    if method == "HEAD":
        return {("s3:ListBucket", arn)}
    found = {action for name, action in BUCKET_READS.items() if name in query and method == "GET"}
    # What is not known here is written down as it came, and is then no right of anybody's.
    return {(action, arn) for action in found or {f"s3:{method}?{'&'.join(sorted(query))}"}}


def rights(method: str, target: str, headers, body: bytes) -> set[Right]:
    url = urlsplit(target)
    operation = headers.get("x-amz-target", "")
    if operation.startswith("DynamoDB_"):
        return dynamodb(operation.split(".")[1], json.loads(body))
    if operation.startswith("AmazonSQS."):
        return sqs(operation.split(".")[1], json.loads(body))
    return s3(method, unquote(url.path), dict(parse_qsl(url.query, keep_blank_values=True)))


def access_key(target: str, headers) -> str | None:
    """Whose call it is; None for what is not signed."""
    signed = re.search(r"Credential=([^/]+)/", headers.get("authorization", ""))
    signed = signed or re.search(r"X-Amz-Credential=([^%/&]+)", target)
    return signed[1] if signed else None


class Recorder(Server):
    """A proxy to `endpoint`. `called` has the rights that each access key has used, `denied` what was refused.

    The next messages of each access key in `refusing` are refused here, as by a queue whose key may not be used.
    """

    def __init__(self, endpoint: str):
        upstream = urlsplit(endpoint).netloc
        self.called: dict[str, set[Right]] = defaultdict(set)
        self.denied: list[tuple[str, set[Right], str]] = []
        self.refusing: set[str] = set()
        lock = threading.Lock()
        recorder = self

        class Handler(Quiet):
            protocol_version = "HTTP/1.1"

            def refuses(self) -> bool:
                key = access_key(self.path, self.headers)
                with lock:
                    found = key in recorder.refusing and self.headers.get("x-amz-target") == SEND
                    recorder.refusing -= {key} if found else set()
                return found

            def relay(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.refuses():
                    self.send_response(400)
                    self.send_header("content-length", str(len(REFUSED)))
                    self.end_headers()
                    self.wfile.write(REFUSED)
                    return
                # Signatures cover the host: it goes on as it came.
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                connection = http.client.HTTPConnection(upstream, timeout=60)
                try:
                    connection.request(self.command, self.path, body, headers)
                    response = connection.getresponse()
                    answer = response.read()
                finally:
                    connection.close()
                key = access_key(self.path, self.headers)
                if key is not None:
                    used = rights(self.command, self.path, self.headers, body)
                    with lock:
                        recorder.called[key] |= used
                        if response.status == 403 or b"AccessDenied" in answer:
                            recorder.denied.append((key, used, answer.decode(errors="replace")))
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in HOP_BY_HOP | {"content-length", "date", "server"}:
                        self.send_header(name, value)
                # The answer to HEAD tells a length that it does not have.
                length = response.getheader("content-length") if self.command == "HEAD" else str(len(answer))
                self.send_header("content-length", length or "0")
                self.end_headers()
                # A program that is stopping does not wait for its poll.
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(answer)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = relay

        super().__init__(Handler)
