"""`make up GATEWAY=1`: the api as a Lambda function behind an API Gateway HTTP API, both in the emulator.

The code and infra/gateway.yaml are those for AWS. The emulator runs the program on this machine.
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

from services import Failure, answers, run_main, say

# Of Amazon Linux 2023, on which the runtime provided.al2023 is based.
GLIBC = (2, 34)
STACK_NAME = "longhand-gateway"
BUCKET = "longhand-code"
ARCHITECTURES = {"x86_64": "X86_64", "amd64": "X86_64", "aarch64": "ARM64", "arm64": "ARM64"}
BUILD_ELSEWHERE = (
    "Build it against an older C library, in the image public.ecr.aws/lambda/provided:al2023 or with "
    "cargo-zigbuild (--target x86_64-unknown-linux-gnu.2.34): see docs/deploy-aws.md."
)
# Template parameters of the function, by the api's settings.
PARAMETERS = {
    "RatePerMinute": "LONGHAND_RATE_PER_MINUTE",
    "MaxOpenJobs": "LONGHAND_MAX_OPEN_JOBS",
    "RetentionDays": "LONGHAND_RETENTION_DAYS",
    "AudioHosts": "LONGHAND_AUDIO_HOSTS",
    "CorsOrigins": "LONGHAND_CORS_ORIGINS",
    "JwtIssuer": "LONGHAND_JWT_ISSUER",
    "JwtAudience": "LONGHAND_JWT_AUDIENCE",
    "JwtJwksUrl": "LONGHAND_JWT_JWKS_URL",
    "Authorizer": "GATEWAY_AUTHORIZER",  # false: only the api checks tokens
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
    """The function's zip, named after the hash of the program and so created once."""
    archive = folder / f"{hashlib.sha256(program.read_bytes()).hexdigest()[:16]}.zip"
    if archive.exists():
        return archive
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bootstrap, partial = folder / "bootstrap", folder / "partial"
    done = subprocess.run(["strip", "-o", str(bootstrap), str(program)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{program} cannot be stripped: {done.stderr.strip()}")
    newest = glibc(bootstrap.read_bytes())
    if newest > GLIBC:
        needed, available = (".".join(map(str, version)) for version in (newest, GLIBC))
        say(f"  warning: {program} needs glibc {needed}, and Lambda has {available}. It runs in the emulator, but not")
        say(f"           on AWS. {BUILD_ELSEWHERE}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as whole:
        whole.write(bootstrap, "bootstrap")
    size, zipped = bootstrap.stat().st_size, partial.stat().st_size
    say(f"  packaged longhand-api: {size / 1e6:.1f} MB stripped, {zipped / 1e6:.1f} MB zipped")
    bootstrap.unlink()
    return partial.rename(archive)


def glibc(program: bytes) -> tuple[int, int]:
    """The newest version of glibc that a program needs. The names of the versions are in it as plain text."""
    found = {(int(major), int(minor)) for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", program)}
    return max(found, default=(0, 0))


def parameters(settings: dict[str, str], outputs: dict[str, str], key: str) -> dict[str, str]:
    """The parameters of infra/gateway.yaml."""
    return {
        "Target": "lambda",
        "CodeBucket": BUCKET,
        "CodeKey": key,
        "CpuArchitecture": ARCHITECTURES[platform.machine().lower()],
        **{name: outputs[name] for name in ("TableName", "TableArn", "QueueArn", "BucketName", "BucketArn")},
        "QueueUrl": settings["LONGHAND_QUEUE_URL"],
        "WebhookQueueUrl": settings["LONGHAND_WEBHOOK_QUEUE_URL"],
        "DeadLetterQueueUrl": settings["LONGHAND_DLQ_URL"],
        "DeadLetterQueueArn": outputs["DeadLetterQueueArn"],
        "TicketSecretArn": outputs["TicketSecretArn"],
        "CallbackHosts": settings["LONGHAND_CALLBACK_HOSTS"],
        "Auth": os.environ.get("LONGHAND_AUTH") or "none",
        **{name: os.environ[setting] for name, setting in PARAMETERS.items() if os.environ.get(setting)},
    }


def url(endpoint: str, api: str) -> str:
    """The function's URL in the emulator. By path, since not every system resolves names under localhost."""
    return f"{endpoint}/_aws/execute-api/{api}/$default"


def wait_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while not answers(f"{url}/readyz"):
        if time.monotonic() > deadline:
            raise Failure(
                f"the function behind {url}\ndid not answer /readyz with 200 within a minute. Its log is in the "
                "emulator's log group /longhand/longhand/function."
            )
        time.sleep(0.2)
    say(f"  gateway is ready on {url}")


if __name__ == "__main__":
    # localstack/e2e runs this.
    run_main(lambda: print(package(Path(sys.argv[1]), Path(sys.argv[2]))))
