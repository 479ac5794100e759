"""Type a text, see what the classifier makes of it, and choose when it had better say nothing.

Static twin: `coverage.coverage_figure`. Probabilities follow a moment after the last key, worked out beside the
notebook, and a text that was typed over meanwhile is not shown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from nbhelpers.coverage import at_threshold, coverage_figure, coverage_table
from nbhelpers.pictures import as_html, class_looks
from nbhelpers.slider import Slider
from nbhelpers.try_it import Classifies, Verdict, Word, judge
from nbhelpers.widget_parts import OPEN, frame, text_area, words

if TYPE_CHECKING:
    import ipywidgets

WAIT_SECONDS = 0.3  # after the last key
MOST_CLASSES, MOST_WORDS = 8, 6
LITTLE = 0.005  # what a word has to count to be named


def try_widget(
    classifier: Classifies, tested: pd.DataFrame, *, text: str = "", wait_seconds: float = WAIT_SECONDS
) -> ipywidgets.Widget:
    """A text box, the classes' probabilities, the words that count, and a threshold.

    Args:
        classifier: the final one.
        tested: from `tested_confidence`.
        text: to begin with.
        wait_seconds: after the last key; 0 answers at once.
    """
    import ipywidgets

    table, later = coverage_table(tested), _Later(wait_seconds)
    area = text_area("text", text, rows=4, placeholder="Type a text")
    slider = Slider(label="undecided below", most=0.99)
    said, bars, counted, told, figure = (ipywidgets.HTML() for _ in range(5))
    seen: list[Verdict] = []

    def say() -> None:
        told.value = words(at_threshold(table, slider.value))
        if seen:
            said.value = _decision(seen[0], slider.value)

    def draw() -> None:
        figure.value = as_html(coverage_figure(table, threshold=slider.value))

    def look() -> None:
        typed = area.value
        if not typed.strip():
            seen.clear()
            said.value, bars.value, counted.value = words("Type a text.", quiet=True), "", ""
            return
        try:
            verdict = judge(classifier, typed)
        except Exception as error:  # in a thread it would be seen nowhere
            seen.clear()
            bars.value = counted.value = ""
            said.value = words(f"The classifier could not say ({type(error).__name__}: {error}).", failed=True)
            return
        if typed == area.value:
            seen[:] = [verdict]
            bars.value, counted.value = _bars(verdict), _counted(typed, verdict)
            say()

    def slide(_: object) -> None:
        say()
        redraw(draw)

    redraw = _Later(wait_seconds)
    area.observe(lambda _: later(look), names="value")
    slider.observe(slide, names="value")
    look()
    say()
    draw()
    return frame("Try it", [area, said, bars, counted, slider, told, figure])


class _Later:
    """Does the last of several things that are asked for in quick succession, one at a time, in a thread."""

    def __init__(self, wait_seconds: float) -> None:
        self._wait = wait_seconds
        self._turn = threading.Lock()
        self._timer: threading.Timer | None = None

    def __call__(self, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._wait == 0:
            what()
            return

        def do() -> None:
            with self._turn:
                what()

        self._timer = threading.Timer(self._wait, do)
        self._timer.daemon = True
        self._timer.start()


def _decision(verdict: Verdict, threshold: float) -> str:
    name, probability = verdict.likeliest
    if probability < threshold:
        return words(f"Undecided: {name} is likeliest, with {probability:.1%}.")
    return words(f"{name}, with {probability:.1%}.")


def _bars(verdict: Verdict) -> str:
    """The likeliest classes, in the config's order, so that no bar jumps while one types."""
    looks, shares = class_looks(list(verdict.probabilities)), verdict.probabilities
    likeliest = sorted(shares, key=lambda name: -shares[name])[:MOST_CLASSES]
    rows = "".join(_bar(name, shares[name], looks[name][0]) for name in shares if name in likeliest)
    more = len(shares) - MOST_CLASSES
    rest = f"<small>and {more} less likely classes</small>" if more > 0 else ""
    return f"{OPEN}{rows}{rest}</div>"


def _bar(name: str, share: float, colour: str) -> str:
    line = "display: flex; gap: 10px; align-items: center; margin: 2px 0; max-width: 40rem"
    track = "flex: 1 1 12rem; background: rgba(128, 128, 128, 0.2); border-radius: 3px"
    bar = f"width: {100 * share:.1f}%; height: 0.9em; background: {colour}; border-radius: 3px"
    return (
        f'<div style="{line}"><div style="flex: 0 1 10rem; overflow-wrap: anywhere">{escape(name)}</div>'
        f'<div style="{track}"><div style="{bar}"></div></div>'
        f'<div style="flex: 0 0 4rem; text-align: right">{share:.1%}</div></div>'
    )


def _counted(text: str, verdict: Verdict) -> str:
    """The text with its words shaded by what they count, and the strongest in words."""
    most = max((abs(word.counts) for word in verdict.words), default=0.0)
    parts, at = [], 0
    for word in verdict.words:
        colour = "0, 114, 178" if word.counts > 0 else "213, 94, 0"
        strength = 0.55 * abs(word.counts) / most if most > LITTLE else 0.0
        parts.append(escape(text[at : word.start]))
        shade = f"background: rgba({colour}, {strength:.2f}); border-radius: 3px; padding: 0 1px"
        parts.append(f'<span style="{shade}" title="{word.counts:+.2f}">{escape(word.text)}</span>')
        at = word.end
    shown = "".join(parts) + escape(text[at:])
    name = verdict.likeliest[0]
    lines = [_named(f"Speak for {name}", verdict.words, 1), _named("Speak against it", verdict.words, -1)]
    told = " ".join(line for line in lines if line) or "No single word counts for much."
    return (
        f'{OPEN}<div style="white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6; margin: 4px 0">{shown}'
        f"</div><div>{escape(told)}</div></div>"
    )


def _named(what: str, counted: list[Word], sign: int) -> str:
    ranked = sorted((word for word in counted if word.counts * sign > LITTLE), key=lambda word: -word.counts * sign)
    return (
        f"{what}: {', '.join(f'{word.text} ({word.counts:+.2f})' for word in ranked[:MOST_WORDS])}." if ranked else ""
    )
