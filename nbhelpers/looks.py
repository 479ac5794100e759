"""Looks at the sealed test set: which classifiers were held against the target, in order, over all runs on a folder.

A look spends its share of alpha once (see evaluation.lower_bound). The list only grows, and is written before a look's
result is used. So a look that a killed run took still counts; a classifier that is met again, in a second start, under
a raised `max_iters` or as a copy, keeps its number; and one that was trained in another way is one look more.
"""

from nbhelpers.config import Config
from nbhelpers.errors import RunFolderError
from nbhelpers.evaluation import lower_bound
from nbhelpers.iteration import Iteration
from nbhelpers.run_folder import RunFolder, write_json
from nbhelpers.stopping import worth_a_look


def is_worth_a_look(iteration: Iteration, *, config: Config, run: RunFolder) -> bool:
    """Whether to hold the iteration against the target now; decided by validation labels, never by test labels.

    The rule "accuracy" looks every time. One that was looked at before costs nothing more.
    """
    row, taken = iteration.row, looks_taken(run)
    if config.system.stop_rule == "accuracy" or iteration.fingerprint in taken:
        return True
    return worth_a_look(
        row["validation_correct"],
        row["validation_size"],
        target=config.system.required_accuracy,
        test_size=row["test_size"],
        look=len(taken) + 1,
    )


def look_at(iteration: Iteration, *, run: RunFolder) -> None:
    """Takes a look at the test set: what it shows of the iteration's classifier goes into its row."""
    look, row = take_look(run, iteration.fingerprint), iteration.row
    row.update(looks=look, lower_bound=lower_bound(row["correct"], row["n"], look=look))


def looks_taken(run: RunFolder) -> list[str]:
    """The fingerprints of what was looked at, in order."""
    if not run.looks.exists():
        return []
    try:
        fingerprints: list[str] = run.read_json(run.looks, made_by="04_train")["looks"]
    except RunFolderError:
        raise RunFolderError(
            f"{run.looks} cannot be read, and how often the test set was looked at stands nowhere else. Put a copy of "
            "it back, or begin anew: another path.output_dir, and another system.seed, which draws other test texts."
        ) from None
    return fingerprints


def take_look(run: RunFolder, fingerprint: str) -> int:
    """The number of the look at this classifier, from 1; the next one where there has been none.

    Args:
        run: the folder with the test set.
        fingerprint: of the classifier and the test labels.
    """
    taken = looks_taken(run)
    if fingerprint not in taken:
        taken.append(fingerprint)
        write_json(run.looks, {"looks": taken})
    return taken.index(fingerprint) + 1
