"""The packages that Longhand was asked to be built with: each is a direct dependency of a crate that ships, and is used
there outside of tests."""

import json
import re
import subprocess
import unittest
from pathlib import Path

from support import ROOT

SHIPPED = ["longhand", "longhand-api", "longhand-shared", "longhand-worker"]
PACKAGES = [
    "aws-config",
    "aws-sdk-dynamodb",
    "aws-sdk-sqs",
    "lambda_http",
    "serde",
    "serde_dynamo",
    "tokio",
    "tokio-retry",
    "tracing",
    "uuid",
]
# A module of unit tests ends its file here.
TESTS = re.compile(r"^#\[cfg\(test\)\]\s+mod \w+ \{.*", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)


def metadata() -> list[dict]:
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [package for package in json.loads(done.stdout)["packages"] if package["name"] in SHIPPED]


def code(package: dict) -> str:
    """All of a crate's source that is compiled into what ships."""
    source = Path(package["manifest_path"]).parent / "src"
    return "\n".join(COMMENT.sub("", TESTS.sub("", path.read_text())) for path in sorted(source.rglob("*.rs")))


class Packages(unittest.TestCase):
    def test_each_is_a_dependency_of_what_ships_and_used_there(self):
        packages = metadata()
        self.assertEqual(sorted(package["name"] for package in packages), SHIPPED)
        direct = {
            package["name"]: {it["name"] for it in package["dependencies"] if it["kind"] is None and not it["optional"]}
            for package in packages
        }
        sources = {package["name"]: code(package) for package in packages}
        for wanted in PACKAGES:
            use = re.compile(rf"\b{wanted.replace('-', '_')}::")
            users = [name for name in SHIPPED if wanted in direct[name] and use.search(sources[name])]
            with self.subTest(wanted):
                self.assertTrue(users, f"{wanted} is in use in none of {', '.join(SHIPPED)}")

    def test_a_use_in_a_test_or_a_comment_does_not_count(self):
        source = "// serde::x\nuse uuid::Uuid;\n#[cfg(test)]\nmod tests {\n    use tokio::time;\n}\n"
        self.assertEqual(COMMENT.sub("", TESTS.sub("", source)).strip(), "use uuid::Uuid;")


if __name__ == "__main__":
    unittest.main()
