#!/usr/bin/env python3
"""The parts of the documents that are generated from the code: calls, errors, attempts and settings.

  python3 localstack/documents.py            updates them
  python3 localstack/documents.py --check    exits with 1 if they are stale

Sources: api/openapi.json, the comments of two enums in shared/src, and --help of the two programs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable

from provision import ROOT, Binaries

METHODS = ("get", "post", "delete")


def item(text: str) -> str:
    return textwrap.fill(f"- {text}", 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def calls() -> str:
    description = json.loads((ROOT / "api" / "openapi.json").read_text())
    found = [(path, method, one) for path, ways in description["paths"].items() for method, one in ways.items()]
    # By tag, as /docs shows them.
    tags = [tag["name"] for tag in description["tags"]]
    found.sort(key=lambda call: (tags.index(call[2]["tags"][0]), call[0], METHODS.index(call[1])))
    rows = [f"| `{method.upper()} {path}` | {one['summary']} |" for path, method, one in found]
    return "\n".join(["| call | purpose |", "|---|---|", *rows])


def errors() -> str:
    """Each answer of the description has an example for each of its codes."""
    description = json.loads((ROOT / "api" / "openapi.json").read_text())
    found = {}
    for ways in description["paths"].values():
        for call in ways.values():
            for answer in call["responses"].values():
                problem = answer.get("content", {}).get("application/problem+json", {})
                for code, example in problem.get("examples", {}).items():
                    found[code] = (example["value"]["status"], example["value"]["detail"], example["summary"])
    order = description["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    lines = []
    for code in order:
        status, meaning, remedy = found[code]
        lines.append(item(f"`{code}` ({status}): {meaning}. *{sentence(remedy)}*"))
    return "\n".join(lines)


def variants(file: str, enum: str) -> list[tuple[str, list[str]]]:
    """The variants of a Rust enum by their names in JSON, with the paragraphs of their comments."""
    text = (ROOT / file).read_text().partition(f"pub enum {enum} {{\n")[2].partition("\n}")[0]
    found = []
    for comment, name in re.findall(r"((?:    ///.*\n)+)(?:    #.*\n)*    (\w+),", text):
        lines = [line.strip().removeprefix("///").strip() for line in comment.splitlines()]
        paragraphs = [" ".join(one.split("\n")) for one in "\n".join(lines).split("\n\n")]
        found.append((re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper(), paragraphs))
    return found


def chunk_errors() -> str:
    return "\n".join(
        item(f"`{code}`: {meaning} *{remedy}*")
        for code, (meaning, remedy) in variants("shared/src/domain/job.rs", "ErrorCode")
    )


def variants_with_meanings(file: str, enum: str) -> str:
    return "\n".join(item(f"`{code}`: {meaning}") for code, [meaning] in variants(file, enum))


def outcomes() -> str:
    return variants_with_meanings("shared/src/domain/attempt.rs", "AttemptOutcome")


def warnings() -> str:
    return variants_with_meanings("shared/src/domain/transcription.rs", "WarningCode")


def program_settings(program: str) -> dict[str, tuple[str, str]]:
    """By name: what the setting is and its default, from --help."""
    command = [Binaries().path(program), "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: (about, default) for name, about, default in re.findall(r"(?m)^  ([A-Z_]+)  +(.*) \[(.*)\]$", text)}


def settings() -> str:
    programs = {"api": program_settings("longhand-api"), "worker": program_settings("longhand-worker")}
    lines = []
    for name in dict.fromkeys([*programs["api"], *programs["worker"]]):
        readers = [program for program, known in programs.items() if name in known]
        about, default = programs[readers[0]][name]
        if name == "LONGHAND_WORKER_NAME":
            default = "host-pid"
        value = {"required": "required", "none": "no default"}.get(default, f"default `{default}`")
        lines.append(item(f"`{name}` ({' and '.join(readers)}, {value}): {about}."))
    return "\n".join(lines)


REGIONS: dict[str, dict[str, Callable[[], str]]] = {
    "docs/api.md": {
        "calls": calls,
        "errors": errors,
        "chunk errors": chunk_errors,
        "outcomes": outcomes,
        "warnings": warnings,
    },
    "docs/configuration.md": {"settings": settings},
}


def updated(file: str) -> str:
    page = (ROOT / file).read_text()
    for name, make in REGIONS[file].items():
        mark = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(mark.findall(page)) != 1:
            raise SystemExit(f"{file} must have the marks of {name!r} once")
        text = make()
        page = mark.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)
    return page


def main(arguments: list[str]) -> int:
    stale = [file for file in REGIONS if updated(file) != (ROOT / file).read_text()]
    if arguments == ["--check"]:
        for file in stale:
            print(f"{file} is stale: run python3 localstack/documents.py", file=sys.stderr)
        return 1 if stale else 0
    for file in stale:
        (ROOT / file).write_text(updated(file))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
