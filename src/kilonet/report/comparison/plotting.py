"""Drawing a comparison by matplotlib into a file."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.files import check_replaceable

DRAWING_MARK = "Matplotlib"
"""What matplotlib writes into PNG, SVG, PDF and PostScript files; into others it writes no name."""


def save_drawing(path: Path, flag: str, draw: Callable[[Callable[..., Any]], Any]) -> None:
    """Draw into a file, whose ending decides the format.

    Args:
        path: the file.
        flag: what the user gave to have it drawn, which an error names.
        draw: returns a figure, which it makes by the class that it is given, matplotlib's Figure.

    Raises:
        KilonetError: the extra `plot` is not installed, the format is unknown, the file cannot be written, or there is
            one that holds no drawing of matplotlib's.
    """
    check_replaceable(path, DRAWING_MARK, flag)
    with needed_from("plot", flag):
        # Importing matplotlib takes half a second, which other commands should not wait for.
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    # A name may hold dollar signs.
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        try:
            draw(Figure).savefig(path)
        except (OSError, ValueError) as error:
            raise KilonetError(f"{path} cannot be drawn: {str(error).splitlines()[0]}") from None
