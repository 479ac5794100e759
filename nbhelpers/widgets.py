"""ipywidgets views and displays for the notebooks: choose a balance, see a prompt, see some texts.

A view shows what others computed and calls back when a person chooses; it decides and stores nothing. Nothing here
waits, so a headless run passes by. Every text is escaped, and no `$` in it becomes a formula. The displays have a
plain-text twin, and take the colours of the notebook's theme.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import TYPE_CHECKING, Any

import pandas as pd

from nbhelpers import plots
from nbhelpers.classifier import describe_balance
from nbhelpers.widget_parts import OPEN, img

if TYPE_CHECKING:
    import ipywidgets

BALANCES = {
    "none": "Every text counts the same. Frequent classes are learned best, and a rare one may never be predicted.",
    "weights": "A text of a rare class counts more in training: it is found more often, with more false alarms.",
    "auto": "As weights where classes differ a lot in size, as none where they do not.",
}
MISSING = "–"

_CELL = (
    "padding: 4px 8px; text-align: start; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere; "
    "border-bottom: 1px solid rgba(128, 128, 128, 0.4)"
)
_SHORT = _CELL.replace("pre-wrap", "pre")
_NUMBER = _CELL.replace("text-align: start", "text-align: right").replace("pre-wrap", "nowrap")
_PRE = (
    "white-space: pre-wrap; overflow-wrap: anywhere; color: inherit; background: transparent; margin: 2px 0 10px; "
    "padding: 6px 10px; border: 0; border-left: 3px solid rgba(128, 128, 128, 0.6)"
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


def class_balance_widget(
    counts: Mapping[str, int],
    chosen: str,
    on_choose: Callable[[str], None],
    *,
    describe: Callable[[Mapping[str, int], str], pd.DataFrame] = describe_balance,
) -> ipywidgets.Widget:
    """Buttons for `training.balance`, and what each does to the classes; static twin: `plots.class_balance`.

    Args:
        counts: class -> texts in the train set, in the config's order.
        chosen: the config's value; its button says so.
        on_choose: called with "none", "weights" or "auto" each time a person picks another one.
        describe: (counts, balance) -> table with class, texts, share, weight.
    """
    import ipywidgets

    tables = {balance: describe(counts, balance) for balance in BALANCES}
    options = [(f"{name} (config)" if name == chosen else name, name) for name in BALANCES]
    buttons = ipywidgets.ToggleButtons(
        options=options,
        value=chosen,
        description="balance",
        tooltips=list(BALANCES.values()),
        style=ipywidgets.ToggleButtonsStyle(button_width="auto"),
    )
    words, table, picture = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()

    def show(balance: str) -> None:
        words.value = f"{OPEN}<b>{escape(balance)}</b>: {escape(BALANCES[balance])}</div>"
        table.value = _balance_html(tables[balance])
        picture.value = img(plots.class_balance(tables, chosen=balance))

    def choose(change: Mapping[str, Any]) -> None:
        show(change["new"])
        on_choose(change["new"])

    show(chosen)
    buttons.observe(choose, names="value")
    return ipywidgets.VBox([buttons, words, table, picture])


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


def _balance_html(table: pd.DataFrame) -> str:
    rows = [
        [str(name), f"{texts:,.0f}", _percent(share), MISSING if pd.isna(weight) else f"{weight:.2f}"]
        for name, texts, share, weight in table[["class", "texts", "share", "weight"]].itertuples(index=False)
    ]
    return _table(["class", "texts", "share", "weight"], rows, [False, True, True, True], "")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], note: str) -> str:
    # Short columns stay on one line; otherwise a long text beside them squeezes them to a letter's width.
    styles = [
        _NUMBER if is_number else _SHORT if all(len(row[i]) <= 24 and "\n" not in row[i] for row in rows) else _CELL
        for i, is_number in enumerate(numeric)
    ]
    head = "".join(
        f'<th scope="col" style="{style}">{escape(str(name))}</th>' for name, style in zip(columns, styles, strict=True)
    )
    body = "".join(
        "<tr style='background: transparent'>"
        + "".join(
            f'<td dir="auto" style="{style}">{escape(value)}</td>' for value, style in zip(row, styles, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    below = f"<div><small>{escape(note)}</small></div>" if note else ""
    table = f'<table style="border-collapse: collapse; color: inherit"><thead><tr>{head}</tr></thead>'
    return f"{OPEN}{table}<tbody>{body}</tbody></table>{below}</div>"


def _value(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, Real) and math.isnan(value)):
        return MISSING
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _shorten(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    tail = max_chars // 3
    return f"{text[: max_chars - tail - 3].rstrip()} … {text[len(text) - tail :].lstrip()}"


def _percent(share: float) -> str:
    return MISSING if pd.isna(share) else f"{share:.1%}".replace("%", " %")
