#!/usr/bin/env python3
"""Generates parts of the documents from the code: calls, errors, outcomes of attempts, warnings and settings.

Sources: api/openapi.json, the comments of three enums in shared/src, and --help of the two programs, which it builds.
A test fails if a document is stale.
"""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from collections.abc import Callable

from provision import ROOT, Binaries, local_directory
from services import run_main

METHODS = ("get", "post", "delete")


def item(text: str) -> str:
    return textwrap.fill(f"- {text}", 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def calls() -> str:
    description = json.loads((ROOT / "api" / "openapi.json").read_text())
    found = [(path, method, one) for path, ways in description["paths"].items() for method, one in ways.items()]
    # In the order of the tags, as /docs shows them.
    tags = [tag["name"] for tag in description["tags"]]
    found.sort(key=lambda call: (tags.index(call[2]["tags"][0]), call[0], METHODS.index(call[1])))
    rows = [f"| `{method.upper()} {path}` | {one['summary']} |" for path, method, one in found]
    return "\n".join(["| call | purpose |", "|---|---|", *rows])


def errors() -> str:
    description = json.loads((ROOT / "api" / "openapi.json").read_text())
    examples = {}
    for ways in description["paths"].values():
        for call in ways.values():
            for answer in call["responses"].values():
                examples |= answer.get("content", {}).get("application/problem+json", {}).get("examples", {})
    lines = []
    for code in description["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]:
        value, remedy = examples[code]["value"], examples[code]["summary"]
        lines.append(item(f"`{code}` ({value['status']}): {value['detail']}. *{remedy[0].upper()}{remedy[1:]}.*"))
    return "\n".join(lines)


def variants(file: str, enum: str) -> list[tuple[str, list[str]]]:
    """The variants of a Rust enum: the name in JSON, and the paragraphs of the comment."""
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
        for code, (meaning, remedy) in variants("shared/src/domain/verdict.rs", "ErrorCode")
    )


def variants_with_meanings(file: str, enum: str) -> str:
    return "\n".join(item(f"`{code}`: {meaning}") for code, [meaning] in variants(file, enum))


def outcomes() -> str:
    return variants_with_meanings("shared/src/domain/attempt.rs", "AttemptOutcome")


def warnings() -> str:
    return variants_with_meanings("shared/src/domain/transcription.rs", "WarningCode")


def program_settings(program: str) -> dict[str, tuple[str, str]]:
    """By name: the description and the default, from --help."""
    command = [Binaries().path(program), "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: (about, default) for name, about, default in re.findall(r"(?m)^  ([A-Z_]+)  +(.*) \[(.*)\]$", text)}


def settings() -> str:
    programs = {"api": program_settings("longhand-api"), "worker": program_settings("longhand-worker")}
    lines = []
    for name in dict.fromkeys([*programs["api"], *programs["worker"]]):
        readers = [program for program, known in programs.items() if name in known]
        about = programs[readers[0]][name][0]
        values = {}
        for program in readers:
            default = "host-pid" if name == "LONGHAND_WORKER_NAME" else programs[program][name][1]
            value = default if default in ("required", "no default") else f"default `{default}`"
            values.setdefault(value, []).append(program)
        who = "; ".join(f"{' and '.join(same)}, {value}" for value, same in values.items())
        lines.append(item(f"`{name}` ({who}): {about}."))
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


def main() -> None:
    Binaries().build(["longhand-api", "longhand-worker"], local_directory() / "logs" / "build.log")
    for file in REGIONS:
        (ROOT / file).write_text(updated(file))


if __name__ == "__main__":
    run_main(main)
