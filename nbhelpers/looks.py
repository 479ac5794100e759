"""Looks at the sealed test set: which classifiers were held against the target, in order, over all runs on a folder.

A look spends its share of alpha once (see evaluation.lower_bound). The list only grows, and is written before a look's
result is used. So a look that a killed run took still counts; a classifier that is met again, in a second start, under
a raised `max_iters` or as a copy, keeps its number; and one that was trained in another way is one look more.
"""

from nbhelpers.run_folder import RunFolder, write_json


def looks_taken(run: RunFolder) -> list[str]:
    """The fingerprints of what was looked at, in order."""
    if not run.looks.exists():
        return []
    fingerprints: list[str] = run.read_json(run.looks, made_by="04_train")["looks"]
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
