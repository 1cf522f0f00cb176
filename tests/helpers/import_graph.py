"""Who imports whom, read from the sources: `python tests/helpers/import_graph.py` prints the graph of the rooms.

Imports inside functions count as well. Only the standard library is used, and nothing of the project is imported.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("dassl", "clip", "shapes_world", "datasets", "trainers", "runner", "deploy", "experiments", "tools")
"""Packages, the lowest first: each may import those before it."""

PROGRAMS = ("train", "predict", "export", "parse_test_res", "prometar", "setup")
"""Scripts at the top: they may import every room, and no room imports them."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Module name -> file, of the rooms and the programs."""
    files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
    files += [root / f"{program}.py" for program in PROGRAMS]
    names = (".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in files)
    return dict(zip(names, files, strict=True))


def imported_names(module: str, path: Path) -> Iterator[str]:
    """Dotted names that a module imports; `from a import b` gives a.b. Type checking's imports do not count."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    skipped = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def imports(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module -> the project's modules that it imports itself."""
    graph: dict[str, set[str]] = {name: set() for name in files}
    for module, path in files.items():
        for name in imported_names(module, path):
            while name and name not in files:  # a class or function: the module that has it
                name = name.rpartition(".")[0]
            if name and name != module:
                graph[module].add(name)
    return graph


def room(module: str) -> str:
    return module.partition(".")[0]


def arrows(graph: Mapping[str, set[str]]) -> dict[tuple[str, str], list[str]]:
    """(room, imported room) -> "module -> module" for each such import."""
    found = defaultdict(list)
    for module, targets in sorted(graph.items()):
        for target in sorted(targets):
            if room(module) != room(target):
                found[room(module), room(target)].append(f"{module} -> {target}")
    return dict(found)


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports of a higher room, or of a program."""
    floor = {name: number for number, name in enumerate((*ROOMS, *PROGRAMS))}
    lines = (
        line
        for (importer, imported), pairs in arrows(graph).items()
        if floor[imported] > floor[importer]
        for line in pairs
    )
    return sorted(lines)


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other, the first again at the end; empty if there is no circle."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def main() -> None:
    files = modules()
    graph = imports(files)
    for name in (*PROGRAMS, *reversed(ROOMS)):
        own = [path for module, path in files.items() if room(module) == name]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in own)
        targets = {target: len(pairs) for (importer, target), pairs in arrows(graph).items() if importer == name}
        print(f"{name:15} {len(own):3} files {lines:6,} lines   imports {', '.join(targets) or 'nothing'}")
    print(f"upward: {upward(graph) or 'none'}\ncircle: {circle(graph) or 'none'}")


if __name__ == "__main__":
    main()
