"""Imports point one way. All of them count: lazy ones inside functions, and those for type checking alone."""

from __future__ import annotations

import ast
import graphlib
import importlib
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

import spikefuse

ROOT = "spikefuse"
PACKAGE = Path(spikefuse.__file__).parent

PAPER = ("paper", "cli")
CORE = ("_load", "_renamed", "functional", "init", "layers", "online", "ops", "packed", "surrogate")
"""The parts that every model needs."""

AROUND = ("audio", "data", "distributed", "interop", "monitor", "reference")


def name_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join((ROOT, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def read(package: Path) -> dict[str, ast.Module]:
    """Every module of a package by its dotted name."""
    return {name_of(path, package): ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}


def imports(module: str, is_package: bool, tree: ast.Module, modules: Iterable[str]) -> set[str]:
    """The modules of the package that one of them imports; a name counts as the module that it is taken from."""
    known, found = set(modules), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package]
                source = ".".join([*base, source] if source else base)
            found |= {f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    return (found & known) - {module}


def graph(package: Path) -> dict[str, set[str]]:
    trees = read(package)
    packages = {name_of(path, package) for path in package.rglob("__init__.py")}
    return {name: imports(name, name in packages, tree, trees) for name, tree in trees.items()}


def part(module: str) -> str:
    """The part of the library that a module belongs to: a name at the top level, or the root package itself."""
    return module.split(".")[1] if "." in module else ROOT


def folder(module: str) -> str:
    """As :func:`part`, but each folder of the paper counts for itself."""
    names = module.split(".")
    return ".".join(names[1:3]) if names[1:2] == ["paper"] else part(module)


def upward(edges: Mapping[str, set[str]], below: Callable[[str], bool], above: Callable[[str], bool]) -> list[str]:
    return [f"{a} -> {b}" for a, targets in edges.items() for b in targets if below(part(a)) and above(part(b))]


def cycle(edges: Mapping[str, set[str]]) -> list[str]:
    """Names that import each other in a ring; empty where there are none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


EDGES = graph(PACKAGE)


def test_the_library_imports_neither_the_paper_nor_the_command_line() -> None:
    assert upward(EDGES, lambda name: name not in PAPER, lambda name: name in PAPER) == []


def test_the_core_imports_nothing_around_it() -> None:
    assert upward(EDGES, lambda name: name in CORE, lambda name: name in AROUND) == []


def test_the_paper_does_not_import_the_command_line() -> None:
    assert upward(EDGES, lambda name: name == "paper", lambda name: name == "cli") == []


def test_io_imports_nothing_else_of_the_package() -> None:
    assert upward(EDGES, lambda name: name == "_io", lambda name: name != "_io") == []


def test_every_part_has_its_place() -> None:
    assert {part(name) for name in EDGES} <= {ROOT, "_io", *PAPER, *CORE, *AROUND}


def test_no_modules_import_each_other() -> None:
    assert cycle(EDGES) == []


def test_no_folders_import_each_other() -> None:
    folders: dict[str, set[str]] = {}
    for module, targets in EDGES.items():
        own = folder(module)
        folders.setdefault(own, set()).update(other for other in map(folder, targets) if other != own)
    assert cycle(folders) == []


@pytest.mark.parametrize(
    ("package", "name"),
    [
        (spikefuse.functional, "lif"),
        (spikefuse.functional, "lif_linear"),
        (spikefuse.functional, "spike_linear"),
        (spikefuse.reference, "lif"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_function_of_its_modules_name_is_what_the_package_shows(package: types.ModuleType, name: str) -> None:
    module = importlib.import_module(f"{package.__name__}.{name}")
    assert isinstance(module, types.ModuleType)
    assert getattr(package, name) is getattr(module, name)


@pytest.mark.parametrize(
    "line",
    [
        "from spikefuse.paper import metrics",
        "from spikefuse.paper.metrics import mse",
        "import spikefuse.paper.metrics",
        "from .paper import metrics",
        "def later():\n    from spikefuse.paper import metrics",
        "if TYPE_CHECKING:\n    from spikefuse.paper.metrics import mse",
        "import importlib\nimportlib.import_module('spikefuse.paper.metrics')",
    ],
)
def test_every_form_of_import_is_seen(line: str, tmp_path: Path) -> None:
    package = tmp_path / ROOT
    (package / "paper").mkdir(parents=True)
    for name in ("__init__.py", "paper/__init__.py", "paper/metrics.py"):
        (package / name).touch()
    (package / "ops.py").write_text(line)
    edges = graph(package)
    assert edges["spikefuse.ops"] == {"spikefuse.paper.metrics"}
    assert upward(edges, lambda name: name in CORE, lambda name: name in PAPER) == [
        "spikefuse.ops -> spikefuse.paper.metrics"
    ]
    (package / "paper" / "metrics.py").write_text("from .. import ops")
    assert set(cycle(graph(package))) == {"spikefuse.ops", "spikefuse.paper.metrics"}
