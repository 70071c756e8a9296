"""What the documents name exists: headings, files, targets of make, alarms' sections. Generated parts are current."""

from __future__ import annotations

import re
import unittest
from pathlib import Path

from support import ROOT

# By the path that support makes.
# isort: split
import documents

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# All of their commands run in test_examples.
RUN = ("README.md", "docs/api.md", "docs/cli.md")
FOLDERS = "api|cli|infra|localstack|shared|worker"


def prose(document: Path) -> str:
    """The text without fenced blocks: a comment in a command is not a heading."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", document.read_text())


def anchors(document: Path) -> set[str]:
    """As the forge makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Documents(unittest.TestCase):
    def test_links_lead_to_files_and_headings(self) -> None:
        for document in DOCUMENTS:
            for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
                if re.match(r"[a-z]+:", target):
                    continue
                path, _, anchor = target.partition("#")
                other = document.parent / path if path else document
                with self.subTest(document=document.name, link=target):
                    self.assertTrue(other.exists())
                    if anchor:
                        self.assertIn(anchor, anchors(other))

    def test_every_alarm_names_a_section_of_the_runbook(self) -> None:
        named = re.findall(r"docs/operations\.md#([\w-]+)", (ROOT / "infra" / "alarms.yaml").read_text())
        self.assertGreater(len(named), 10)
        self.assertLessEqual(set(named), anchors(ROOT / "docs" / "operations.md"))

    def test_files_that_are_named_are_there(self) -> None:
        for document in DOCUMENTS:
            for path in re.findall(rf"`((?:{FOLDERS})/[\w./*-]+)", document.read_text()):
                with self.subTest(document=document.name, path=path):
                    self.assertTrue(any(ROOT.glob(path)) or re.search(r"/env/(ENV|staging-2)\.env$", path))

    def test_tests_that_are_named_are_there(self) -> None:
        text = (ROOT / "docs" / "compatibility.md").read_text()
        named = re.findall(r"`(\w+)::(?:tests::)?(\w+)`", text)
        self.assertGreater(len(named), 15)
        for module, test in named:
            with self.subTest(test=f"{module}::{test}"):
                sources = "".join(path.read_text() for path in (ROOT / "worker").glob(f"**/{module}.rs"))
                self.assertIn(f"fn {test}()", sources)

    def test_targets_of_make_that_are_named_are_there(self) -> None:
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        for document in DOCUMENTS:
            named = re.findall(r"(?:`|^|&& |\$ )(?:[A-Z_]+=\S+ )*make ([a-z]+)", document.read_text(), re.MULTILINE)
            self.assertLessEqual(set(named), targets, document.name)

    def test_generated_parts_are_current(self) -> None:
        for file in documents.REGIONS:
            with self.subTest(file):
                page = (ROOT / file).read_text()
                self.assertEqual(documents.updated(file), page, "stale: python3 localstack/documents.py")

    def test_every_setting_of_help_is_in_the_generated_list(self) -> None:
        listed = set(re.findall(r"^- `(\w+)`", documents.settings(), re.MULTILINE))
        for program in ("longhand-api", "longhand-worker"):
            known = documents.program_settings(program)
            self.assertGreater(len(known), 20)
            self.assertLessEqual(known.keys(), listed)

    def test_commands_of_the_documents_are_run_or_marked(self) -> None:
        """test_examples runs those of RUN; every other document says what was not run."""
        for document in DOCUMENTS:
            text = document.read_text()
            if "```sh" in text and document.relative_to(ROOT).as_posix() not in RUN:
                with self.subTest(document=document.name):
                    self.assertRegex(" ".join(text.split()), r"(?i)not run|no test runs|run by hand")


if __name__ == "__main__":
    unittest.main()
