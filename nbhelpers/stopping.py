"""When the loop ends: whether the target is shown, when the test set is worth a look, and when labels change nothing.

Pure. A look at the test set spends alpha (see evaluation.lower_bound). Looks are chosen by labels of the validation
set, and a classifier is brought back by them, never by test labels: so which classifiers are looked at does not depend
on the test set, but for the two numbers by which the LLM's confidence is calibrated (see agreement), and the union
bound over the looks holds however long the run goes on.

Source: the end by unchanged predictions, Bloodgood and Vijay-Shanker 2009 (arXiv:1409.5165).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from nbhelpers.evaluation import smallest_correct

MISLABELLED = 0.1  # so many validation labels, by a small LLM, may differ from those that the test set would have
CHANCE = 0.2  # of showing the target, from which on a look is worth its alpha
SAME = 0.99  # Cohen's kappa of one iteration's predictions with the next one's
COMPARISONS = 3
FEWEST_TEXTS = 100  # in such a comparison


def target_reached(row: Mapping[str, Any], *, target: float, rule: str) -> bool:
    """Whether an iteration's figures meet the target, and lie above the baseline beyond chance.

    Args:
        row: the iteration's entry in report.json; its lower_bound is None without a look at the test set.
        target: the required accuracy.
        rule: what must reach it, "accuracy" or "lower_bound".
    """
    shown = row[rule]
    return shown is not None and bool(shown >= target and row["accuracy_low"] > row["majority_baseline"])


def worth_a_look(right: int, total: int, *, target: float, test_size: int, look: int) -> bool:
    """Whether the validation set leaves a fair chance that the next look at the test set shows the target.

    Args:
        right: validation texts that the classifier labels as the LLM did.
        total: validation texts; with none there is nothing to go by, and no look.
        target: the accuracy to be shown.
        test_size: texts in the test set.
        look: the number that the look would have.
    Returns:
        Example: target 0.9, 200 test texts, first look, where 189 must be right: 17 of 20 -> True, 14 of 20 -> False.
    """
    from scipy.special import betaincc

    needed = smallest_correct(test_size, target, look=look)
    if needed is None or total == 0:
        return False
    as_labelled = (1 - MISLABELLED) * needed / test_size
    return bool(betaincc(right + 1, total - right + 1, as_labelled) >= CHANCE)


def converged(predictions: Sequence[Mapping[str, str]]) -> bool:
    """Whether more labels no longer change what the classifier says.

    Args:
        predictions: of each iteration, the classes of the same random sample of texts by chunk id, without the texts
            that were labelled by then.
    Returns:
        True where the mean kappa of the last three iterations with those before them is at least 0.99. False with fewer
        than four iterations or 100 texts, or where one class is all that is predicted: that is no sign of an end.
    """
    from sklearn.metrics import cohen_kappa_score

    kappas = []
    for before, after in pairwise(predictions[-COMPARISONS - 1 :]):
        both = [(before[chunk_id], said) for chunk_id, said in after.items() if chunk_id in before]
        if len(both) < FEWEST_TEXTS or len({said for pair in both for said in pair}) < 2:
            return False
        kappas.append(cohen_kappa_score(*zip(*both, strict=True)))
    return len(kappas) == COMPARISONS and float(np.mean(kappas)) >= SAME
