"""What deploys Longhand, as it stands in files: parameter files, Dockerfiles, compose.yaml. Nothing is started."""

from __future__ import annotations

import re
import subprocess
import tomllib
import unittest
from pathlib import Path

from support import INFRA, LOCALSTACK, ROOT, programs

# By the path that support makes.
# isort: split
import yaml

from environment import load

PROGRAMS = ("api", "worker")
# With continued lines joined; and each stage by its name.
DOCKERFILE = (INFRA / "Dockerfile").read_text().replace("\\\n", " ")
STAGES = {stage.split(" AS ")[1].split("\n")[0]: stage for stage in re.split(r"(?m)^(?=FROM )", DOCKERFILE)[1:]}
COMPOSE = yaml.safe_load((LOCALSTACK / "compose.yaml").read_text())


def pins(file: Path) -> set[str]:
    return {line for line in file.read_text().splitlines() if line and not line.startswith("#")}


class DeploymentFiles(unittest.TestCase):
    def test_presigned_uploads_cannot_copy_objects(self) -> None:
        policy = (ROOT / "infra" / "data.yaml").read_text().split("AudioBucketPolicy:")[1].split("Outputs:")[0]
        statement = next(part for part in policy.split("- Sid: ") if part.startswith("NoCopyByPresignedUpload"))
        for rule in (
            "Effect: Deny",
            'Principal: "*"',
            "Action: s3:PutObject",
            "Resource: !Sub ${AudioBucket.Arn}/*",
            'StringEquals: { "s3:authType": REST-QUERY-STRING }',
            '"Null": { "s3:x-amz-copy-source": "false" }',
        ):
            self.assertIn(rule, statement)

    def test_every_environment_in_the_repository_can_be_deployed(self) -> None:
        faults = {file.stem: load(file.stem)[1] for file in (INFRA / "env").glob("*.env")}
        self.assertLessEqual({"example", "staging", "production"}, faults.keys())
        self.assertEqual({env: found for env, found in faults.items() if found}, {})

    def test_scripts_have_the_packages_that_were_tested(self) -> None:
        needed, tested = pins(ROOT / "infra/deployment/requirements.txt"), pins(LOCALSTACK / "requirements.txt")
        self.assertEqual(needed - tested, set())

    def test_images_are_built_from_what_is_there_and_sent(self) -> None:
        rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        self.assertEqual(rules[0], "*", "nothing is sent but what is named")
        sent = {line[1:] for line in rules if line.startswith("!")}
        members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
        # Cargo wants the manifest of every member, whatever it builds.
        self.assertLessEqual(set(members), sent)
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        sources = {source for line in copied for source in line.split()}
        self.assertLessEqual({"Cargo.toml", "Cargo.lock", "shared", *PROGRAMS}, sources)
        for source in sources:
            self.assertTrue((ROOT / source).exists(), source)
            self.assertIn(source, sent)
        for member in members:
            self.assertTrue(any(member == s or member.startswith(f"{s}/") for s in sources), member)
        self.assertNotIn(".git", sources)

    def test_images_run_the_program_that_they_build_and_not_as_root(self) -> None:
        profile = re.search(r"--profile (\S+)", DOCKERFILE)[1]
        cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
        self.assertIn(profile, cargo["profile"])
        for program in PROGRAMS:
            name = tomllib.loads((ROOT / program / "Cargo.toml").read_text())["package"]["name"]
            self.assertIn(f"--package {name} ", DOCKERFILE)
            stage = STAGES[program]
            self.assertTrue(stage.startswith("FROM base AS "))
            self.assertIn(f"COPY --from=build /usr/local/bin/{name} /usr/local/bin/{name}\n", stage)
            self.assertIn(f'ENTRYPOINT ["{name}"]', stage)
            self.assertRegex(stage, rf'HEALTHCHECK .* CMD \["{name}", "--health"\]')
        self.assertIn("--locked", DOCKERFILE)
        user = re.search(r"^USER (\d+):(\d+)$", STAGES["base"], re.MULTILINE)
        self.assertTrue(user and "0" not in user.groups(), "a user by number, so that ECS can tell who it is")
        # Built on the very Debian whose C library it runs with.
        debian = {"trixie": "13", "bookworm": "12"}[re.search(r"rust:\S+-(\w+) AS", DOCKERFILE)[1]]
        self.assertTrue(STAGES["base"].startswith(f"FROM gcr.io/distroless/cc-debian{debian}:nonroot AS "))
        # An image for another processor is compiled here, not run there: what runs runs on the builder's own.
        for name, stage in STAGES.items():
            if re.search(r"^RUN ", stage, re.MULTILINE):
                self.assertTrue(stage.startswith("FROM --platform=$BUILDPLATFORM "), name)
        self.assertIn('--target "$target"', DOCKERFILE)
        toolchain = re.search(r"ARG RUST=(\d+)\.(\d+)", DOCKERFILE)
        oldest = cargo["workspace"]["package"]["rust-version"]
        self.assertGreaterEqual(tuple(map(int, toolchain.groups())), tuple(map(int, oldest.split(".")[:2])))

    def test_the_worker_may_write_where_it_keeps_audio(self) -> None:
        """A folder of its own user, which a volume of ECS takes owner and rights from."""
        user = re.search(r"^USER (\S+)$", STAGES["base"], re.MULTILINE)[1]
        self.assertRegex(DOCKERFILE, rf"install -d -o {user.replace(':', ' -g ')} /root/files/spool")
        self.assertIn(f"COPY --from=build --chown={user} /root/files/ /\n", STAGES["worker"])
        self.assertRegex(STAGES["worker"], r"(?m)^ENV TMPDIR=/spool$")
        self.assertIn('VOLUME ["/spool"]', STAGES["worker"])
        self.assertIn("ContainerPath: /spool,", (ROOT / "infra" / "service.yaml").read_text())
        self.assertEqual(COMPOSE["services"]["worker"]["tmpfs"], ["/spool"])

    def test_the_service_checks_the_health_that_the_images_have(self) -> None:
        template = (ROOT / "infra" / "service.yaml").read_text()
        for program in PROGRAMS:
            self.assertIn(f"Command: [CMD, longhand-{program}, --health]", template)

    def test_compose_starts_the_emulator_alone_unless_the_whole_is_asked_for(self) -> None:
        services = COMPOSE["services"]
        self.assertEqual([name for name, service in services.items() if "profiles" not in service], ["localstack"])
        for program in PROGRAMS:
            service = services[program]
            build = service["build"]
            self.assertTrue((LOCALSTACK / build["context"] / build["dockerfile"]).exists())
            self.assertEqual(build["target"], program)
            self.assertTrue(service["read_only"])
            help_text = subprocess.run(
                [programs() / f"longhand-{program}", "--help"], check=True, capture_output=True, text=True
            ).stdout
            known = set(re.findall(r"^  ([A-Z_]+)  ", help_text, re.MULTILINE))
            required = set(re.findall(r"^  ([A-Z_]+)  .*\[required\]$", help_text, re.MULTILINE))
            given = {name for name in service["environment"] if not name.startswith("AWS_")}
            self.assertEqual(given - known, set())
            self.assertEqual(required - given, set())


if __name__ == "__main__":
    unittest.main()
