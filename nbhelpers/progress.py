"""One progress bar for every loop that waits: counts, rate and time left, in a notebook and on a terminal.

Headless, inside papermill, it is a printed line now and then: the state of a notebook widget is lost there.
"""

import sys
from collections.abc import Callable
from typing import Any

LINE_EVERY_SECONDS = 20.0


def interactive() -> bool:
    """Whether a person sits at this notebook, as opposed to papermill, a script or a test.

    A front end tells the kernel with each cell whether somebody could answer a question; nbclient says no.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin", False))


def progress_bar(total: int | None, *, desc: str, unit: str) -> Any:
    """A tqdm bar; use it as a context manager and call `update(n)`."""
    if interactive():
        from tqdm.auto import tqdm

        return tqdm(total=total, desc=desc, unit=unit)
    from tqdm import tqdm

    # A bar that redraws itself is many lines in a stored notebook; a line now and then says as much.
    line = "{desc}: {n_fmt} of {total_fmt} ({elapsed}, {remaining} left, {rate_fmt})"
    return tqdm(
        total=total, desc=desc, unit=unit, file=_Lines(), bar_format=line, mininterval=LINE_EVERY_SECONDS, delay=1
    )


class _Lines:
    """Turns what tqdm writes over and over in place into printed lines."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), flush=True)

    def flush(self) -> None:
        pass


def counter(bar: Any) -> Callable[[int, int], None]:
    """A callback (done, total) that moves the bar."""

    def move(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return move
