"""What every figure is made of: the picture, its colours and letters, its rows and axes, its words, and its files.

A Picture, or the Axes in it, shows itself once at the end of a notebook's cell, as an image with its alt text, whatever
backend is set; nothing here uses pyplot or changes matplotlib's settings. Class names are shown as they are (`$x$` is
no formula), the long ones wrapped or cut in the middle. What the figures show is up to plots.

Source: colours of Okabe and Ito 2008, "Color Universal Design".
"""

from __future__ import annotations

import base64
import io
import math
import re
import textwrap
import threading
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, cast

import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "|||", "+++", "---", "**", "OO")
INK, MIDDLE, PALE, FAILED, LIMIT = "#22303c", "#5f6f7f", "#c9d1d9", "#9a9a9a", "#a4133c"  # none is a class's
GRID = "#e3e7eb"
# What these and white become on a dark page:
DARK = {INK: "#e4eaef", MIDDLE: "#a3b1bd", PALE: "#5b6b78", LIMIT: "#ff8fa8", GRID: "#2e3a44", "#ffffff": "#12181d"}
SHARP = 192  # dots an inch: two a CSS pixel
ROOMY = 13  # rows that have room for two lines: 12 classes and the failed ones

STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MIDDLE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a class may be called $x$
    "svg.fonttype": "path",
    "svg.hashsalt": "nbhelpers",
}
# DejaVu Sans comes with matplotlib and has Latin, Greek, Cyrillic, Arabic and Hebrew; the others where installed.
OTHER_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Microsoft YaHei", "PingFang SC", "Hiragino Sans"),
    *("Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai"),
)
_STYLED = threading.RLock()  # matplotlib's settings are one for all threads, and a widget's thread draws too
_BIDI_CONTROLS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F])


class Picture(Figure):
    """A matplotlib Figure that knows its alt text and shows itself in a notebook."""

    alt: str = ""

    def draw(self, renderer: Any) -> None:
        with style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # shown as a box; nothing else to do
            super().draw(renderer)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # JupyterLab takes the HTML, whose alt text it keeps; what shows no HTML takes the image.
        png = png_bytes(self, dpi=SHARP)
        shown = {"text/html": _img(self, png), "image/png": png, "text/plain": self.alt}
        return shown, {"image/png": {"width": _css_width(self), "alt": self.alt}}


