"""Runs the notebook docs/own_images.ipynb and writes it again with what its cells print and show.

    python benchmarks/notebook.py

Cells run in one namespace, in a new folder. What the last expression of a cell gives is shown as Jupyter shows it: a
picture as a picture, anything else as text.
"""

import ast
import base64
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "own_images.ipynb"


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook with the outputs that its code cells have in the current folder."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cells.append(cell | {"execution_count": count, "outputs": _run("".join(cell["source"]), namespace, count)})
        else:
            cells.append(cell)
    return notebook | {"cells": cells}


def _run(source: str, namespace: dict[str, Any], count: int) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    name, shown = f"cell {count}", None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, name, "exec"), namespace)  # noqa: S102 - the notebook is a part of this repository
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), name, "eval"), namespace)  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if shown is not None:
        data: dict[str, Any] = {"text/plain": [repr(shown)]}
        if (as_png := getattr(shown, "_repr_png_", None)) is not None:
            data = {"image/png": base64.b64encode(as_png()).decode(), "text/plain": ["a picture"]}
        outputs.append({"output_type": "execute_result", "execution_count": count, "data": data, "metadata": {}})
    return outputs


def main() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        notebook = executed(notebook)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
