"""What the documents name exists: headings, files, targets of make, alarms' sections, settings. Nothing is started."""

from __future__ import annotations

import re
import subprocess
import unittest
from pathlib import Path

from support import ROOT

# By the path that support makes.
# isort: split
from provision import Binaries

DOCUMENTS = sorted(ROOT.glob("*.md"))
FOLDERS = "api|cli|infra|localstack|shared|worker"


def prose(document: Path) -> str:
    """Without what stands in fences: commands have comments, which are no headings."""
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
                other = ROOT / path if path else document
                with self.subTest(document=document.name, link=target):
                    self.assertTrue(other.exists())
                    if anchor:
                        self.assertIn(anchor, anchors(other))

    def test_every_alarm_names_a_section_of_the_runbook(self) -> None:
        named = re.findall(r"OPERATIONS\.md#([\w-]+)", (ROOT / "infra" / "alarms.yaml").read_text())
        self.assertGreater(len(named), 10)
        self.assertLessEqual(set(named), anchors(ROOT / "OPERATIONS.md"))

    def test_files_that_are_named_are_there(self) -> None:
        for document in DOCUMENTS:
            for path in re.findall(rf"`((?:{FOLDERS})/[\w./*-]+)", document.read_text()):
                with self.subTest(document=document.name, path=path):
                    self.assertTrue(any(ROOT.glob(path)) or re.search(r"/env/(ENV|staging-2)\.env$", path))

    def test_targets_of_make_that_are_named_are_there(self) -> None:
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        for document in DOCUMENTS:
            named = re.findall(r"(?:`|^|&& |\$ )(?:[A-Z_]+=\S+ )*make ([a-z]+)", document.read_text(), re.MULTILINE)
            self.assertLessEqual(set(named), targets, document.name)

    def test_the_table_of_settings_is_that_of_the_programs(self) -> None:
        section = (ROOT / "README.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| (`.+?`) \| (x?) ?\| (x?) ?\|", section, re.MULTILINE)
        binaries = Binaries()
        for column, program in enumerate(("longhand-api", "longhand-worker"), start=1):
            said = {name for row in rows if row[column] for name in re.findall(r"`(\w+)`", row[0])}
            command = [binaries.path(program), "--help"]
            help_text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            with self.subTest(program):
                self.assertEqual(said, set(re.findall(r"^  ([A-Z_]+)  ", help_text, re.MULTILINE)))


if __name__ == "__main__":
    unittest.main()
