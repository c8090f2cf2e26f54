"""A table that is filled cell by cell, and can be interrupted and continued: JSON, text, figure."""
import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from machinery.cli import Parser
from machinery.files import prepare, write


class Results:
    """The cells of one table in `path`, a JSON file that is written again after each cell.

    Raises: OSError if the file cannot be written or is no such file; through `parser`, exit 2, if
    it holds cells of other settings, which must not be mixed with these.
    """

    def __init__(self, path: Path, settings: dict, parser: Parser):
        self.path, self.settings, self.cells = path, settings, {}
        prepare(path)
        if path.exists():
            try:
                before = json.loads(path.read_bytes())
                self.cells, theirs = dict(before["cells"]), dict(before["settings"])
            except (ValueError, KeyError, TypeError) as error:
                raise OSError(f"{path} holds no results: delete it, and start anew") from error
            if theirs != settings:
                other = [name for name in {**theirs, **settings}
                         if theirs.get(name) != settings.get(name)]
                parser.error(f"{path} holds results of other settings ({', '.join(other)}): choose "
                             "another --out, or delete it")

    def cell(self, name: str, compute: Callable[..., dict], *args, **named) -> dict:
        """The cell of that name: what the file holds, or else compute(*args, **named), now kept."""
        if name not in self.cells:
            self.cells[name] = compute(*args, **named)
            content = {"settings": self.settings, "torch": torch.__version__, "cells": self.cells}
            write(self.path, (json.dumps(content, indent=1) + "\n").encode())
            print(f"{name}: done", flush=True)
        return self.cells[name]

    def text(self, head: list[str], rows: list[list]) -> None:
        """Writes a Markdown table beside the JSON file, and prints it."""
        lines = [head, ["---"] * len(head), *rows]
        table = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"
        write(self.path.with_suffix(".md"), table.encode())
        print(table)

    def figure(self, figure: Figure, name: str = "") -> None:
        """Writes a PNG beside the JSON file."""
        save_figure(self.path.with_name(f"{name or self.path.stem}.png"), figure)


def save_figure(path: Path, figure: Figure) -> None:
    """The figure as a PNG file, written whole. Raises: OSError if it cannot be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write(path, buffer.getvalue())
    print(path)
