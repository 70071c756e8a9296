"""LocalStack as a Python program: without Docker, from package registries alone.

LocalStack itself is in a virtual environment of its own, since it pins other versions than localstack/requirements.txt.
Its DynamoDB is AWS's DynamoDB Local, a Java program that an npm package holds (its licence allows use for development
and test; it is not shipped with Longhand). LocalStack would download both it and a JDK: it finds them in place instead.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from provision import HERE, Tools, ensure_program, lock
from services import Failure, Service, run_step, say

REQUIREMENTS = HERE / "localstack-requirements.txt"
# What infra/data.yaml needs: the table is encrypted with a key of KMS.
SERVICES = "cloudformation,dynamodb,iam,kms,s3,sqs,sts"
DYNAMODB = "amplify-dynamodb-simulator"
DYNAMODB_VERSION = "2.9.30"
DYNAMODB_SHA256 = "3503ffac19f183407909fecdacf4db51ab1fdad1da7b2f177016670b2d80e4b9"
# DynamoDB Local 2 needs it.
JAVA = 17
# LocalStack starts Java with an agent, which it downloads, for tables with more than 20 indexes.
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
    """What LocalStack runs with. It can be shared by several stacks."""

    def __init__(self, tools: Tools):
        self.tools = tools
        self.venv = tools.directory / "localstack-venv"
        self.libraries = tools.directory / "localstack-libraries"

    def ensure(self) -> None:
        log = self.tools.logs / "localstack.log"
        with lock(self.tools.directory / "tools.lock"):
            self.tools.logs.mkdir(parents=True, exist_ok=True)
            ensure_program("java", "default-jre-headless", "LocalStack's DynamoDB is a Java program.", log)
            java = check_java()
            self.tools.install(self.venv, REQUIREMENTS)
            self.ensure_dynamodb(log)
            program = self.libraries / "java" / "21" / "bin" / "java"
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(WITHOUT_AGENT.format(java=java))
            program.chmod(0o755)

    def ensure_dynamodb(self, log: Path) -> None:
        home = self.libraries / "dynamodb-local" / "2"
        # Written last, so an installation that was broken off is not taken for a whole one.
        stamp = home / ".installed"
        if stamp.exists() and stamp.read_text() == DYNAMODB_SHA256:
            return
        ensure_program("npm", "npm", "It fetches DynamoDB Local for LocalStack.", log)
        say("Fetching DynamoDB Local (57 MB)")
        work = self.tools.directory / "dynamodb-local.partial"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        pack = ["npm", "pack", f"{DYNAMODB}@{DYNAMODB_VERSION}", "--pack-destination", str(work)]
        run_step("npm pack", pack, log, self.tools.cancelled)
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
        stamp.write_text(DYNAMODB_SHA256)

    def service(self, number: int, state: Path) -> Service:
        root = state / "localstack"
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        # Its libraries are under its root.
        libraries = root / "var" / "lib" / "localstack" / "lib"
        libraries.parent.mkdir(parents=True, exist_ok=True)
        if not libraries.is_symlink():
            libraries.symlink_to(self.libraries, target_is_directory=True)
        settings = {
            "FILESYSTEM_ROOT": str(root),
            "TMPDIR": str(root / "tmp"),
            # In a container it would take the container's folders.
            "OVERRIDE_IN_DOCKER": "0",
            "GATEWAY_LISTEN": f"127.0.0.1:{number}",
            "SERVICES": SERVICES,
            # Else tables survive a restart, and the stack that has them does not.
            "DYNAMODB_IN_MEMORY": "1",
            # An upload of another size or type than was signed is refused, as S3 does.
            "S3_SKIP_SIGNATURE_VALIDATION": "0",
            # It asks nobody on the Internet for anything.
            "DISABLE_EVENTS": "1",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "LS_LOG": os.environ.get("EMULATOR_LOG_LEVEL", "WARNING").lower(),
        }
        return Service(
            name="emulator",
            # -P: this repository's own folder of that name is not it.
            argv=[str(self.venv / "bin" / "python"), "-P", "-m", "localstack.runtime.main"],
            port=number,
            port_setting="EMULATOR_PORT",
            health="/_localstack/health",
            settings=settings,
            ready_within=120,
            stop_within=30,
        )


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
