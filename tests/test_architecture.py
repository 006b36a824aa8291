"""The order of the rooms, as docs/ARCHITECTURE.md has it, and what may be imported before it is needed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kilonet
from kilonet.cli.main import COMMANDS

PACKAGE = Path(kilonet.__file__).parent
# Each imports only rooms that come after it.
ROOMS = (
    "cli",
    "serve",
    "report",
    "sweep",
    "export",
    "sklearn",
    "training",
    "engines",
    "evaluation",
    "models",
    "recipe",
    "data",
    "network",
    "utils",
)
# Each takes a fifth of a second or more to import: help and bad flags need not wait for it.
SLOW = {"torch", "safetensors", "scipy", "PIL", "matplotlib", "sklearn"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """Return the room, or the file at the top, that a file is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path, *, deferred: bool = True) -> set[str]:
    """Name the modules that a file imports, also inside functions if `deferred`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree) if deferred else at_import(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            names.add(node.module)
            # `from kilonet.export import manifest` imports a module too.
            names.update(f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("kilonet"))
    return names


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (below for other in node.orelse for below in (other, *at_import(other)))
            continue
        yield node
        yield from at_import(node)


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("kilonet.")}


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {room(path) for path in FILES if path.parent != PACKAGE}
    assert rooms | {"recipe", "sklearn"} == set(ROOMS)


@pytest.mark.parametrize("path", [path for path in FILES if room(path) in ROOMS], ids=lambda path: path.stem)
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    below = ROOMS[ROOMS.index(room(path)) :]
    assert not rooms_imported(path) & set(ROOMS) - set(below)


def file_of(module: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def packages(module: str) -> Iterator[str]:
    """Yield a module and the packages that it is in, which are imported with it."""
    parts = module.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def test_help_need_not_wait_for_torch() -> None:
    """Follow the imports that happen when the command line and each of its commands is imported."""
    seen: set[str] = set()
    # The commands too, which are imported by their names, when they are called.
    todo = {"kilonet.cli", *(f"kilonet.cli.{path.stem}" for path in (PACKAGE / "cli").glob("*.py"))}
    assert {f"kilonet.cli.{name.replace('-', '_')}" for name in COMMANDS} < todo
    while todo:
        module = todo.pop()
        seen.add(module)
        path = file_of(module)
        if path is None:
            continue
        names = imported(path, deferred=False)
        assert not {name.split(".")[0] for name in names} & SLOW, module
        todo |= {one for name in names if name.startswith("kilonet.") for one in packages(name)} - seen


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_runs_code_from_data(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\bpickle\b|(?<!safetensors\.)torch\.load\(|(?<![.\w])(eval|exec)\(", text)
