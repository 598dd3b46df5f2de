"""The layers drawn in `p2pstream/__init__.py`, held against the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import p2pstream

ROOT = Path(p2pstream.__file__).parent


def _drawn_layers() -> dict[str, int]:
    """The table at the end of the package's docstring: room -> height."""
    assert p2pstream.__doc__ is not None
    layers = {}
    for line in p2pstream.__doc__.split("holds this):")[1].splitlines():
        words = line.replace(",", " ").split()
        if words and words[0].isdigit():
            for room in words[1:]:
                if room != "pure":
                    layers[room] = int(words[0])
    return layers


LAYERS = _drawn_layers()
# What a pure layer may not touch: I/O, clocks, randomness, the event loop.
IMPURE = {"trio", "socket", "ssl", "time", "random", "secrets", "logging", "select", "subprocess"}
# `config` reads the operator's files: that is its job, and all of its I/O.
PURE = {"policy", "wire", "snapshot"}


def _modules() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import that is executed."""
    typing_only: set[int] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            typing_only |= {child.lineno for child in ast.walk(node) if isinstance(child, ast.stmt)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node.lineno not in typing_only:
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.lineno not in typing_only:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = ROOT.parent.joinpath(*node.module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module, node.lineno


def test_every_room_is_drawn() -> None:
    rooms = {_room(path) for path in _modules()} - {"__main__"}
    assert rooms == set(LAYERS)


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    room = _room(path)
    if room == "__main__":
        return
    wrong = []
    for module, line in _imports(path):
        parts = module.split(".")
        if parts[0] != "p2pstream" or len(parts) == 1:
            continue
        other = parts[1]
        if other != room and LAYERS[other] >= LAYERS[room]:
            wrong.append(f"{path.name}:{line} imports {module}")
    assert not wrong


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_layers_touch_nothing_impure(path: Path) -> None:
    if _room(path) in PURE:
        impure = [
            f"{module} (line {line})"
            for module, line in _imports(path)
            if module.split(".")[0] in IMPURE
        ]
        assert not impure


def test_no_import_cycle() -> None:
    """Modules import each other in one direction only."""
    graph: dict[str, set[str]] = {}
    for path in _modules():
        name = ".".join(("p2pstream", *path.relative_to(ROOT).with_suffix("").parts))
        graph[name.removesuffix(".__init__")] = {
            module for module, _ in _imports(path) if module.startswith("p2pstream.")
        }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