class PictureAxes(Axes):
    """Axes that show their whole figure in a notebook."""

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return _picture(self)._repr_mimebundle_(**options)


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, for a `with` block or, as `@style()`, for a function; the settings are untouched."""
    with _STYLED, matplotlib.style.context([{**STYLE, "font.family": _fonts()}], after_reset=True):
        yield


@cache
def _fonts() -> list[str]:
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in OTHER_FONTS if name in installed)]


def new_picture(width: float, height: float, *, columns: int = 1, **grid: Any) -> tuple[Picture, list[Axes]]:
    """An empty picture of so many inches, and its Axes from left to right."""
    fig = Picture(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(fig)  # measures text without a screen
    axes = fig.subplots(1, columns, squeeze=False, subplot_kw={"axes_class": PictureAxes}, **grid)
    return fig, list(axes[0])


def class_looks(classes: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and hatch of each class, by its place in the config; 77 classes have 77 looks."""
    k = len(COLOURS)
    return {name: (COLOURS[i % k], HATCHES[i // k % len(HATCHES)]) for i, name in enumerate(classes)}


# -------------------------------------------------------------------------------------------------------- files


def png_bytes(drawn: Figure | Axes, *, dpi: int = 96) -> bytes:
    """The picture as a PNG file's content, with its alt text in it."""
    file = io.BytesIO()
    with style():
        _picture(drawn).savefig(
            file, format="png", dpi=dpi, metadata={"Description": alt_text(drawn), "Software": None}
        )
    return file.getvalue()


def alt_text(drawn: Figure | Axes) -> str:
    """What the picture shows, in words."""
    return _picture(drawn).alt


def as_html(drawn: Figure | Axes) -> str:
    """The picture as an HTML element with its alt text, sharp, and no wider than its place."""
    return _img(drawn, png_bytes(drawn, dpi=SHARP))


def save_figure(drawn: Figure | Axes, folder: str | Path, name: str) -> list[Path]:
    """Writes `name`.png (150 dpi) and `name`.svg, the same bytes for the same picture, each with the alt text in it.

    Args:
        drawn: what a function of plots returned.
        folder: made if it is not there.
        name: the files' name without a suffix; also the SVG's title.
    Returns:
        The two paths, PNG first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path, content in zip(paths, (png_bytes(drawn, dpi=150), svg_bytes(drawn, name)), strict=True):
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        part.replace(path)
    return paths


def svg_bytes(drawn: Figure | Axes, title: str) -> bytes:
    """The picture as an SVG file's content, with title and alt text in it; the same bytes for the same picture."""
    file = io.BytesIO()
    with style():
        _picture(drawn).savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    head, start, body = file.getvalue().decode("utf-8").partition("<svg ")
    attributes, end, content = body.partition(">")
    words = f"\n <title>{escape(title)}</title>\n <desc>{escape(alt_text(drawn))}</desc>"
    return f'{head}{start}role="img" {attributes}{end}{words}{content}'.encode()


def for_dark_page(svg: bytes) -> bytes | None:
    """The SVG in light ink on dark paper, where each class keeps its colour; None for one that holds pixels."""
    if b"<image" in svg:
        return None
    text = re.sub("|".join(DARK), lambda found: DARK[found[0].lower()], svg.decode("utf-8"), flags=re.IGNORECASE)
    return text.encode()


def _img(drawn: Figure | Axes, png: bytes) -> str:
    content, alt = base64.b64encode(png).decode("ascii"), escape(alt_text(drawn))
    style = "max-width: 100%; height: auto"
    return f'<img src="data:image/png;base64,{content}" alt="{alt}" width="{_css_width(drawn)}" style="{style}">'


def _css_width(drawn: Figure | Axes) -> int:
    return round(_picture(drawn).get_figwidth() * 96)


def _picture(drawn: Figure | Axes) -> Picture:
    return cast(Picture, drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn)


# ------------------------------------------------------------------------------------------------- rows and axes


def rows_height(rows: int) -> float:
    """Inches: many classes make a tall figure, not small letters."""
    return 1.25 + max(rows, 1) * (0.46 if rows < ROOMY else 0.3)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """One row for each name, from top to bottom."""
    k = len(names)
    width, lines = (26, 2) if k <= ROOMY else (34, 1)
    ax.set_yticks(range(k), fit_names(names, width, lines), fontsize=10)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(k - 0.5 if k else 0.5, -0.5)


def class_bars(ax: Axes, classes: Sequence[str], counts: Sequence[float]) -> None:
    """A bar for each class, in its look."""
    for y, look in enumerate(class_looks(classes).values()):
        ax.barh(y, counts[y], height=0.62, **fill(*look))


def fill(colour: str, hatch: str) -> dict[str, Any]:
    """A class's look, as a bar takes it; outlined, since yellow on white paper is next to nothing in grey."""
    lines = MIDDLE if colour == COLOURS[6] else "white"  # white lines do not show on yellow
    return {"facecolor": colour, "hatch": hatch, "hatchcolor": lines, "edgecolor": INK, "linewidth": 0.8}


def beside(ax: Axes, x: float, y: float, text: str, rows: int) -> None:
    """Words right of a point, in a picture of so many rows."""
    size = 10 if rows <= ROOMY else 9
    ax.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=size)


def separate_rows(ax: Axes, rows: int) -> None:
    """Thin lines between rows, where one row holds several markers."""
    ax.hlines(np.arange(rows - 1) + 0.5, 0, 1, transform=ax.get_yaxis_transform(), color=GRID, linewidth=0.8)


def counts_axis(ax: Axes, counts: Iterable[float], label: str) -> None:
    """Whole numbers from 0 to the largest."""
    ax.set_xlim(0, max([1.0, *counts]) * 1.02)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.grid(axis="x")
    ax.set_xlabel(label)


def shares_axis(ax: Axes, rows: int, label: str) -> None:
    """0 to 100 %, with room for markers at both ends."""
    ax.set_xlim(-0.03, 1.03)
    percents(ax.xaxis)
    ax.grid(axis="x")
    separate_rows(ax, rows)
    ax.set_xlabel(label)


def percents(axis: Axis) -> None:
    """0.5 is written 50 %."""
    axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


# -------------------------------------------------------------------------------------------------------- words


def fit_names(names: Sequence[str], width: int, lines: int) -> list[str]:
    """The names as labels of at most `lines` lines of `width` columns; two that are cut alike get their number."""
    short = [fit_name(name, width, lines) for name in names]
    for places in _alike(short):
        start = _shared_start([names[i] for i in places])
        for i in places:
            short[i] = fit_name(f"… {names[i].removeprefix(start)}", width, lines)
    for places in _alike(short):
        for i in places:
            short[i] = f"{fit_name(names[i], width - 5, lines)} [{i + 1}]"
    return short


def _alike(texts: Sequence[str]) -> list[list[int]]:
    places: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        places.setdefault(text, []).append(i)
    return [group for group in places.values() if len(group) > 1]


def _shared_start(names: Sequence[str]) -> str:
    """The whole words that all the names begin with."""
    first, last = min(names), max(names)  # what these two share, all share
    at = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first.rfind(" ", 0, at) + 1]


def fit_name(name: str, width: int, lines: int) -> str:
    """The name in at most `lines` lines of `width` columns: wrapped, or else cut in the middle."""
    text = clean(name) or "(empty name)"
    wide = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
    width = max(int(width * len(text) / wide), 4)
    if " " not in text and len(text) <= width * lines:
        step = math.ceil(len(text) / math.ceil(len(text) / width))
        return "\n".join(text[at : at + step] for at in range(0, len(text), step))
    wrapped = textwrap.wrap(text, width)
    if len(wrapped) <= lines:
        return "\n".join(wrapped)
    if lines > 1:  # the first words, and the last ones
        last = textwrap.wrap(text[::-1], width - 2)[0][::-1]
        return "\n".join([*wrapped[: lines - 1], f"… {last}"])
    tail = width // 3
    return f"{text[: width - tail - 1].rstrip()}…{text[-tail:].lstrip()}"


def clean(text: str) -> str:
    """Without what no font and no XML file can hold: control characters, lone surrogates, direction overrides."""
    shown = text.translate(_BIDI_CONTROLS)
    broken = ("Cs", "Cn")
    kept = ("\ufffd" if unicodedata.category(c) in broken else " " if c < " " or c == "\x7f" else c for c in shown)
    return " ".join("".join(kept).split())


def listed(pairs: Iterable[tuple[str, str]]) -> str:
    """Alt text of names and what is told of each: the first twelve, and how many more there are."""
    told = [f"{clean(name)} {text}" for name, text in pairs]
    more = f"; and {len(told) - 12} more" if len(told) > 12 else ""
    return ("; ".join(told[:12]) or "no class") + more + "."


def rounded_percent(share: float) -> str:
    """Whole percents; a dash where there is nothing to tell."""
    if math.isnan(share):
        return "–"
    if 0 < share <= 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= share < 1 else f"{share * 100:.0f} %"


def exact_percent(share: float) -> str:
    """With one decimal; a dash where there is nothing to tell."""
    if math.isnan(share):
        return "–"
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{share * 100:.1f} %"
