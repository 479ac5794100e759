"""The loop in a thread of its own, so that a person can say "stop after this one" while it is at work.

It takes whole iterations and looks at the wish to stop between them; an iteration is never left half-done. What happens
is told to whoever asked (see loop_widget). A kernel that dies takes the thread with it; `Rounds.begin` goes on from
what is stored.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nbhelpers.errors import NbhelpersError
from nbhelpers.llms import usage
from nbhelpers.money import dollars
from nbhelpers.plan import plan_iteration
from nbhelpers.progress import progress_told
from nbhelpers.rounds import Rounds

ENDED = {
    "target_reached": "The target is reached.",
    "converged": "More labels hardly change the classifier any more.",
    "max_iters": "training.max_iters is done. One more iteration goes beyond it.",
    "no_more_chunks": "No text is left to label.",
    "budget": "cost.budget_usd is spent. Raise it in the config to go on.",
}


@dataclass(frozen=True)
class LoopView:
    """How things stand. `work` is (what is done, how much, of how much) while an iteration is at work."""

    says: str
    busy: bool
    failed: bool
    may_step: bool
    may_run: bool
    may_stop: bool
    work: tuple[str, int, int | None] | None
    report: dict[str, Any]
    spending: str


class LoopControl:
    """What the buttons of the loop do.

    Args:
        rounds: with at least one iteration done.
    Attributes:
        tell: called with a `LoopView` whenever something changed, from whichever thread.
    """

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self.tell: Callable[[LoopView], object] = lambda view: None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._work: tuple[str, int, int | None] | None = None
        self._error = ""
        self._report, self._spending = rounds.report(), self._money()
        rounds.watchers["loop"] = self._refresh

    @property
    def busy(self) -> bool:
        """Whether an iteration is at work."""
        return self._thread is not None

    def one_more(self) -> None:
        """One more iteration, beyond the target and `max_iters` too."""
        self._start(until_done=False)

    def run_until_done(self) -> None:
        """Iterations until the target, or another end of the loop."""
        self._start(until_done=True)

    def stop_after_this(self) -> None:
        """No further iteration once this one is done."""
        self._stop.set()
        self.tell(self.view())

    def wait(self) -> None:
        """Until nothing is at work."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def view(self) -> LoopView:
        """How things stand."""
        status, last = self.rounds.status, self.rounds.final.row
        reached = f"Iteration {last['iteration']}: accuracy {last['accuracy']:.1%} against the LLM's labels."
        used_up = not self.rounds.more_to_learn
        end = "no_more_chunks" if used_up and status == "max_iters" else status or ""
        says = self._error or f"{reached} {ENDED.get(end, 'The target is not reached yet.')}"
        if self.busy and self._stop.is_set():
            says = f"{reached} Stops once the iteration at work is done."
        elif self.busy:
            says = f"{reached} The next one is at work."
        able = not self.busy and status != "budget" and not used_up
        return LoopView(
            says=says,
            busy=self.busy,
            failed=bool(self._error),
            may_step=able,
            may_run=able and status is None,
            may_stop=self.busy and not self._stop.is_set(),
            work=self._work,
            report=self._report,
            spending=self._spending,
        )

    def _start(self, *, until_done: bool) -> None:
        if self.busy:
            return
        self._stop.clear()
        self._error = ""
        self._thread = threading.Thread(target=self._run, args=(until_done,), name="nbhelpers-loop", daemon=True)
        self._thread.start()

    def _run(self, until_done: bool) -> None:
        try:
            with progress_told(self._progress):
                self.tell(self.view())
                if not until_done:
                    self.rounds.step()
                while until_done and not self._stop.is_set() and self.rounds.go_on() is not None:
                    pass
        except NbhelpersError as error:
            self._error = f"{error} What was paid for is kept."
        except Exception as error:  # nobody would see it: a thread has no cell to show it in
            self._error = f"The iteration stopped unexpectedly ({type(error).__name__}: {error}). Try again."
        finally:
            self._thread, self._work = None, None
            self._stop.clear()
            self.tell(self.view())

    def _refresh(self) -> None:
        """After an iteration, whoever took it: a button here, or a cell."""
        self._report, self._spending, self._work = self.rounds.report(), self._money(), None
        self.tell(self.view())

    def _progress(self, done_what: str, done: int, total: int | None) -> None:
        self._work = (done_what, done, total)
        self.tell(self.view())

    def _money(self) -> str:
        """What was paid, and what the next iteration would ask."""
        rounds = self.rounds
        paid = usage(rounds.config, rounds.store)
        asked = plan_iteration(rounds.batches_opened + 1, rounds.config, rounds.run, rounds.store)
        labels, calls = rounds.final.row["labels"], paid["calls"]
        spent = f"So far: {labels:,} labels to learn from, {calls:,} LLM calls in all, {dollars(paid['cost_usd'])}."
        if not asked["calls"]:
            return f"{spent}\nThe next iteration asks the LLM nothing new."
        minutes = f", {asked['llm_minutes']:.1f} min of labelling" if (asked["llm_minutes"] or 0) > 0.05 else ""
        outlook = rounds.outlook()
        likely = "" if outlook is None else f"\nWhat it may bring: {outlook}."
        return (
            f"{spent}\nThe next iteration: {asked['calls']:,.0f} calls, {dollars(asked['dollars'])}{minutes}.{likely}"
        )
