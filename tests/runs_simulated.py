"""The loop in numbers: classifiers of known accuracy, measured and stopped by the package's own functions.

simulate(Setting(accuracy=0.899, target=0.9, test_size=200, classes=5), runs=1000, seed=0)

Nothing is trained: whether a text is labelled right is drawn at random, alike for successive classifiers. What
`nbhelpers.rounds` adds, its files and its texts, is left out; what decides is the same.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from nbhelpers.evaluation import accuracy_interval, clearly_better, lower_bound
from nbhelpers.stopping import target_reached, worth_a_look

BATCH, VALIDATION, NOISE = 40, 8, 0.08  # labels an iteration, how many of them validate, how many are wrong
ALIKE = 0.8  # correlation of one classifier's mistakes with another's


@dataclass(frozen=True)
class Setting:
    """`accuracy` is the best that the classifiers reach; with `rise` the first ones are less accurate."""

    accuracy: float
    target: float
    test_size: int
    classes: int
    rise: float = 0.0
    iterations: int = 6


@dataclass(frozen=True)
class Outcome:
    """Shares of the runs, and means: what was claimed, and whether it was true."""

    reached: float
    stopped_wrongly: float  # the target was said to be reached, and was not
    claimed_wrongly: float  # the claim's lower bound is above the final classifier's accuracy, whatever the status
    covered: float  # 95 % intervals that hold the accuracy, whether the run came so far or not
    final_covered: float  # the same of the final ones only: after a stop that looked at the test set, no promise
    looks: float
    iterations_taken: float


def simulate(setting: Setting, *, runs: int, seed: int, rule: str = "lower_bound") -> Outcome:
    """Runs of the loop with a stop rule: "lower_bound", or, as controls, "naive" and "accuracy".

    "naive" takes the exact 95 % lower bound at every iteration as if it were the only one.
    """
    rng = np.random.default_rng([seed, *(int(1e4 * x) for x in vars(setting).values())])
    return Outcome(*np.mean([_run(setting, rng, rule) for _ in range(runs)], axis=0).tolist())


def _run(setting: Setting, rng: np.random.Generator, rule: str) -> tuple[float, ...]:
    n, steps = setting.test_size, setting.iterations
    labels = rng.choice(setting.classes, n, p=rng.dirichlet(np.full(setting.classes, 3.0)))
    baseline = np.bincount(labels).max() / n
    accuracies = setting.accuracy - setting.rise * 0.5 ** np.arange(steps)
    tested = _right(rng, accuracies, n)
    validated = _right(rng, accuracies * (1 - NOISE), VALIDATION * steps)
    looks: list[int] = []  # the iterations looked at, in order
    intervals = [accuracy_interval(int(hits.sum()), n) for hits in tested]
    covered = [low <= accuracy <= high for (low, high), accuracy in zip(intervals, accuracies, strict=True)]
    for i in range(steps):
        seen = VALIDATION * (i + 1)
        right = int(validated[i, :seen].sum())
        if rule != "lower_bound" or worth_a_look(right, seen, target=setting.target, test_size=n, look=len(looks) + 1):
            looks.append(i)
            if _shown(i, tested, looks, baseline, setting.target, rule):
                break
    final = i
    if i not in looks or not _shown(i, tested, looks, baseline, setting.target, rule):
        better = [j for j in range(i) if clearly_better(validated[j, :seen], validated[i, :seen])]
        final = max(better, key=lambda j: (validated[j, :seen].sum(), j), default=i)
        if final not in looks:
            looks.append(final)
    reached = _shown(final, tested, looks, baseline, setting.target, rule)
    wrong = reached and accuracies[final] < setting.target
    overclaimed = _bound(final, tested, looks, rule) > accuracies[final]
    return (reached, wrong, overclaimed, float(np.mean(covered)), covered[final], len(looks), i + 1)


def _right(rng: np.random.Generator, accuracies: np.ndarray, texts: int) -> np.ndarray:
    """(classifiers, texts): easy texts are easy for all of them."""
    ease = rng.standard_normal(texts)
    own = rng.standard_normal((len(accuracies), texts))
    return np.sqrt(ALIKE) * ease + np.sqrt(1 - ALIKE) * own < ndtri(accuracies)[:, None]


def _bound(i: int, tested: np.ndarray, looks: list[int], rule: str) -> float:
    correct, n = int(tested[i].sum()), tested.shape[1]
    if rule == "naive":
        return lower_bound(correct, n, confidence=0.9)  # half of alpha is the first look's, so this one has 0.05
    return lower_bound(correct, n, look=looks.index(i) + 1)


def _shown(i: int, tested: np.ndarray, looks: list[int], baseline: float, target: float, rule: str) -> bool:
    correct, n = int(tested[i].sum()), tested.shape[1]
    row = {
        "accuracy": correct / n,
        "accuracy_low": accuracy_interval(correct, n).low,
        "majority_baseline": baseline,
        "lower_bound": _bound(i, tested, looks, rule),
    }
    return target_reached(row, target=target, rule="accuracy" if rule == "accuracy" else "lower_bound")
