import numpy as np
import pytest

from nbhelpers import active
from nbhelpers.active import margins, probe, spread, typical, uncovered

LINE = np.array([[np.cos(angle), np.sin(angle)] for angle in np.linspace(0, np.pi / 2, 91)])  # a row a degree


def test_margin_is_between_the_two_likeliest_of_many_classes():
    assert margins(np.array([[0.34, 0.33, 0.33], [0.01, 0.39, 0.6], [0.5, 0.05, 0.45]])) == pytest.approx(
        [0.01, 0.21, 0.05]
    )


def test_highest_scores_that_are_alike_make_room_for_others():
    rows = LINE[[0, 1, 2, 45, 46, 90]]
    scores = np.array([0.9, 0.95, 0.8, 0.3, 0.2, 0.1])
    assert spread(rows, scores, 3, among=1, seed=0).tolist() == [1, 0, 2]  # no others to choose from
    assert spread(rows, scores, 3, among=2, seed=0).tolist() == [1, 3, 5]  # the best of each cluster, best first
    assert spread(rows, scores, 9, among=2, seed=0).tolist() == [1, 0, 2, 3, 4, 5]
    assert spread(rows, scores, 0, among=2, seed=0).tolist() == []
    assert spread(rows[:0], scores[:0], 3, among=2, seed=0).tolist() == []


def test_typical_text_is_the_one_in_the_middle_of_each_cluster_large_ones_first(monkeypatch):
    monkeypatch.setattr(active, "NEIGHBOURS", 2)
    rows = LINE[[70, 71, 72, 0, 10, 11, 12, 13, 14, 40]]
    assert typical(rows, 2, seed=0).tolist() in (
        [5, 1],
        [6, 1],
        [7, 1],
    )  # 11, 12 or 13 degrees, not the mean of 0 to 40; then 71
    assert sorted(typical(rows, 20, seed=0).tolist()) == list(range(10))
    assert typical(rows, 0, seed=0).tolist() == []
    assert typical(rows[:0], 3, seed=0).tolist() == []


def test_a_text_is_uncovered_where_its_like_are_nearer_than_any_labelled_one():
    rng = np.random.default_rng(0)
    corners = np.repeat(np.eye(4, 12), [20, 20, 20, 1], axis=0)
    rows = corners + 0.05 * rng.standard_normal(corners.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = uncovered(rows, rows[[0, 1]], seed=0)
    assert found.tolist() == [False] * 20 + [True] * 40 + [False]  # the last one has no like at all
    assert uncovered(rows, rows[[0, 20, 40]], seed=0).tolist() == [False] * 61
    assert uncovered(rows[:5], rows[[40]], seed=0).tolist() == [False] * 5  # too few to say


def test_of_many_rows_some_tell_what_the_others_are_like(monkeypatch):
    rows = np.repeat(np.eye(3), 200, axis=0)
    monkeypatch.setattr(active, "SEEN", 60)
    assert uncovered(rows, rows[:1], seed=0).tolist() == [False] * 200 + [True] * 400


def test_probe_goes_by_how_common_classes_are_and_knows_nothing_of_one_without_a_label():
    known, labels = LINE[[0, 1, 2, 3, 4, 5, 6, 90]], ["a"] * 7 + ["c"]
    proba = probe(known, labels, LINE[[0, 46, 90]], classes=["a", "b", "c"])
    assert proba[:, 1].tolist() == [0, 0, 0]
    assert proba.sum(axis=1) == pytest.approx(1)
    assert proba[0, 0] > proba[1, 0] > proba[2, 0]
    assert proba[1, 0] > 0.6  # half-way between 3 and 90 degrees
