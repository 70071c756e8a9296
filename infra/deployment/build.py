"""Images and the function's code: built from the commit that is checked out, named after it, and pushed once."""

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
# What the programs are made of. A commit that changes nothing of it makes no new image, and so no new tasks.
SOURCES = ["Cargo.toml", "Cargo.lock", ".dockerignore", "infra/Dockerfile", "api", "cli", "shared", "worker"]
PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}


def run(*argv: str, **options) -> str:
    try:
        return subprocess.run(argv, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, **options).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise Failure(f"{' '.join(argv)}: {error}. {getattr(error, 'stderr', '') or ''}".strip()) from None


def tag() -> str:
    """The last commit that changed what is built; the files of that commit and of the one checked out are the same."""
    return run("git", "log", "-1", "--format=%h", "--abbrev=12", "--", *SOURCES)


def faults() -> list[str]:
    """Why nothing can be built here."""
    try:
        if run("git", "rev-parse", "--is-shallow-repository", stderr=subprocess.PIPE) == "true":
            return ["this clone is shallow, without the commit that images are named after: git fetch --unshallow"]
        if changed := run("git", "status", "--porcelain", "--", *SOURCES):
            return [f"what is built differs from the commit that it would be named after; commit it first:\n{changed}"]
        if shutil.which("docker") is None:
            return ["docker is missing, which builds the images; --tag TAG deploys those that were pushed before"]
        builder = run("docker", "buildx", "inspect", "--bootstrap", stderr=subprocess.PIPE)
    except Failure as failure:
        return [f"no images can be built: {failure}"]
    # For which processor does not matter: the Dockerfile compiles for the other one.
    platforms = set(re.findall(r"linux/\w+", " ".join(re.findall(r"Platforms:(.*)", builder))))
    needed = " or ".join(PLATFORMS.values())
    found = ", ".join(sorted(platforms)) or "nothing that it names"
    return [] if platforms & set(PLATFORMS.values()) else [f"buildx builds on {found}, not on {needed}"]


class Images:
    def __init__(self, session, architecture: str):
        self.ecr, self.s3 = session.client("ecr"), session.client("s3")
        self.platform = PLATFORMS[architecture]
        # Tags are never written twice, so one architecture may not take the other's.
        self.suffix = f"-{architecture.lower()}"

    def digest(self, repository: str, tag: str) -> str | None:
        """The digest of the image's manifest; None when it was never pushed."""
        name = repository.split("/", 1)[1]
        try:
            found = self.ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": tag}])["imageDetails"]
        except self.ecr.exceptions.ImageNotFoundException:
            return None
        return found[0]["imageDigest"] if found else None

    def pinned(self, repository: str, tag: str) -> str:
        """What a task definition names, so that each task runs the same bytes whatever becomes of the tag."""
        digest = self.digest(repository, tag)
        return f"{repository}@{digest}" if digest else f"{repository}:{tag}"

    def push(self, program: str, repository: str, tag: str) -> None:
        print(f"  building and pushing image {program}:{tag} for {self.platform}")
        token = self.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        user, _, password = base64.b64decode(token).decode().partition(":")
        registry = repository.split("/", 1)[0]
        # By standard input: arguments can be read by everybody while the program runs.
        run("docker", "login", "--username", user, "--password-stdin", registry, input=password)
        self.buildx("--target", program, "--tag", f"{repository}:{tag}", "--push")

    def function_exists(self, bucket: str, key: str) -> bool:
        try:
            return bool(self.s3.head_object(Bucket=bucket, Key=key))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return False
            raise

    def upload_function(self, bucket: str, key: str) -> None:
        """The api as a Lambda function, into `bucket`."""
        print(f"  building and uploading function {key}")
        with tempfile.TemporaryDirectory() as directory:
            output = f"type=local,dest={directory}"
            self.buildx("--target", "function", "--output", output)
            archive = Path(directory) / "function.zip"
            # Lambda starts it, so it has to be executable.
            (Path(directory) / "bootstrap").chmod(0o755)
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as whole:
                whole.write(Path(directory) / "bootstrap", "bootstrap")
            self.s3.upload_file(str(archive), bucket, key)

    def buildx(self, *arguments: str) -> None:
        # Without attestations: one manifest for a tag, which is what a lifecycle policy counts.
        how = ["--file", "infra/Dockerfile", "--platform", self.platform, "--provenance=false"]
        run("docker", "buildx", "build", *how, *arguments, ".")
