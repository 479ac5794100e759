"""One run at a time on an output folder: the second says so and stops.

The command line holds a lock for as long as it runs, and the notebooks that it starts pass it; a notebook that a person
runs holds it only while something is read, paid for, trained or predicted, not for as long as it stays open. The
operating system lets go of a lock when its process dies, however it dies.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nbhelpers.errors import RunFolderError

HOLDER = "NBHELPERS_LOCK_HOLDER"  # the folder whose run started this process
ORPHAN_SECONDS = 15.0  # a notebook whose run was killed ends by itself within this time


@contextmanager
def one_run(folder: Path) -> Iterator[None]:
    """Holds the folder for a whole run of the suite.

    Raises:
        RunFolderError: another run works on it.
    """
    with _held(folder, "run.lock", seconds=0):
        before = os.environ.get(HOLDER)
        os.environ[HOLDER] = str(folder.resolve())
        try:
            yield
        finally:
            if before is None:
                del os.environ[HOLDER]
            else:
                os.environ[HOLDER] = before


@contextmanager
def one_step(folder: Path) -> Iterator[None]:
    """Holds the folder while something in it is made; may be entered again by whoever holds it.

    Raises:
        RunFolderError: another run works on it.
    """
    if os.environ.get(HOLDER) == str(folder.resolve()):
        with _held(folder, "step.lock", seconds=ORPHAN_SECONDS):
            yield
    else:
        with _held(folder, "run.lock", seconds=0), _held(folder, "step.lock", seconds=ORPHAN_SECONDS):
            yield


@contextmanager
def _held(folder: Path, name: str, *, seconds: float) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name, is_singleton=True)
        lock.acquire(timeout=seconds)
    except Timeout:
        raise RunFolderError(
            f"Another run works on {folder}. Wait until it has ended (the loop of notebook 4 counts, too), or "
            "choose another path.output_dir."
        ) from None
    except OSError as error:
        raise RunFolderError(f"{folder / name} could not be locked ({error}). Check path.output_dir.") from None
    try:
        yield
    finally:
        lock.release()
