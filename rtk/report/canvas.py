"""How pictures look, and how one becomes a file: size, fonts, colours, and the text for whoever does not see it."""

from __future__ import annotations

import importlib
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import files
from ..errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
CHARACTER = 0.09
"""Width of a character of a title in inches, at the most."""
BLUE, ORANGE = "#0072B2", "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart with every kind of colour vision (Okabe & Ito 2008); a shape goes with each, for prints in grey."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Picture:
    """A picture and the same in words.

    Attributes:
        figure: matplotlib's.
        text: what it shows, with every number, for readers who do not see it.
    """

    figure: Figure
    text: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = self.figure.get_size_inches() * DPI
        return round(width), round(height)

    def png(self) -> bytes:
        """The file, with `text` as its Description."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DPI, metadata={"Description": self.text})
        return buffer.getvalue()

    def write(self, path: Path) -> None:
        """Write the file in one step."""
        data = self.png()
        files.write(path, lambda file: file.write(data))


def figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of this size in inches; its parts are laid out when it is written.

    Raises:
        RequestError: the extra `plots` is not installed.
    """
    try:
        made: Figure = importlib.import_module("matplotlib.figure").Figure((width, height), layout="constrained")
    except ImportError as problem:
        said = f"Pictures need matplotlib, which cannot be imported ({problem})."
        raise RequestError(said, "pip install 'rtk[plots]'") from None
    made.suptitle(wrapped(title, width), fontsize=11)
    return made


def panels(figure: Figure, count: int, columns: int) -> list:
    """`count` axes in rows of `columns`, in the style of rtk."""
    with importlib.import_module("matplotlib").rc_context(STYLE):
        grid = figure.subplots(-(-count // columns), columns, sharey=True, squeeze=False)
    found = list(grid.flat)
    for unused in found[count:]:
        unused.remove()
    return found[:count]


def wrapped(text: str, inches: float) -> str:
    """A title in lines that fit into this width."""
    return "\n".join(textwrap.fill(line, max(20, int(inches / CHARACTER))) for line in text.split("\n"))


def plain(text: str) -> str:
    """A name as it is: between two dollar signs matplotlib would read a formula."""
    return text.replace("$", r"\$")


def span(values: Sequence[int]) -> str:
    """Counts as text: "200", or "16 to 200" where they differ."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
