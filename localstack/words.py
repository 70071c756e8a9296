#!/usr/bin/env python3
"""Checks the words and the lengths of lines: banned words, document lines over 120 columns, a README over 150 lines.

  python3 localstack/words.py            the whole repository, as `make check` does
  python3 localstack/words.py FILE...    these files

The words are banned in documents, comments, messages and identifiers (`is_told`, `isTold`, `IS_TOLD`).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, README_LINES = 120, 150
SUFFIXES = {".rs", ".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", ".in", ".txt", ".env", ".js", ".css"}

# Files that quote the words, and copies that do not change.
SKIPPED = (
    "localstack/words.py",
    "localstack/tests/test_words.py",
    "localstack/tests/fixtures/",
    "infra/tests/fixtures/",
    "localstack/samples/",
    "Cargo.lock",
    "api/src/console/www/vendor/",
)

WORDS = ["told", "untold", "heard", "unheard", "said", "anew", "patience", "bury", "buried", "burial", "whoever"]
# A line break with its comment marker counts as a space.
GAP = r"(?:[ \t]|\n[ \t]*(?:///?!?|//!|#|\*)?)+"
PHRASES = {
    "is none": rf"\b(?:is|are|was|were){GAP}none\b",
    "is no ..., for is not a ...": (
        rf"(?<!\bthere )(?<!\bThere )\b(?:is|are|was|were){GAP}no{GAP}"
        r"(?!(?:longer|more|less|fewer|later|earlier|larger|smaller|older|newer)\b)[A-Za-z]\w+"
    ),
    "what is to be": rf"\b[Ww]hat{GAP}(?:is|are|was|were){GAP}to{GAP}be\b",
    "under way": rf"\b[Uu]nder{GAP}?way\b",
}


def one_word(word: str) -> str:
    """As a word, or as a part of an identifier in any case."""
    title, upper = word.capitalize(), word.upper()
    return rf"(?<![A-Za-z])(?:{word}|{title}|{upper})(?![a-z])|(?<=[a-z]){title}(?![a-z])"


BANNED = [*((word, re.compile(one_word(word))) for word in WORDS), *((k, re.compile(v)) for k, v in PHRASES.items())]


def faults(name: str, text: str) -> list[str]:
    """The faults of one file."""
    found = []
    for word, pattern in BANNED:
        for match in pattern.finditer(text):
            around = re.search(r"\w*$", text[: match.start()])[0] + re.match(r"\w*", text[match.start() :])[0]
            line = text.count("\n", 0, match.start()) + 1
            found.append((line, f"{name}:{line}: banned: {word} ({around})"))
    if name.endswith(".md"):
        for line, content in enumerate(text.splitlines(), start=1):
            if len(content) > COLUMNS:
                found.append((line, f"{name}:{line}: {len(content)} columns, {COLUMNS} are allowed"))
        if name == "README.md" and (lines := text.count("\n")) > README_LINES:
            found.append((lines, f"{name}: {lines} lines, {README_LINES} are allowed"))
    return [fault for _, fault in sorted(found)]


def is_checked(name: str) -> bool:
    text = Path(name).suffix in SUFFIXES or Path(name).name in {"Makefile", "Dockerfile"}
    return text and (name.endswith("/README.md") or not name.startswith(SKIPPED))


def main(arguments: list[str]) -> int:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = arguments or [name for name in listed.splitlines() if is_checked(name) and (ROOT / name).is_file()]
    found = [fault for name in names for fault in faults(name, (ROOT / name).read_text(encoding="utf-8"))]
    print("\n".join(found) or f"{len(names)} files: no banned word, no long line", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
