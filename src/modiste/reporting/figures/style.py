"""Style of all figures: colours, fonts, and SVG files that follow the reader's dark mode.

Colours are the colour-blind-safe palette of Okabe and Ito (2008); no meaning depends on colour alone.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiste.utils.atomic import atomic, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.7  # inches per panel: two fit next to each other on a page
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*P"
INK, FAINT, LINE = "#1D2329", "#5D6974", "#DDE2E7"
DARK = {
    INK: "#E3E7EB",
    FAINT: "#9AA6B1",
    LINE: "#343C44",
    "#0072B2": "#4DA6DE",
    "#56B4E9": "#B5E8FF",
    "#000000": "#FFFFFF",
}
"""Light-mode colour → its dark-mode colour."""
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "modiste",  # the same figure is the same file
    "text.parse_math": False,  # a product's name may hold a $
}


@contextmanager
def new_figure(width: float, height: float, path: Path) -> Iterator[Figure]:
    """Context manager for a figure (inches) that is written to ``path`` on exit, as SVG or PNG by suffix.

    Uses no pyplot, so no global state.
    """
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.figure import Figure

    with rc_context():
        rcdefaults()  # an untrusted matplotlibrc in the working directory could start LaTeX
        rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        if path.suffix != ".svg":
            with atomic(path) as unfinished:
                figure.savefig(unfinished, format=path.suffix[1:], dpi=150, facecolor="white")
            return
        text = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # text stays text: the page's fonts draw it
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        write_text(path, adaptive(text.getvalue()))


def file_word(text: str) -> str:
    """Sanitise text for a figure's file name.

    >>> file_word("t2i/mrr"), file_word("../x")
    ('t2i_mrr', '___x')
    """
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def head(figure: Figure, title: str, columns: int = 0) -> None:
    """Add the figure's title and, if ``columns`` > 0, a legend in that number of columns below it."""
    if columns:
        font = {"size": 11, "weight": "bold"}
        figure.legend(loc="outside upper left", ncols=columns, title=title, alignment="left", title_fontproperties=font)
    else:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")


def adaptive(svg: str) -> str:
    """Give an SVG the page's fonts and a dark mode.

    A style sheet overrides matplotlib's inline colours, so that viewers without media queries show the light ones.
    """
    svg = svg.replace("'DejaVu Sans'", FONTS)
    for colour in DARK:
        svg = svg.replace(colour.lower(), colour)
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark} !important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    style = (
        f"<style>@media (prefers-color-scheme: dark){{{rules} text:not([style*='fill:']){{fill:{DARK[INK]}}}}}</style>"
    )
    head, tag, rest = svg.partition("<defs>")
    return f"{head}{style}{tag}{rest}"
