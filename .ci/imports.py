"""Fail when modules of the package import each other, even in a ring, or when an import runs up.

Every import counts: those in functions and those for type checkers too. The layers are those of
pyproject.toml.

    python .ci/imports.py [FOLDER]     the folder that holds happyhorse_async and pyproject.toml
"""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

PACKAGE = "happyhorse_async"


def modules_of(folder: Path) -> dict[str, Path]:
    """Return the package's modules by their dotted names."""
    found = {}
    for path in sorted((folder / PACKAGE).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a module imports."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{source}.{alias.name}"
                found.add(target if target in known else source)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {target for target in found if target in known and target != name}


def ring_of(graph: dict[str, set[str]]) -> list[str]:
    """Return one ring of imports; [] when there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if ring := visit(target, [*way, name]):
                return ring
        done.add(name)
        return []

    return next((ring for name in sorted(graph) if (ring := visit(name, []))), [])


def layers_of(folder: Path) -> dict[str, int]:
    """Return the layer of each folder and file right below the package; 0 is the top."""
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    names = [layer.replace(":", "|").split("|") for layer in layers]
    return {name.strip(): number for number, row in enumerate(names) for name in row}


def main(folder: Path) -> int:
    """Print what is wrong; return how much is."""
    known = modules_of(folder)
    graph = {name: imports_of(name, path, known) for name, path in known.items()}
    # The package's own page imports by name when it is asked, and every import passes through it.
    graph[PACKAGE] = set()
    wrong = []
    layers = layers_of(folder)
    for name, targets in graph.items():
        for target in sorted(targets - {PACKAGE}):
            here, there = (
                (layers[module.split(".")[1]] for module in (name, target))
                if name != PACKAGE
                else (0, 0)
            )
            if there < here:
                wrong.append(f"{name} imports {target}, which stands above it")
    ring = ring_of({name: targets - {PACKAGE} for name, targets in graph.items()})
    if ring:
        wrong.append("a ring of imports: " + " -> ".join(ring))
    print("\n".join(wrong) or f"{len(graph)} modules: no import runs up, no ring")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent), 1))
