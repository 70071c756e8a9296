"""The programs of 0.1.0, built from their commit in this repository's history."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from provision import ROOT, Tools, lock
from services import Failure, run_step, say

COMMIT = "b9b07db1da769c52e5321fead71e9ff740e56b90"
PROGRAMS = ["longhand-api", "longhand-worker"]


class OldPrograms:
    def __init__(self, tools: Tools):
        self.tools = tools
        self.folder = tools.directory / "0.1.0"
        self.source = self.folder / "source"
        self.target = self.folder / "target"

    def ensure(self) -> Path:
        """The folder with the programs, which are built once."""
        programs = self.target / "debug"
        with lock(self.tools.directory / "0.1.0.lock"):
            # Written last, so a build that was broken off is not taken for a whole one.
            stamp = self.folder / ".built"
            if not (stamp.exists() and stamp.read_text() == COMMIT):
                if shutil.which("cargo") is None:
                    raise Failure("cargo is missing. Install Rust (https://rustup.rs), open a new terminal and retry.")
                say("Building the programs of 0.1.0, some minutes for the first time")
                self.extract()
                build = ["cargo", "build", "--locked", "--manifest-path", str(self.source / "Cargo.toml")]
                build += ["--target-dir", str(self.target)]
                for program in PROGRAMS:
                    build += ["-p", program]
                run_step("cargo build", build, self.tools.logs / "0.1.0.log", self.tools.cancelled)
                stamp.write_text(COMMIT)
        return programs

    def extract(self) -> None:
        shutil.rmtree(self.source, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(archive(ROOT))) as files:
            files.extractall(self.source, filter="data")


def archive(repository: Path) -> bytes:
    """The files of 0.1.0 as a tar archive."""
    known = git(repository, "cat-file", "-e", f"{COMMIT}^{{commit}}")
    if known.returncode != 0:
        raise Failure(
            f"The commit of 0.1.0, {COMMIT[:7]}, is not in the history here, and its programs are built from it. "
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
        raise Failure("git is missing, and the programs of 0.1.0 are built from this repository's history.") from None
