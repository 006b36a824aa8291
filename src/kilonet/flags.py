"""From functions to subcommands: the flags of the command line are read off annotations by tyro.

A handler is a function; its parameters are its flags. Whatever of a recipe may be changed on the command line comes in
one parameter of type `RecipeFlags`, a model made from the sections of `Recipe`, so that no flag is written twice.
"""

import contextlib
import inspect
import io
import json as json_module
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import BaseModel, create_model

from kilonet.recipe import SECTIONS
from kilonet.utils.errors import KilonetError


class RecipeFlags(BaseModel):
    """Recipe keys given on the command line; None (False for a switch) stands for a key that was not given."""

    def given(self) -> dict[str, Any]:
        """Return the keys that were given."""
        return {name: value for name, value in self if value is not None and value is not False}


def recipe_flags() -> type[RecipeFlags]:
    """Return the model of all recipe keys, read off the recipe's sections."""
    fields: dict[str, Any] = {}
    for section in SECTIONS.values():
        for name, field in section.model_fields.items():
            hint = tyro.conf.arg(help=field.description, help_behavior_hint="(default: the recipe's)")
            # Ranges are the recipe's to check, which names key and file; here only the type counts.
            kind: Any = field.annotation
            fields[name] = (Annotated[bool, hint], False) if kind is bool else (Annotated[kind | None, hint], None)
    return create_model("Keys", __base__=RecipeFlags, **fields)


if TYPE_CHECKING:
    Keys = RecipeFlags
else:
    Keys = recipe_flags()


def print_answer(json: bool, as_json: Callable[[], Any], as_text: Callable[[], str]) -> None:
    """Print what a command found, as one JSON object or as text."""
    print(json_module.dumps(as_json()) if json else as_text())


Handler = Callable[..., int]


def dispatch(program: str, handlers: Mapping[str, Handler], arguments: Sequence[str]) -> int:
    """Parse the arguments, call the handler they name, and return its exit status.

    Raises:
        KilonetError: the arguments do not fit; one line.
        SystemExit: help was asked for, and printed.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(program, handlers))
        return 0
    name, *rest = arguments
    if name not in handlers:
        raise KilonetError(f"no command '{name}'; the commands are: {', '.join(handlers)}")
    return int(_parse(f"{program} {name}", handlers[name], rest))


def _overview(program: str, handlers: Mapping[str, Handler]) -> str:
    width = max(map(len, handlers))
    lines = [f"  {name:<{width}}  {_summary(handler)}" for name, handler in handlers.items()]
    head = f"usage: {program} COMMAND ...\n\nTrains, proves and ships image classifiers of a few thousand parameters."
    return "\n".join([head, "", "commands:", *lines, "", f"'{program} COMMAND --help' tells a command's flags."])


def _summary(handler: Handler) -> str:
    return (handler.__doc__ or "").split("\n", 1)[0].rstrip(".")


def _parse(program: str, handler: Handler, arguments: Sequence[str]) -> Any:
    """Let tyro read the flags; what it would print of an error, a box of lines, becomes one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            call = tyro.cli(_deferred(handler), prog=program, args=arguments, config=_CONFIG)
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        raise KilonetError(_one_line(complaint.getvalue())) from None
    return call()


_CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)


def _deferred(handler: Handler) -> Callable[..., Callable[[], int]]:
    """Return a function with the handler's flags that returns the call, to be made when parsing is over."""

    def parsed(**flags: Any) -> Callable[[], int]:
        return lambda: handler(**flags)

    parsed.__doc__ = handler.__doc__
    parsed.__annotations__ = handler.__annotations__
    parsed.__signature__ = _signature(handler)  # type: ignore[attr-defined]
    return parsed


def _signature(handler: Handler) -> Any:
    return inspect.signature(handler)


def _one_line(box: str) -> str:
    """Return what a box of tyro's says below its heading and before its ruler; without UTF-8 the frame is of dashes."""
    _, *rows = [re.sub(r"\x1b\[[0-9;]*m", "", row).strip("│ ") for row in box.splitlines()]
    words: list[str] = []
    for row in rows:
        if not re.fullmatch(r"╰.*╯|[─-]{4,}", row):
            words.append(row)
        elif words:
            break
    return " ".join(" ".join(words).split())


Positional = Annotated[str, tyro.conf.Positional]
