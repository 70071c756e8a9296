"""Images and the function's code: built from the commit that is checked out, named after it, and pushed once."""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from botocore.exceptions import ClientError

from stacks import Failure

ROOT = Path(__file__).resolve().parents[2]
# What the programs are made of. A commit that changes nothing of it makes no new image, and so no new tasks.
SOURCES = ["Cargo.toml", "Cargo.lock", ".dockerignore", "api", "cli", "shared", "worker"]
PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}


def run(argv: list[str], **options) -> str:
    try:
        return subprocess.run(argv, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, **options).stdout.strip()
    except FileNotFoundError:
        raise Failure(f"{argv[0]} is missing") from None
    except subprocess.CalledProcessError as error:
        raise Failure(f"{' '.join(argv)} failed with exit code {error.returncode}") from None


def tag() -> str:
    """The last commit that changed what is built; the files of that commit and of the one checked out are the same."""
    found = run(["git", "log", "-1", "--format=%h", "--abbrev=12", "--", *SOURCES])
    if not found:
        raise Failure("there is no commit that an image could be named after")
    return found


def faults() -> list[str]:
    """Why nothing can be built here."""
    found = []
    if shutil.which("git") is None:
        return ["git is missing: images are named after the commit that they are made of"]
    try:
        if run(["git", "rev-parse", "--is-shallow-repository"], stderr=subprocess.DEVNULL) == "true":
            found.append(
                "this clone is shallow, and does not tell which commit made the programs: git fetch --unshallow"
            )
        changed = run(["git", "status", "--porcelain", "--", *SOURCES], stderr=subprocess.DEVNULL)
    except Failure:
        return ["this is no git repository: images are named after the commit that they are made of"]
    if changed:
        found.append(f"what is built differs from the commit that it would be named after; commit it first:\n{changed}")
    if shutil.which("docker") is None:
        return [*found, "docker is missing, which builds the images; --tag TAG deploys those that were pushed before"]
    for arguments, lacking in (
        (["buildx", "version"], "docker's buildx plugin is missing (on Debian and Ubuntu: docker-buildx)"),
        (["info"], "docker is installed, but its engine does not answer"),
    ):
        if subprocess.run(["docker", *arguments], capture_output=True).returncode != 0:
            found.append(lacking)
    return found


class Images:
    def __init__(self, session, architecture: str):
        self.ecr = session.client("ecr")
        self.s3 = session.client("s3")
        self.platform = PLATFORMS[architecture]
        self.architecture = architecture
        self.logged_in = False

    def there(self, repository: str, tag: str) -> bool:
        name = repository.split("/", 1)[1]
        try:
            found = self.ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": tag}])
        except ClientError as error:
            if error.response["Error"]["Code"] == "ImageNotFoundException":
                return False
            raise
        return bool(found["imageDetails"])

    def push(self, program: str, repository: str, tag: str) -> None:
        if self.there(repository, tag):
            print(f"  image {program}:{tag} is there already", flush=True)
            return
        self.login(repository.split("/", 1)[0])
        print(f"  building and pushing image {program}:{tag} for {self.platform}", flush=True)
        self.buildx("--file", f"{program}/Dockerfile", "--tag", f"{repository}:{tag}", "--push")

    def login(self, registry: str) -> None:
        if not self.logged_in:
            token = self.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
            user, _, password = base64.b64decode(token).decode().partition(":")
            # By standard input: arguments are everybody's to read while the program runs.
            run(["docker", "login", "--username", user, "--password-stdin", registry], input=password)
            self.logged_in = True

    def tag(self, tag: str) -> str:
        """An image's. Tags are never written twice, so one architecture may not take the other's."""
        return f"{tag}-{self.architecture.lower()}"

    def key(self, tag: str) -> str:
        """The function's, in its bucket."""
        return f"api-{self.tag(tag)}.zip"

    def function_there(self, bucket: str, tag: str) -> bool:
        try:
            self.s3.head_object(Bucket=bucket, Key=self.key(tag))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return False
            raise
        return True

    def upload_function(self, bucket: str, tag: str) -> None:
        """The api as a Lambda function, into `bucket`."""
        key = self.key(tag)
        if self.function_there(bucket, tag):
            print(f"  function {key} is there already", flush=True)
            return
        print(f"  building and uploading function {key}", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            output = f"type=local,dest={directory}"
            self.buildx("--file", "api/Dockerfile", "--target", "function", "--output", output)
            archive = Path(directory) / "function.zip"
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as whole:
                entry = zipfile.ZipInfo("bootstrap")
                # Lambda starts it, so it has to be executable.
                entry.external_attr = 0o755 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                whole.writestr(entry, (Path(directory) / "bootstrap").read_bytes())
            self.s3.upload_file(str(archive), bucket, key)

    def buildx(self, *arguments: str) -> None:
        # Without attestations: one manifest for a tag, which is what a lifecycle policy counts.
        run(["docker", "buildx", "build", "--platform", self.platform, "--provenance=false", *arguments, "."])
