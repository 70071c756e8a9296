"""Builds the images and the function's code from the commit that is checked out, and pushes each of them once."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from botocore.exceptions import ClientError

from stacks import Failure

ROOT = Path(__file__).resolve().parents[2]
# The inputs of the programs. A commit that changes none of them needs no new image, and so no new tasks.
SOURCES = ["Cargo.toml", "Cargo.lock", ".dockerignore", "infra/Dockerfile", "api", "cli", "shared", "worker"]
PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}


def run(*argv: str, **options) -> str:
    try:
        return subprocess.run(argv, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, **options).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise Failure(f"{' '.join(argv)}: {error}. {getattr(error, 'stderr', '') or ''}".strip()) from None


def commit() -> str:
    """The last commit that changed SOURCES. It names the images."""
    return run("git", "log", "-1", "--format=%h", "--abbrev=12", "--", *SOURCES)


def faults() -> list[str]:
    """Why nothing can be built on this machine."""
    try:
        if run("git", "rev-parse", "--is-shallow-repository", stderr=subprocess.PIPE) == "true":
            return ["this clone is shallow, and images are named after commits: git fetch --unshallow"]
        if changed := run("git", "status", "--porcelain", "--", *SOURCES):
            return [f"images are named after commits; commit or stash these changes first:\n{changed}"]
        if shutil.which("docker") is None:
            return ["docker is missing, which builds the images; --tag TAG deploys images that exist"]
        builder = run("docker", "buildx", "inspect", "--bootstrap", stderr=subprocess.PIPE)
    except Failure as failure:
        return [f"no images can be built: {failure}"]
    # Either processor will do: the Dockerfile cross-compiles.
    found = set(re.findall(r"linux/\w+", " ".join(re.findall(r"Platforms:(.*)", builder))))
    if found & set(PLATFORMS.values()):
        return []
    return [f"buildx builds on {', '.join(sorted(found)) or 'no platform'}, not on {' or '.join(PLATFORMS.values())}"]


class Images:
    def __init__(self, session, architecture: str):
        self.ecr, self.s3 = session.client("ecr"), session.client("s3")
        self.platform = PLATFORMS[architecture]
        # Tags are never overwritten, so each architecture has its own.
        self.suffix = f"-{architecture.lower()}"

    def digest(self, repository: str, tag: str) -> str | None:
        name = repository.split("/", 1)[1]
        try:
            found = self.ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": tag}])["imageDetails"]
        except self.ecr.exceptions.ImageNotFoundException:
            return None
        return found[0]["imageDigest"] if found else None

    def pinned(self, repository: str, tag: str) -> str:
        """The image by digest, so that all tasks run the same bytes even if the tag is moved."""
        digest = self.digest(repository, tag)
        return f"{repository}@{digest}" if digest else f"{repository}:{tag}"

    def push(self, program: str, repository: str, tag: str) -> None:
        print(f"  building and pushing image {program}:{tag} for {self.platform}")
        token = self.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        user, _, password = base64.b64decode(token).decode().partition(":")
        # By standard input, since every user of the machine can read the arguments of a running program.
        run("docker", "login", "--username", user, "--password-stdin", repository.split("/", 1)[0], input=password)
        self.buildx("--target", program, "--tag", f"{repository}:{tag}", "--push")

    def function_exists(self, bucket: str, key: str) -> bool:
        try:
            return bool(self.s3.head_object(Bucket=bucket, Key=key))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return False
            raise

    def upload_function(self, bucket: str, key: str) -> None:
        print(f"  building and uploading function {key}")
        with tempfile.TemporaryDirectory() as folder:
            self.buildx("--target", "function", "--output", f"type=local,dest={folder}")
            program, archive = Path(folder) / "bootstrap", Path(folder) / "function.zip"
            program.chmod(0o755)
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as whole:
                whole.write(program, "bootstrap")
            self.s3.upload_file(str(archive), bucket, key)

    def buildx(self, *arguments: str) -> None:
        # Without attestations a tag has one manifest, which the lifecycle policy counts.
        options = ["--file", "infra/Dockerfile", "--platform", self.platform, "--provenance=false"]
        run("docker", "buildx", "build", *options, *arguments, ".")
