"""The programs of 0.1.0, built from their commit in this repository's history."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from provision import ROOT, Tools, lock, once
from services import Failure, say

COMMIT = "b9b07db1da769c52e5321fead71e9ff740e56b90"
PROGRAMS = ["longhand-api", "longhand-worker"]


class OldPrograms:
    def __init__(self, tools: Tools):
        self.tools = tools
        self.folder = tools.directory / "0.1.0"
        self.source = self.folder / "source"
        self.target = self.folder / "target"

    def ensure(self) -> Path:
        """The folder of the programs, which are built once."""
        with lock(self.tools.directory / "0.1.0.lock"):
            once(self.folder / ".built", COMMIT, self.build)
        return self.target / "debug"

    def build(self) -> None:
        if shutil.which("cargo") is None:
            raise Failure("cargo is missing. Install Rust (https://rustup.rs), open a new terminal and try again.")
        say("Building the programs of 0.1.0, which takes some minutes")
        self.extract()
        build = ["cargo", "build", "--locked", "--manifest-path", str(self.source / "Cargo.toml")]
        build += ["--target-dir", str(self.target), *(word for program in PROGRAMS for word in ("-p", program))]
        self.tools.run("cargo build", build, "0.1.0")

    def extract(self) -> None:
        shutil.rmtree(self.source, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(archive(ROOT))) as files:
            files.extractall(self.source, filter="data")


def archive(repository: Path) -> bytes:
    """The files of 0.1.0 as a tar archive."""
    if git(repository, "cat-file", "-e", f"{COMMIT}^{{commit}}").returncode != 0:
        raise Failure(
            f"The commit of 0.1.0, {COMMIT[:7]}, is not in this clone's history, and its programs are built from it. "
            "In a shallow clone: git fetch --unshallow"
        )
    made = git(repository, "archive", "--format=tar", COMMIT)
    if made.returncode != 0:
        raise Failure(f"git archive failed: {made.stderr.decode(errors='replace').strip()}")
    return made.stdout


def git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise Failure("git is missing. The programs of 0.1.0 are built from this repository's history.") from None
