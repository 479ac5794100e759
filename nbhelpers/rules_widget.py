"""An editor for the rules: edit, see what changes and what becomes stale, try it on five texts, keep or discard.

Static twin: the rules as `widgets.show_messages` shows them. The work is done by rules_edit.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from nbhelpers.config import Config
from nbhelpers.errors import NbhelpersError
from nbhelpers.label_store import LabelStore
from nbhelpers.money import dollars
from nbhelpers.progress import progress_told
from nbhelpers.rules_edit import TRIED, RulesEdit
from nbhelpers.run_folder import RunFolder
from nbhelpers.widget_parts import OPEN, button, frame, row, text_area, words
from nbhelpers.widgets import show_texts

if TYPE_CHECKING:
    import ipywidgets

_MARKS = {"-": "var(--jp-error-color1, #b00020)", "+": "var(--jp-success-color1, #1b7a3d)"}


def rules_widget(config: Config, run: RunFolder, store: LabelStore) -> ipywidgets.Widget:
    """The editor; nothing is written before "Keep", and nobody is asked before "Try".

    Args:
        config, run, store: as for `RulesEdit`.
    """
    import ipywidgets

    edit = RulesEdit(config, run, store)
    area = text_area("rules", edit.kept, rows=14, continuous_update=False)
    attempt, others = button(f"Try on {TRIED} texts"), button(f"{TRIED} other texts")
    keep, discard = button("Keep", primary=True), button("Discard the edit")
    changes, said, tried = (ipywidgets.HTML() for _ in range(3))
    page, tried_on = [0], [""]

    def show(*_: Any) -> None:
        lines = edit.diff(area.value)
        if area.value != tried_on[0]:
            tried.value = ""
        changes.value = _diff_html(lines)
        said.value = words("\n".join([_stale(edit) if lines else "", _cost(edit, area.value, page[0])]).strip())

    def act(what: Callable[[], str]) -> None:
        """Does it, and says how that went; an error in a callback would only reach the log."""
        try:
            told = what()
        except NbhelpersError as error:
            said.value = words(str(error), failed=True)
        else:
            show()
            said.value = words(told) if told else said.value

    def trying() -> str:
        said.value, text = words("Asking …"), area.value
        with progress_told(lambda what, done, total: _say(said, f"{what}: {done} of {total}")):
            table = edit.try_on(text, page[0])
        tried_on[0] = text
        tried.value = show_texts(table, [*edit.sizes, "before", "text"]).html
        return ""

    def keeping() -> str:
        if not edit.diff(area.value):
            return "Nothing was changed."
        stale = _stale(edit)
        edit.keep(area.value)
        return f"Kept. {stale}"

    def turn(_: Any) -> None:
        page[0] += 1
        tried.value = ""
        show()

    area.observe(show, names="value")
    attempt.on_click(lambda _: act(trying))
    others.on_click(turn)
    keep.on_click(lambda _: act(keeping))
    discard.on_click(lambda _: setattr(area, "value", edit.kept))
    show()
    return frame("Edit the rules", [area, changes, row([keep, discard, attempt, others]), said, tried])


def _say(said: Any, text: str) -> None:
    said.value = words(text)


def _stale(edit: RulesEdit) -> str:
    steps = ", ".join(edit.stale())
    if not steps:
        return "No later step is up to date: none becomes stale."
    labels = " and ".join(f"{n:,} {kind}" for kind, n in edit.stale_labels().items())
    return f"To be done anew with these rules: {steps}" + (f"; {labels} are then stale." if labels else ".")


def _cost(edit: RulesEdit, text: str, page: int) -> str:
    if not text.strip():
        return "There are no rules to try."
    calls, price = edit.cost(text, page)
    if calls == 0:
        return "Trying costs nothing: all is known."
    asked, about = " and ".join(f"the {size} LLM" for size in edit.sizes), "about " if price else ""
    return f"Trying asks {asked}: {calls} calls, {about}{dollars(price)}."


def _diff_html(lines: list[str]) -> str:
    if not lines:
        return words("The rules as they are.", quiet=True)
    shown = "".join(
        f'<div style="color: {_MARKS.get(line[:1], "inherit")}; white-space: pre-wrap">{escape(line)}</div>'
        for line in lines
        if not line.startswith("@@")
    )
    font = "font-family: var(--jp-code-font-family, monospace); line-height: 1.4; overflow-wrap: anywhere"
    return f'{OPEN}<div role="group" aria-label="changes" style="{font}">{shown}</div></div>'
