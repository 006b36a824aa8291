"""The parser of a command's flags, the flags that several commands share, and a recipe's keys as flags."""

import argparse
import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from kilonet.utils.errors import KilonetError

MODEL = "a packaged model, a run folder or a model file"
MODEL_OR_EXPORT = "a packaged model, a run folder, a model file or an exported folder"
DATA = "'mnist', 'fashion-mnist', or a folder or file of images (docs/DATA.md)"

_LONGEST = 300
"""Characters of an error about a flag, which quotes its value."""
_SINGLE: Mapping[type, dict[str, Any]] = {
    bool: {"action": argparse.BooleanOptionalAction},
    int: {"type": int, "metavar": "N"},
    float: {"type": float, "metavar": "X"},
    str: {"type": str, "metavar": "TEXT"},
}
"""argparse's options for a flag with one value."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are KilonetErrors of one line. Flags cannot be abbreviated."""

    def __init__(self, command: str, summary: str) -> None:
        super().__init__(prog=f"kilonet {command}", description=f"{summary}.", allow_abbrev=False)
        self.command = command

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse a command's arguments.

        Raises:
            KilonetError: an unknown flag, a missing or surplus argument, a value of another type, or a flag given
                twice that keeps one value.
            SystemExit: help was asked for, and printed.
        """
        known = {option: action for action in self._actions for option in action.option_strings}
        given = set[str]()
        # Before argparse does, which would report a missing argument instead of the unknown flag, and take the last of
        # two values without a word.
        for argument in takewhile(lambda argument: argument != "--", arguments):
            flag = argument.partition("=")[0]
            if flag.startswith("--") and " " not in flag and flag not in known:
                raise KilonetError(f"{self.command} has no flag '{flag}'{did_you_mean(flag, known)}")
            if flag in given and isinstance(known[flag], argparse._StoreAction):
                raise KilonetError(f"{self.command}: {flag} is given twice")
            if flag in known:
                given.add(flag)
        flags, surplus = self.parse_known_args(arguments)
        if surplus:
            raise KilonetError(f"{self.command}: unexpected argument '{surplus[0]}'")
        return flags

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with the usage before it exits."""
        text = message.removeprefix("argument ")
        raise KilonetError(f"{self.command}: {text if len(text) <= _LONGEST else f'{text[: _LONGEST - 3]}...'}")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return the end of an error message that suggests the choice most like a word, or '' if none is like it."""
    close = difflib.get_close_matches(word, list(choices), 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def named(text: str) -> str:
    """Return a name of data or a model, as a type of an argument.

    An empty one, such as that of a shell's variable that is not set, would be the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return text


def named_path(text: str) -> Path:
    """Return a path, as a type of an argument; see `named`."""
    return Path(named(text))


def check_label_pattern(flags: argparse.Namespace) -> None:
    """Check a --label-pattern that is given, also where the data turn out to need none.

    Raises:
        KilonetError: there is no --data, or it is no pattern.
    """
    if flags.label_pattern is None:
        return
    if flags.data is None:
        raise KilonetError("--label-pattern reads the labels of --data from the names of its files; name the data")
    from kilonet.data.formats.file_names import check_pattern

    check_pattern(flags.label_pattern)


def add_json_flag(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def add_label_pattern_flag(parser: Parser) -> None:
    parser.add_argument(
        "--label-pattern",
        metavar="TEXT",
        help="with --data: a regular expression whose group is the label in the name of an image file",
    )


def add_measurement_flags(parser: Parser) -> None:
    """Add the flags that name what was printed of a model beside its run folder."""
    parser.add_argument(
        "--results",
        type=named_path,
        metavar="FILE",
        help="what 'kilonet train --json' printed, for a model whose run folder is not at hand",
    )
    parser.add_argument(
        "--corruptions",
        type=named_path,
        metavar="FILE",
        help="what 'kilonet evaluate --corruptions --json' printed (default: corruptions.json in the run folder)",
    )


def add_recipe_flags(parser: Parser) -> None:
    """Add a flag for every key of a recipe, in a group for each of its sections. A flag that is not given is None."""
    from kilonet.recipe import SECTIONS

    for name, section in SECTIONS.items():
        summary = (section.__doc__ or "").partition("\n")[0]
        group = parser.add_argument_group(f"recipe, [{name}]", f"{summary} Defaults are the recipe's.")
        for key, field in section.model_fields.items():
            text = (field.description or "").replace("%", "%%")
            group.add_argument(f"--{key.replace('_', '-')}", help=text, **_reading(field.annotation))


def recipe_changes(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe keys that were given as flags."""
    from kilonet.recipe import SECTIONS

    values = {key: getattr(flags, key) for section in SECTIONS.values() for key in section.model_fields}
    return {
        key: None if value is _NONE else tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if value is not None
    }


def _reading(annotation: Any) -> dict[str, Any]:
    """Return argparse's options for a recipe key of this type. The recipe itself checks the ranges of numbers."""
    if get_origin(annotation) is Annotated:
        return _reading(get_args(annotation)[0])
    if annotation in _SINGLE:
        return _SINGLE[annotation]
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return {"choices": arguments}
    if get_origin(annotation) is tuple:
        return {**_reading(arguments[0]), "nargs": "*" if Ellipsis in arguments else len(arguments)}
    # What is left is an optional value, such as `int | None`, or `float | tuple[float, ...]`, one value or several. Of
    # `tuple[float, ...] | Literal["balanced"]`, numbers or a word, the recipe checks the word.
    one, *several = (argument for argument in arguments if argument is not NoneType)
    if NoneType in arguments and not several and one is not str:
        return _or_none(_reading(one))
    words = [word for argument in several if get_origin(argument) is Literal for word in get_args(argument)]
    reading = {"type": _word_or_number, "metavar": "|".join([*words, "X"])} if words else _reading(one)
    return reading | ({"nargs": "+"} if several else {})


_NONE = object()
"""What 'none' means for a key that may have no value. A text may be 'none' itself."""


def _or_none(reading: dict[str, Any]) -> dict[str, Any]:
    """Return argparse's options for a value that may also be the word 'none'."""
    kind, choices = reading.get("type", str), reading.get("choices")
    shown = "|".join([*choices, "none"]) if choices else f"{reading['metavar']}|none"

    def read(text: str) -> Any:
        if text == "none":
            return _NONE
        if choices and text not in choices:
            words = ", ".join(map(repr, [*choices, "none"]))
            raise argparse.ArgumentTypeError(f"invalid choice: '{text}' (choose from {words})")
        return kind(text)

    # For argparse's own message on a text that is no number.
    read.__name__ = kind.__name__
    return {"type": read, "metavar": shown}


def _word_or_number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
