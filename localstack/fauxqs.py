"""fauxqs, another emulator of SQS, for a test of `make test-all`. It comes from npm, with a newer Node if needed.

It listens on all addresses of the machine while that test runs.
"""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from provision import Tools, ensure_program, once
from services import say

FAUXQS = "2.4.1"
NODE = "22.23.3"
# The first version with `node:sqlite`.
OLDEST_NODE = (22, 5)


class Fauxqs:
    def __init__(self, tools: Tools):
        self.tools = tools
        self.directory = tools.directory / "fauxqs"
        self.modules = self.directory / "node_modules"

    def ensure(self) -> None:
        with self.tools.lock():
            packages = [f"fauxqs@{FAUXQS}"] + ([] if new_enough() else [f"{own_node()}@{NODE}"])
            once(self.directory / ".installed", " ".join(packages), lambda: self.install(packages))

    def install(self, packages: list[str]) -> None:
        ensure_program("npm", "npm", "It fetches fauxqs, a queue for tests.", self.tools.logs / "fauxqs.log")
        say("Installing fauxqs")
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        install = ["npm", "install", "--prefix", str(self.directory), "--no-audit", "--no-fund", "--ignore-scripts"]
        self.tools.run("npm install", [*install, *packages], "fauxqs")

    def command(self) -> str | None:
        """Its command for a shell, if it is installed."""
        program = self.modules / "fauxqs" / "dist" / "cli.js"
        own = self.modules / own_node() / "bin" / "node"
        node = own if own.exists() else Path("node")
        return shlex.join([str(node), str(program)]) if program.exists() else None


def own_node() -> str:
    """The npm package with a Node for this machine."""
    system = "darwin" if sys.platform == "darwin" else "linux"
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine().lower()]
    return f"node-{system}-{machine}"


def new_enough() -> bool:
    if shutil.which("node") is None:
        return False
    output = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    version = re.match(r"v(\d+)\.(\d+)", output)
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST_NODE
