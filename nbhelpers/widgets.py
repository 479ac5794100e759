"""Displays for the notebooks: a prompt, some texts, a small table.

Every text is escaped, and no `$` in it becomes a formula. Each display has a plain-text twin, and takes the colours of
the notebook's theme. What a person can click on is in modules of their own.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

import pandas as pd

from nbhelpers.widget_parts import IGNORED, OPEN

MISSING = "–"

_CELL = (
    "padding: 4px 8px; text-align: start; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere; "
    "border-bottom: 1px solid rgba(128, 128, 128, 0.4)"
)
_LONG = f"{_CELL}; min-width: 14rem"  # where that is wider than the window, one scrolls
_SHORT = _CELL.replace("pre-wrap", "pre")
_NUMBER = _CELL.replace("text-align: start", "text-align: right").replace("pre-wrap", "nowrap")
_FIGURES_HEAD = _NUMBER.replace("nowrap", "normal").replace("anywhere", "normal")  # breaks, but within no word
# Never makes what is around it wider than the window, and can be scrolled by keyboard.
_SCROLLING = '<div tabindex="0" role="group" aria-label="table" style="overflow-x: auto; contain: inline-size">'
_PRE = (
    "white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; color: inherit; background: transparent; "
    "margin: 2px 0 10px; padding: 6px 10px; border: 0; border-left: 3px solid rgba(128, 128, 128, 0.6)"
)


@dataclass(frozen=True)
class Shown:
    """Something to end a notebook's cell with: HTML for a browser, the same as plain text for everything else."""

    html: str
    plain: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.plain}

    def __repr__(self) -> str:
        return self.plain


def show_messages(messages: Sequence[Mapping[str, Any]]) -> Shown:
    """A prompt as the LLM gets it.

    Args:
        messages: each with role and content.
    """
    html, plain = [], []
    for message in messages:
        role, content = str(message.get("role", "")), str(message.get("content", ""))
        html.append(f'<div><b>{escape(role)}</b></div><pre dir="auto" style="{_PRE}">{escape(content)}</pre>')
        plain.append(f"--- {role} ---\n{content}")
    if not messages:
        html, plain = ["<i>no messages</i>"], ["no messages"]
    return Shown(f"{OPEN}{''.join(html)}</div>", "\n\n".join(plain))


def show_lines(printed: object) -> Shown:
    """What `print` would show, with its lines whole: where they are wider than the window, one scrolls.

    Args:
        printed: such as a Plan, whose text is a table.
    """
    look = (
        "font-family: monospace; white-space: pre; overflow: visible; color: inherit; background: transparent; "
        "margin: 0; padding: 0"
    )
    return Shown(f'{OPEN}{_SCROLLING}<pre style="{look}">{escape(str(printed))}</pre></div></div>', str(printed))


def show_texts(df: pd.DataFrame, columns: Sequence[str], n: int = 5, *, max_chars: int = 400) -> Shown:
    """The first rows of a table of texts; take a sample first to see a sample.

    Args:
        df: any table.
        columns: those to show, in this order.
        n: at most this many rows; how many there are in all is said below.
        max_chars: a longer text loses its middle.
    """
    rows = [[_shorten(_value(value), max_chars) for value in row] for row in df[list(columns)].head(n).to_numpy(object)]
    numeric = [pd.api.types.is_numeric_dtype(df[name]) for name in columns]
    note = f"{len(rows):,} of {len(df):,} rows"
    plain = [
        "\n".join(
            textwrap.fill(f"{name}: {' '.join(value.split())}", 110, subsequent_indent="    ")
            for name, value in zip(columns, row, strict=True)
        )
        for row in rows
    ]
    return Shown(_table(columns, rows, numeric, note), "\n\n".join([*plain, note]))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], note: str) -> str:
    # Short columns stay on one line and long ones keep a width to read; otherwise one squeezes the other to a letter's.
    styles = [
        _NUMBER if is_number else _SHORT if all(len(row[i]) <= 24 and "\n" not in row[i] for row in rows) else _LONG
        for i, is_number in enumerate(numeric)
    ]
    head = "".join(
        f'<th scope="col" style="{_FIGURES_HEAD if style == _NUMBER else style}">{escape(str(name))}</th>'
        for name, style in zip(columns, styles, strict=True)
    )
    body = "".join(
        "<tr style='background: transparent'>"
        + "".join(
            f'<td dir="auto" style="{style}">{escape(value)}</td>' for value, style in zip(row, styles, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    below = f'<div class="{IGNORED}" style="line-height: 1.45"><small>{escape(note)}</small></div>' if note else ""
    table = f'<table style="border-collapse: collapse; color: inherit"><thead><tr>{head}</tr></thead>'
    return f"{OPEN}{_SCROLLING}{table}<tbody>{body}</tbody></table></div></div>{below}"


def show_table(df: pd.DataFrame, *, note: str = "") -> Shown:
    """A small table of words and figures, all rows; columns of figures stand right-aligned.

    Args:
        df: values as they are to be read.
        note: a line below it.
    """
    rows = [[str(value) for value in row] for row in df.to_numpy(object)]
    figures = [all(value[:1].isdigit() or value == MISSING for value in column) for column in zip(*rows, strict=True)]
    return Shown(
        _table([str(name) for name in df], rows, figures, note), "\n\n".join([df.to_string(index=False), note]).strip()
    )


def _value(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, Real) and math.isnan(value)):
        return MISSING
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _shorten(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    tail = max_chars // 3
    return f"{text[: max_chars - tail - 3].rstrip()} … {text[len(text) - tail :].lstrip()}"
