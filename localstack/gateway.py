"""`make up GATEWAY=1`: the api as a Lambda function behind an API Gateway HTTP API, both in the emulator.

The zip is what AWS would get, from the same infra/gateway.yaml. The emulator runs the program in it natively.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from services import Failure, answers, say

# Of Amazon Linux 2023, which the runtime provided.al2023 is.
GLIBC = (2, 34)
STACK_NAME = "longhand-gateway"
# Of the function's zip.
BUCKET = "longhand-code"
ARCHITECTURES = {"x86_64": "X86_64", "amd64": "X86_64", "aarch64": "ARM64", "arm64": "ARM64"}
BUILD_ELSEWHERE = (
    "Build it against an older C library, in the image public.ecr.aws/lambda/provided:al2023 or with "
    "cargo-zigbuild (--target x86_64-unknown-linux-gnu.2.34): see docs/deploy-aws.md."
)
# The function takes these settings of the server as template parameters.
PARAMETERS = {
    "RatePerMinute": "LONGHAND_RATE_PER_MINUTE",
    "MaxOpenJobs": "LONGHAND_MAX_OPEN_JOBS",
    "RetentionDays": "LONGHAND_RETENTION_DAYS",
    "AudioHosts": "LONGHAND_AUDIO_HOSTS",
    "CorsOrigins": "LONGHAND_CORS_ORIGINS",
    "JwtIssuer": "LONGHAND_JWT_ISSUER",
    "JwtAudience": "LONGHAND_JWT_AUDIENCE",
    "JwtJwksUrl": "LONGHAND_JWT_JWKS_URL",
    "Authorizer": "GATEWAY_AUTHORIZER",  # false: the api alone looks at tokens
}


def wanted(asked: str) -> bool:
    if asked not in ("", "0", "1"):
        raise Failure(f"GATEWAY is {asked!r}; it can be 1, or 0.")
    return asked == "1"


def check(emulator: str) -> None:
    """Checks the settings and tools before the first long step."""
    if emulator != "ministack":
        raise Failure(f"GATEWAY=1 needs EMULATOR=ministack, which has API Gateway and Lambda; it is {emulator}.")
    if shutil.which("strip") is None:
        raise Failure("strip is missing, which GATEWAY=1 needs. On Debian and Ubuntu: apt-get install binutils")
    if os.environ.get("LONGHAND_AUTH") == "apikey":
        raise Failure("GATEWAY=1 has no file of API keys for its function: set LONGHAND_AUTH to jwt or none.")


def package(program: Path, folder: Path) -> Path:
    """The function's zip. Its name has what is in it, and what that was made from: so it is made once."""
    made_from = program.stat()
    mark = hashlib.sha256(f"{program} {made_from.st_mtime_ns} {made_from.st_size}".encode()).hexdigest()[:16]
    known = list(folder.glob(f"{mark}-*.zip"))
    if known:
        return known[0]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bootstrap = folder / "bootstrap"
    done = subprocess.run(["strip", "-o", str(bootstrap), str(program)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{program} cannot be stripped: {done.stderr.strip()}")
    newest = glibc(bootstrap.read_bytes())
    if newest > GLIBC:
        # It runs here all the same: here is where it was built.
        needs = ".".join(map(str, newest))
        say(f"  warning: {program} needs glibc {needs}, and Lambda has {'.'.join(map(str, GLIBC))}: it would not")
        say(f"           start there. {BUILD_ELSEWHERE}")
    partial = folder / "partial"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        # Always the same bytes from the same program: no time of day.
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        entry.create_system = 3  # Unix, where a file can be executable
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, bootstrap.read_bytes())
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()[:16]
    size, zipped = bootstrap.stat().st_size, partial.stat().st_size
    say(f"  packaged longhand-api: {size / 1e6:.1f} MB stripped, {zipped / 1e6:.1f} MB zipped")
    bootstrap.unlink()
    return partial.rename(folder / f"{mark}-{digest}.zip")


def glibc(program: bytes) -> tuple[int, int]:
    """The newest version of glibc's symbols that a program asks for; their names stand in it as plain text."""
    found = {(int(major), int(minor)) for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", program)}
    return max(found, default=(0, 0))


def parameters(settings: dict[str, str], outputs: dict[str, str], key: str) -> dict[str, str]:
    """Of infra/gateway.yaml: the stack's own resources, and those settings of the api that are set here."""
    auth = os.environ.get("LONGHAND_AUTH") or "none"
    given = {name: os.environ[setting] for name, setting in PARAMETERS.items() if os.environ.get(setting)}
    return {
        "Target": "lambda",
        "CodeBucket": BUCKET,
        "CodeKey": key,
        "CpuArchitecture": ARCHITECTURES[platform.machine().lower()],
        "TableName": outputs["TableName"],
        "TableArn": outputs["TableArn"],
        "QueueUrl": settings["LONGHAND_QUEUE_URL"],
        "QueueArn": outputs["QueueArn"],
        "BucketName": outputs["BucketName"],
        "BucketArn": outputs["BucketArn"],
        "WebhookQueueUrl": settings["LONGHAND_WEBHOOK_QUEUE_URL"],
        "CallbackHosts": settings["LONGHAND_CALLBACK_HOSTS"],
        "Auth": auth,
        **given,
    }


def url(endpoint: str, api: str) -> str:
    """Where the emulator serves it. By path: not every system resolves names under localhost."""
    return f"{endpoint}/_aws/execute-api/{api}/$default"


def wait_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while not answers(f"{url}/readyz"):
        if time.monotonic() > deadline:
            raise Failure(
                f"the function behind {url}\ndid not answer /readyz with 200 within a minute. Its log is in the "
                "emulator's log group /aws/lambda/longhand-api."
            )
        time.sleep(0.2)
    say(f"  gateway is ready on {url}")


if __name__ == "__main__":
    # For localstack/e2e.
    try:
        print(package(Path(sys.argv[1]), Path(sys.argv[2])))
    except Failure as failure:
        sys.exit(str(failure))
