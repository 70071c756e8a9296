"""Fails if source files of a crate import each other in a circle. The unit tests of a file do not count."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A path, or a group of paths after their common part.
PATH = re.compile(r"\b(crate|super|self)(?=::)((?:::\w+)*)(?:::\{([^;]*)\};)?")
Module = tuple[str, ...]


def module(path: Path) -> Module:
    parts = path.with_suffix("").parts
    return parts[:-1] if parts[-1] in ("lib", "mod") else parts


def imports(text: str, here: Module) -> set[Module]:
    code = re.sub(r"//.*", "", re.split(r"#\[cfg\(test\)\]\n(?:pub\(\w+\) )?mod ", text)[0])
    found = set()
    for root, path, group in PATH.findall(code):
        base = {"crate": (), "self": here, "super": here[:-1]}[root]
        steps = path.split("::")[1:]
        while steps[:1] == ["super"]:
            base, steps = base[:-1], steps[1:]
        # A name with a capital is an item of the module before the group.
        names = re.findall(r"(?<![:\w])\w+(?:::\w+)*", group) if group else [""]
        found |= {(*base, *steps, *(name.split("::") if name[:1].islower() else ())) for name in names}
    # A path may also begin with the name of a module that the file declares. A re-export is not a use.
    declared = re.findall(r"\bmod (\w+);", code)
    code = re.sub(r"\bpub(\(\w+\))? use [^;]*;", "", code)
    return found | {(*here, name) for name in declared if re.search(rf"(?<![:\w]){name}::", code)}


def circles(source: Path) -> list[set[str]]:
    files = {module(path.relative_to(source)): path for path in source.rglob("*.rs") if path.name != "main.rs"}
    edges = {}
    for here, path in files.items():
        # A path belongs to the file of its longest module.
        paths = imports(path.read_text(), here)
        owners = {next((path[:n] for n in range(len(path), -1, -1) if path[:n] in files), here) for path in paths}
        edges[here] = owners - {here}
    reached = {}
    for start in files:
        reached[start], todo = set(), [start]
        while todo:
            new = edges[todo.pop()] - reached[start]
            reached[start] |= new
            todo += new
    rings = [{str(files[other]) for other in reached[here] if here in reached[other]} for here in files]
    return [ring for index, ring in enumerate(rings) if ring and ring not in rings[:index]]


crates = [path.parent for path in sorted([*ROOT.glob("*/Cargo.toml"), *ROOT.glob("localstack/*/Cargo.toml")])]
found = [ring for crate in crates for ring in circles(crate / "src")]
for ring in found:
    print("These files import each other:", *sorted(ring), sep="\n  ")
sys.exit(1 if found else 0)
