"""One progress bar for every loop that waits: counts, rate and time left, in a notebook and on a terminal.

Headless, inside papermill, it is a printed line now and then: the state of a notebook widget is lost there.
"""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

LINE_EVERY_SECONDS = 20.0
TELL_EVERY_SECONDS = 0.3

Tell = Callable[[str, int, int | None], None]  # called with (what is done, how much, of how much)
_tell: ContextVar[Tell | None] = ContextVar("tell", default=None)


def interactive() -> bool:
    """Whether a person sits at this notebook, as opposed to papermill, a script or a test.

    A front end tells the kernel with each cell whether somebody could answer a question; nbclient says no.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin", False))


@contextmanager
def progress_told(tell: Tell) -> Iterator[None]:
    """Within the `with` block, bars are not drawn; what they would show goes to `tell`."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def progress_bar(total: int | None, *, desc: str, unit: str) -> Any:
    """A tqdm bar; use it as a context manager and call `update(n)`."""
    tell = _tell.get()
    if tell is not None:
        return _told(tell, total, desc)
    if interactive():
        from tqdm.auto import tqdm

        return tqdm(total=total, desc=desc, unit=unit)
    from tqdm import tqdm

    # A bar that redraws itself is many lines in a stored notebook; a line now and then says as much.
    line = "{desc}: {n_fmt} of {total_fmt} ({elapsed}, {remaining} left, {rate_fmt})"
    return tqdm(
        total=total, desc=desc, unit=unit, file=_Lines(), bar_format=line, mininterval=LINE_EVERY_SECONDS, delay=1
    )


def _told(tell: Tell, total: int | None, desc: str) -> Any:
    from tqdm import tqdm

    class Told(tqdm):  # type: ignore[misc]
        def display(self, *_: Any, **__: Any) -> None:
            tell(desc, int(self.n), self.total)

    return Told(total=total, mininterval=TELL_EVERY_SECONDS, file=io.StringIO())


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
