"""Buttons for the loop, with the learning curve as it grows; static twin: `plots.learning_curve`.

The work is done in a thread (see loop_control), so the notebook stays free, and "stop after this one" is heard.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from nbhelpers import plots
from nbhelpers.loop_control import LoopControl, LoopView
from nbhelpers.pictures import as_html
from nbhelpers.rounds import Rounds
from nbhelpers.widget_parts import button, frame, row, words

if TYPE_CHECKING:
    import ipywidgets


def loop_widget(rounds: Rounds) -> ipywidgets.Widget:
    """One more iteration, run until the target, stop after this one.

    Shown again, such as by running the cell again, it stays with the iteration that is at work.

    Args:
        rounds: with at least one iteration done.
    """
    import ipywidgets

    control = _control(rounds)
    one = button("One more iteration", tooltip="Beyond the target and training.max_iters, too")
    until = button("Run until the target", primary=True)
    stop = button("Stop after this one", tooltip="Lets the iteration that is at work end, and starts no other")
    bar = ipywidgets.IntProgress(layout=ipywidgets.Layout(width="12rem", visibility="hidden"))
    says, working, spending, curve = (ipywidgets.HTML() for _ in range(4))
    drawn: list[object] = []

    def show(view: LoopView) -> None:
        one.disabled, until.disabled, stop.disabled = not view.may_step, not view.may_run, not view.may_stop
        says.value, spending.value = words(view.says, failed=view.failed), words(view.spending, quiet=True)
        what, done, total = view.work or ("", 0, None)
        working.value = words(f"{what}: {done:,}" + (f" of {total:,}" if total else "") if what else "", quiet=True)
        bar.max, bar.value = total or 1, done if total else 0
        bar.layout.visibility = "visible" if view.busy else "hidden"
        numbers = [iteration["iteration"] for iteration in view.report["iterations"]]
        if drawn != numbers:
            drawn[:] = numbers
            baseline = view.report["final"]["majority_baseline"]
            rows, target = view.report["iterations"], view.report["target"]
            curve.value = as_html(plots.learning_curve(rows, target=target, majority_baseline=baseline))

    one.on_click(lambda _: control.one_more())
    until.on_click(lambda _: control.run_until_done())
    stop.on_click(lambda _: control.stop_after_this())
    control.tell = show
    show(control.view())
    return frame("The loop", [row([one, until, stop]), says, row([bar, working]), curve, spending])


@cache  # one for each Rounds, as long as the kernel lives
def _control(rounds: Rounds) -> LoopControl:
    return LoopControl(rounds)
