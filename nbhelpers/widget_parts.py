"""What the widgets have in common: a frame in the theme's colours, and words as safe HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ipywidgets

IGNORED = "mathjax_ignore tex2jax_ignore"  # MathJax leaves elements of these classes alone
OPEN = f'<div class="{IGNORED}" style="color: inherit; line-height: 1.45; max-width: 100%; overflow-x: auto">'
_LINE = "1px solid var(--jp-border-color1, gray)"


def frame(title: str, children: Sequence[ipywidgets.Widget]) -> ipywidgets.VBox:
    """A box with a title, as wide as the notebook allows and no wider than one can read."""
    import ipywidgets

    head = ipywidgets.HTML(f'<div style="font-weight: 600; font-size: 1.1em; color: inherit">{escape(title)}</div>')
    layout = ipywidgets.Layout(border=_LINE, padding="10px 14px", max_width="62rem", width="auto")
    return ipywidgets.VBox([head, *children], layout=layout)


def row(children: Sequence[ipywidgets.Widget]) -> ipywidgets.HBox:
    """Side by side, and below one another where the window is narrow."""
    import ipywidgets

    return ipywidgets.HBox(
        children, layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="4px 8px")
    )


def button(words: str, *, primary: bool = False, tooltip: str = "") -> ipywidgets.Button:
    """A button as wide as its words."""
    import ipywidgets

    layout = ipywidgets.Layout(width="auto", padding="0 14px")
    return ipywidgets.Button(
        description=words, button_style="primary" if primary else "", tooltip=tooltip or words, layout=layout
    )


def text_area(name: str, text: str, **options: Any) -> ipywidgets.Textarea:
    """A named field for several lines, as wide as one can read."""
    import ipywidgets

    layout = ipywidgets.Layout(width="100%", max_width="60rem")
    return ipywidgets.Textarea(text, description=name, style={"description_width": "initial"}, layout=layout, **options)


def words(text: str, *, failed: bool = False, quiet: bool = False) -> str:
    """A sentence as HTML; one that changes is read out by a screen reader, unless it is a quiet one."""
    name = "--jp-error-color1, #b00020" if failed else "--jp-ui-font-color2, gray" if quiet else ""
    colour = f"var({name})" if name else "inherit"
    safe = escape(text).replace("\n", "<br>")
    role = "" if quiet else 'role="status" '
    return f'{OPEN}<div {role}style="color: {colour}">{safe}</div></div>'
