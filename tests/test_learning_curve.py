"""What another batch is likely to bring: by hand, and on simulated curves whose future is known."""

import numpy as np
import pytest
from scipy.special import ndtri

from nbhelpers.learning_curve import Outlook, extrapolate


def right(*shares: float, texts: int = 100) -> list[list[bool]]:
    """A row of results for each share, the first texts right."""
    return [[i < round(share * texts) for i in range(texts)] for share in shares]


def test_two_points_are_extended_along_the_inverse_square_root_of_the_labels() -> None:
    # 1 / sqrt: 40 -> 0.1581, 160 -> 0.0791, 240 -> 0.0645. Slope -0.25 / 0.0791, way -0.0145: +0.0459.
    change = extrapolate([40, 160], right(0.5, 0.75), more=80)
    assert change is not None
    assert change[0] == pytest.approx(0.0459, abs=1e-4)


def test_a_curve_that_fits_is_continued_exactly() -> None:
    # accuracy = 1 - 2 / sqrt(labels): 0.8 at 100, 0.9 at 400, 0.95 at 1600.
    change = extrapolate([100, 400], right(0.8, 0.9), more=1200)
    assert change is not None
    assert change[0] == pytest.approx(0.05)


def test_a_flat_curve_promises_nothing_but_a_margin() -> None:
    change = extrapolate([40, 80, 120], right(0.8, 0.8, 0.8), more=40)
    assert change is not None
    assert change[0] == pytest.approx(0)
    # Training noise alone: 1.96 * 0.015 * way / sqrt(sum of squares about the mean of 1 / sqrt(labels)), which is
    # 0.01223 / sqrt(0.002344) = 0.2526.
    assert change[1] == pytest.approx(0.00743, abs=1e-5)


def test_two_points_say_less_than_five() -> None:
    two = extrapolate([160, 200], right(0.83, 0.84), more=40)
    five = extrapolate([40, 80, 120, 160, 200], right(0.7, 0.78, 0.81, 0.83, 0.84), more=40)
    assert two is not None
    assert five is not None
    assert two[1] > 2 * five[1]


def test_results_on_the_same_texts_are_paired() -> None:
    """Two classifiers that are right on the same texts differ by little but their accuracies; others by chance, too."""
    same = extrapolate([40, 80], [[True] * 80 + [False] * 20, [True] * 85 + [False] * 15], more=40)
    other = extrapolate([40, 80], [[False] * 20 + [True] * 80, [True] * 85 + [False] * 15], more=40)
    assert same is not None
    assert other is not None
    assert same[0] == pytest.approx(other[0])
    assert same[1] < other[1]


@pytest.mark.parametrize("sizes", [[], [40], [40, 40]])
def test_one_size_says_nothing(sizes: list[int]) -> None:
    assert extrapolate(sizes, right(*[0.8] * len(sizes)), more=40) is None


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("iterations", [2, 4])
def test_the_margin_holds_the_true_change_nine_times_in_ten(power: float, iterations: int) -> None:
    rng, held = np.random.default_rng(0), []
    sizes = 40 * np.arange(1, iterations + 1)
    for _ in range(300):
        end, first = rng.uniform(0.85, 0.98), rng.uniform(0.5, 0.85)

        def accuracy(labels: float | np.ndarray, end: float = end, first: float = first) -> np.ndarray:
            return end - (end - first) * (np.asarray(labels) / 40) ** -power

        reached = np.clip(accuracy(sizes) + rng.normal(0, 0.015, iterations), 0.01, 0.99)
        ease, own = rng.standard_normal(200), rng.standard_normal((iterations, 200))
        change = extrapolate(sizes.tolist(), 0.9 * ease + 0.436 * own < ndtri(reached)[:, None], more=40)
        assert change is not None
        held.append(abs(change[0] - (accuracy(sizes[-1] + 40) - accuracy(sizes[-1]))) <= change[1])
    assert np.mean(held) >= 0.9


def test_an_outlook_is_one_line() -> None:
    assert str(Outlook(80, 0.008, 0.006, 0.312)) == "another 80 labels: +0.8 ± 0.6 points, $0.31"
    assert str(Outlook(40, -0.002, 0.01, None)) == "another 40 labels: -0.2 ± 1.0 points, price unknown"
    assert str(Outlook(40, -0.0002, 0.01, 0.004)) == "another 40 labels: +0.0 ± 1.0 points, $0.0040"


def test_points_that_lie_off_the_curve_widen_the_margin() -> None:
    def right(*counts: int) -> list[list[bool]]:
        return [[i < n for i in range(120)] for n in counts]

    _, smooth = extrapolate([12, 36, 60, 84], right(91, 106, 109, 111), more=24) or (0.0, 0.0)
    gain, dipping = extrapolate([12, 36, 60, 84], right(106, 91, 107, 111), more=24) or (0.0, 0.0)
    assert dipping > 1.3 * smooth
    assert gain - dipping < 0 < gain + dipping
