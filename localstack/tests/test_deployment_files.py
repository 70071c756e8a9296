"""What deploys Longhand, as it stands in files: parameter files, Dockerfiles, compose.yaml. Nothing is started."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
import unittest
from pathlib import Path

from support import LOCALSTACK, PYTHON, ROOT, TOOLS

# By the path that support makes.
# isort: split
from provision import Binaries, Tools, ensure_tools

PROGRAMS = ("api", "worker")
# Run by the Python that has PyYAML: the faults of every environment, and compose.yaml as JSON.
LOOK = """
import json, sys
sys.path.insert(0, sys.argv[1])
import yaml
from environment import INFRA, load
files = sorted((INFRA / "env").glob("*.env"))
faults = {file.stem: load(file.stem)[1] for file in files}
print(json.dumps({"faults": faults, "compose": yaml.safe_load(open(sys.argv[2]))}))
"""


def look() -> dict:
    ensure_tools(Tools(TOOLS), model=False)
    command = [str(PYTHON), "-c", LOOK, str(ROOT / "infra" / "deployment"), str(LOCALSTACK / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return json.loads(done.stdout)


def pins(file: Path) -> set[str]:
    return {line for line in file.read_text().splitlines() if line and not line.startswith("#")}


class DeploymentFiles(unittest.TestCase):
    def test_every_environment_in_the_repository_can_be_deployed(self) -> None:
        faults = look()["faults"]
        self.assertLessEqual({"example", "staging", "production"}, faults.keys())
        self.assertEqual({env: found for env, found in faults.items() if found}, {})

    def test_scripts_have_the_packages_that_were_tested(self) -> None:
        needed, tested = pins(ROOT / "infra/deployment/requirements.txt"), pins(LOCALSTACK / "requirements.txt")
        self.assertEqual(needed - tested, set())

    def dockerfile(self, program: str) -> str:
        """With continued lines joined."""
        return (ROOT / program / "Dockerfile").read_text().replace("\\\n", " ")

    def test_images_are_built_from_what_is_there_and_sent(self) -> None:
        rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        self.assertEqual(rules[0], "*", "nothing is sent but what is named")
        sent = {line[1:] for line in rules if line.startswith("!")}
        members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
        # Cargo wants the manifest of every member, whatever it builds.
        self.assertLessEqual(set(members), sent)
        for program in PROGRAMS:
            text = self.dockerfile(program)
            copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
            sources = {source for line in copied for source in line.split()}
            self.assertLessEqual({"Cargo.toml", "Cargo.lock", "shared", program}, sources)
            for source in sources:
                self.assertTrue((ROOT / source).exists(), source)
                self.assertIn(source, sent)
            for member in members:
                self.assertTrue(any(member == s or member.startswith(f"{s}/") for s in sources), member)
            self.assertNotIn(".git", sources)

    def test_images_run_the_program_that_they_build_and_not_as_root(self) -> None:
        for program in PROGRAMS:
            text = self.dockerfile(program)
            name = tomllib.loads((ROOT / program / "Cargo.toml").read_text())["package"]["name"]
            self.assertEqual(set(re.findall(r"--package (\S+)", text)), {name})
            self.assertIn("--locked", text)
            last = text.rpartition("\nFROM ")[2]
            self.assertIn(f'ENTRYPOINT ["{name}"]', last)
            self.assertRegex(last, rf'HEALTHCHECK .* CMD \["{name}", "--health"\]')
            user = re.search(r"^USER (\d+):(\d+)$", last, re.MULTILINE)
            self.assertTrue(user and "0" not in user.groups(), "a user by number, so that ECS can tell who it is")
            # Built on the very Debian whose C library it runs with.
            debian = {"trixie": "13", "bookworm": "12"}[re.search(r"rust:\S+-(\w+) AS", text)[1]]
            self.assertRegex(last, rf"^gcr\.io/distroless/cc-debian{debian}:nonroot\n")
            toolchain = re.search(r"ARG RUST=(\d+)\.(\d+)", text)
            oldest = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
            self.assertGreaterEqual(tuple(map(int, toolchain.groups())), tuple(map(int, oldest.split(".")[:2])))

    def test_the_service_checks_the_health_that_the_images_have(self) -> None:
        template = (ROOT / "infra" / "service.yaml").read_text()
        for program in PROGRAMS:
            self.assertIn(f"Command: [CMD, longhand-{program}, --health]", template)

    def test_compose_starts_the_emulator_alone_unless_the_whole_is_asked_for(self) -> None:
        services = look()["compose"]["services"]
        self.assertEqual([name for name, service in services.items() if "profiles" not in service], ["localstack"])
        binaries = Binaries()
        for program in PROGRAMS:
            service = services[program]
            self.assertTrue((LOCALSTACK / service["build"]["context"] / service["build"]["dockerfile"]).exists())
            self.assertTrue(service["read_only"])
            help_text = subprocess.run(
                [binaries.path(f"longhand-{program}"), "--help"], check=True, capture_output=True, text=True
            ).stdout
            known = set(re.findall(r"^  ([A-Z_]+)  ", help_text, re.MULTILINE))
            required = set(re.findall(r"^  ([A-Z_]+)  .*\[required\]$", help_text, re.MULTILINE))
            given = {name for name in service["environment"] if not name.startswith("AWS_")}
            self.assertEqual(given - known, set())
            self.assertEqual(required - given, set())


if __name__ == "__main__":
    unittest.main()
