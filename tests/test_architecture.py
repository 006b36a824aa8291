"""The directions of the imports, as docs/ARCHITECTURE.md draws them."""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kilonet

PACKAGE = Path(kilonet.__file__).parent
CORE = {
    "allocator",
    "augment",
    "budget",
    "calibration",
    "cuda_graph",
    "datasets",
    "dropout",
    "engine",
    "engines",
    "environment",
    "errors",
    "evaluation",
    "extras",
    "files",
    "idx",
    "image_folders",
    "layers",
    "model",
    "native",
    "network",
    "notes",
    "operations",
    "placement",
    "preprocess",
    "printed",
    "progress",
    "reading",
    "recipe",
    "runs",
    "statistics",
    "subject",
    "tables",
    "teachers",
    "torch_engine",
    "train",
}
# What may join core and leaves: the command line, and loading whatever can classify.
COMMAND_LINE = {
    "__main__",
    "calibrating",
    "cli",
    "finding",
    "flags",
    "gathering",
    "loading",
    "predicting",
    "reporting",
    "scoring",
    "sessions",
    "shipping",
    "showing",
    "sources",
    "sweeping",
}
LEAVES = {"card", "compare", "corruptions", "rate_finder", "report", "serve", "ship", "sweep", "tracking"}
# A leaf may stand on another, which knows nothing of it.
STANDS_ON = {"serve": {"ship"}}
WITHOUT_TORCH = (
    "errors",
    "operations",
    "layers",
    "placement",
    "recipe",
    "budget",
    "statistics",
    "files",
    "idx",
    "flags",
    "shipping",
    "showing",
    "sources",
    "cli",
)
HEAVY = {"torch", "safetensors", "scipy", "PIL", "tqdm"}
# What the core may import beside Python's own library.
ALLOWED = {"PIL", "filelock", "numpy", "platformdirs", "pydantic", "safetensors", "scipy", "tomli_w", "torch", "tqdm"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """Return the module, or the folder, that a file is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.Module, *, deferred: bool) -> Iterator[str]:
    """Name the modules that are imported: with the module, and also inside functions if `deferred`."""
    for node in ast.walk(tree) if deferred else at_import(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            yield node.module
            # `from kilonet import train` imports a module too.
            yield from (f"kilonet.{alias.name}" for alias in node.names if node.module == "kilonet")


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (below for other in node.orelse for below in (other, *at_import(other)))
            continue
        yield node
        yield from at_import(node)


def rooms_imported(path: Path, *, deferred: bool = True) -> set[str]:
    names = (name.split(".") for name in imported(ast.parse(path.read_text(encoding="utf-8")), deferred=deferred))
    return {parts[1] for parts in names if parts[0] == "kilonet" and len(parts) > 1} & set(map(room, FILES))


def outside(path: Path, *, deferred: bool) -> set[str]:
    return {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")), deferred=deferred)}


def test_every_room_of_the_core_is_there() -> None:
    assert set(map(room, FILES)) == CORE | COMMAND_LINE | LEAVES | {"__init__"}


def test_there_are_no_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        if path != PACKAGE / "__init__.py":
            graph.setdefault(room(path), set()).update(rooms_imported(path) - {room(path)})
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", [path for path in FILES if room(path) in CORE], ids=lambda path: path.name)
def test_the_core_imports_no_leaf(path: Path) -> None:
    assert rooms_imported(path) <= CORE


@pytest.mark.parametrize("path", [path for path in FILES if room(path) in CORE], ids=lambda path: path.name)
def test_the_core_imports_little_from_outside(path: Path) -> None:
    assert outside(path, deferred=True) - sys.stdlib_module_names - {"kilonet"} <= ALLOWED


def test_a_leaf_imports_only_the_core() -> None:
    for path in FILES:
        if room(path) not in CORE | COMMAND_LINE | {"__init__"}:
            assert rooms_imported(path) <= CORE | {room(path)} | STANDS_ON.get(room(path), set()), path


def test_only_the_command_line_joins_the_leaves() -> None:
    for path in FILES:
        if room(path) in COMMAND_LINE:
            continue
        assert not rooms_imported(path) & COMMAND_LINE or room(path) == "__init__", path


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_help_need_not_wait_for_torch(name: str) -> None:
    """Follow the imports that happen when a module is imported."""
    seen, todo = set(), {name}
    while todo:
        current = todo.pop()
        seen.add(current)
        path = PACKAGE / f"{current}.py"
        path = path if path.exists() else PACKAGE / current / "__init__.py"
        assert not outside(path, deferred=False) & HEAVY, current
        todo |= rooms_imported(path, deferred=False) - seen


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_is_longer_than_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_runs_code_from_data(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\bpickle\b|(?<!safetensors\.)torch\.load\(|(?<![.\w])(eval|exec)\(", text)
