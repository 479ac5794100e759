"""doubt: which labels are wrong, by confidence, by a cross-validated classifier, and by both."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.doubt import doubt, examine, send_to_large, soft_targets
from nbhelpers.errors import ClassifierError

CLASSES = ["sports", "politics", "weather"]


def most_doubtful(doubts: Any, share: float) -> Any:
    """This share of the texts, where the large LLM has given no label yet."""
    return send_to_large(np.asarray(doubts), np.zeros(len(doubts), dtype=bool), share)


def likely_errors(rows: np.ndarray, labels: list[str], confidence: Any) -> dict[int, str]:
    """Index -> suggested class."""
    found = examine(rows, labels, confidence, classes=CLASSES, seed=0)["suggested"]
    return dict(found[found.notna()])


def clusters(n: int, *, classes: int = 3, spread: float = 0.15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length 1 around a corner for each class, in turn; the corners' numbers."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % classes
    rows = np.eye(20)[truth] + spread * rng.normal(size=(n, 20))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


def flipped(truth: np.ndarray, wrong: list[int]) -> list[str]:
    """The corners' class names, another one at these places; each other class in turn."""
    labels = truth.copy()
    labels[wrong] = (labels[wrong] + 1 + np.arange(len(wrong)) % 2) % len(CLASSES)
    return [CLASSES[i] for i in labels]


@pytest.mark.parametrize("n", [30, 120])
def test_the_classifier_finds_wrong_labels_without_any_confidence(n: int):
    rows, truth = clusters(n)
    wrong = [1, 7, 20]
    found = doubt(rows, flipped(truth, wrong), [None] * n, classes=CLASSES, seed=0)
    assert found.shape == (n,)
    assert ((found >= 0) & (found <= 1)).all()
    assert set(most_doubtful(found, 3 / n)) == set(wrong)
    assert found[wrong].min() > 0.5
    assert np.delete(found, wrong).max() < 0.5


def test_confidence_still_finds_wrong_labels_where_the_features_say_nothing():
    by_both, by_confidence = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        rows, truth = clusters(300)
        confidence = rng.uniform(0.7, 0.999, 300)
        wrong = np.flatnonzero(rng.random(300) > confidence)
        found = doubt(rng.permutation(rows), flipped(truth, wrong.tolist()), confidence, classes=CLASSES, seed=0)
        by_both.append(np.isin(wrong, most_doubtful(found, 0.25)).mean())
        by_confidence.append(np.isin(wrong, most_doubtful(1 - confidence, 0.25)).mean())
    assert np.mean(by_both) > 0.85 * np.mean(by_confidence) > 0.3  # a draw by lot finds a quarter


def test_both_find_what_either_alone_misses():
    rows, truth = clusters(120, spread=0.3)
    labels = flipped(truth, [5, 40])
    rows[60] = rows[61]  # its class is 0, its features are of class 1: the classifier alone is led astray
    confidence = np.full(120, 0.95)
    confidence[60] = 0.999
    confidence[[5, 40]] = 0.6
    alone = doubt(rows, labels, [None] * 120, classes=CLASSES, seed=0)
    both = doubt(rows, labels, confidence, classes=CLASSES, seed=0)
    assert both[60] < alone[60]
    assert both[[5, 40]].min() > alone[[5, 40]].min()
    assert both[[5, 40]].min() > both[60]


def test_a_confidence_that_is_always_high_is_not_believed():
    rows, truth = clusters(200)
    wrong = list(range(0, 200, 10))
    labels = flipped(truth, wrong)
    found = doubt(rows, labels, np.full(200, 0.9999), classes=CLASSES, seed=0)
    assert set(most_doubtful(found, 0.1)) == set(wrong)
    assert found.mean() == pytest.approx(0.1, abs=0.03)


def test_a_mean_confidence_stands_in_for_a_missing_one():
    rows, truth = clusters(60)
    labels = flipped(truth, [3])
    some = np.where(np.arange(60) % 2 == 0, np.nan, 0.8)
    filled = np.full(60, 0.8)
    expected = doubt(rows, labels, filled, classes=CLASSES, seed=0)
    assert doubt(rows, labels, some, classes=CLASSES, seed=0) == pytest.approx(expected)


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["sports"],
        ["sports"] * 8,
        ["sports", "politics"],
        ["sports"] * 29 + ["weather"],
        ["sports"] * 20 + ["politics"] * 8 + ["weather"] * 2,
    ],
)
def test_few_labels_and_rare_classes_do_not_matter(labels: list[str]):
    rows, _ = clusters(len(labels) or 1)
    found = doubt(rows[: len(labels)], labels, [None] * len(labels), classes=CLASSES, seed=0)
    assert found.shape == (len(labels),)
    assert np.isfinite(found).all()
    assert ((found > 0) & (found < 1)).all()
    examined = examine(rows[: len(labels)], labels, [None] * len(labels), classes=CLASSES, seed=0)
    assert examined["predicted"].isin(CLASSES).all()


def test_a_classifier_that_knows_nothing_says_what_the_label_says():
    rows, _ = clusters(6)
    examined = examine(rows, ["weather"] * 6, [None] * 6, classes=CLASSES, seed=0)
    assert set(examined["predicted"]) == {"weather"}
    assert examined["probability"].tolist() == pytest.approx([1 / 3] * 6)


def test_without_a_second_class_the_confidence_is_all_there_is():
    rows, _ = clusters(5)
    confidence = [0.99, 0.6, 0.9, 0.8, 0.95]
    found = doubt(rows, ["sports"] * 5, confidence, classes=CLASSES, seed=0)
    assert np.argsort(-found).tolist() == [1, 3, 2, 4, 0]


def test_the_same_seed_gives_the_same_doubt_and_another_nearly():
    rows, truth = clusters(60)
    labels = flipped(truth, [3, 30])
    first = doubt(rows, labels, [None] * 60, classes=CLASSES, seed=4)
    assert (doubt(rows, labels, [None] * 60, classes=CLASSES, seed=4) == first).all()
    assert set(most_doubtful(doubt(rows, labels, [None] * 60, classes=CLASSES, seed=5), 2 / 60)) == {3, 30}


def test_a_rare_class_is_not_in_doubt_for_being_rare():
    rows, truth = clusters(200, classes=2, spread=0.4)
    keep = np.flatnonzero((truth == 0) | (np.arange(200) < 10))  # 100 and 5
    labels = [CLASSES[i] for i in truth[keep]]
    found = doubt(rows[keep], labels, [None] * len(keep), classes=CLASSES[:2], seed=0)
    assert found[truth[keep] == 1].max() < 0.1


def test_a_label_that_is_no_class_and_uneven_lengths_are_errors():
    rows, _ = clusters(2)
    with pytest.raises(ClassifierError, match="'news'"):
        doubt(rows, ["sports", "news"], [None, None], classes=CLASSES, seed=0)
    with pytest.raises(ClassifierError, match="2 rows, 2 labels and 1 confidences"):
        doubt(rows, ["sports", "sports"], [None], classes=CLASSES, seed=0)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([0.1, 0.9, 0.5, 0.9], 0.5, [1, 3]),
        ([0.5, 0.5, 0.5, 0.5], 0.25, [0]),  # ties by index
        ([0.1, 0.2, 0.3], 0.25, []),  # never more than the share
        ([0.1, 0.2], 1.0, [1, 0]),
        ([], 0.25, []),
    ],
)
def test_most_doubtful_is_an_exact_count(values: list[float], share: float, expected: list[int]):
    assert most_doubtful(np.array(values), share).tolist() == expected


def test_ties_go_by_index_in_long_tables_too():
    values = np.tile([0.5, 0.1], 50)
    assert most_doubtful(values, 0.75).tolist() == [*range(0, 100, 2), *range(1, 50, 2)]


def test_shares_of_a_hundred_are_not_rounded_down_by_floating_point():
    assert [len(most_doubtful(np.zeros(100), percent / 100)) for percent in range(101)] == list(range(101))


def test_what_large_has_labelled_counts_and_is_not_sent_again():
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    large = np.array([True, False, False, False, False, False, False, True])
    assert send_to_large(values, large, 0.5).tolist() == [1, 2]
    assert send_to_large(values, large, 0.25).tolist() == []
    assert send_to_large(values, large, 0.1).tolist() == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 99))
def test_iterations_never_send_more_than_the_share_nor_a_text_twice(batches: list[int], share: float, seed: int):
    rng = np.random.default_rng(seed)
    large = np.zeros(sum(batches), dtype=bool)
    for n in np.cumsum(batches):
        sent = send_to_large(rng.random(n), large[:n], share)
        assert not large[sent].any()
        large[sent] = True
        assert large.sum() == int(share * n + 1e-9)


def test_every_label_stands_beside_what_the_classifier_says_and_likely_errors_have_a_suggestion():
    rows, truth = clusters(120)
    found = examine(rows, flipped(truth, [4, 50]), [None] * 120, classes=CLASSES, seed=0)
    assert found["predicted"].tolist() == [CLASSES[i] for i in truth]
    assert found["suggested"].dropna().to_dict() == {4: CLASSES[truth[4]], 50: CLASSES[truth[50]]}
    assert set(found["doubt"].nlargest(2).index) == {4, 50}
    assert found["probability"].between(1 / 3, 1).all()


def test_a_likely_error_has_twice_the_average_doubt_or_more(monkeypatch):
    """Where classes overlap, the classifier says another class of many a text that is labelled rightly."""
    rows, truth = clusters(240, spread=0.6)
    asked = (rows, flipped(truth, list(range(0, 240, 8))), [None] * 240)
    doubts = doubt(*asked, classes=CLASSES, seed=0)
    listed = likely_errors(*asked)
    monkeypatch.setattr("nbhelpers.doubt.LISTED", 0.0)
    every = likely_errors(*asked)
    assert listed == {place: name for place, name in every.items() if doubts[place] >= 2 * doubts.mean()}
    assert 20 < len(listed) < len(every) - 5


def test_clean_labels_give_no_likely_errors():
    rows, truth = clusters(120)
    assert likely_errors(rows, flipped(truth, []), [None] * 120) == {}


@pytest.mark.parametrize("everything", [False, True])
def test_what_a_person_said_is_in_no_doubt_and_no_likely_error(everything: bool):
    rows, truth = clusters(120)
    certain = [everything or place == 4 for place in range(120)]
    found = examine(rows, flipped(truth, [4, 50]), [None] * 120, classes=CLASSES, seed=0, certain=certain)
    assert found["doubt"][4] == 0
    assert (found["doubt"] == 0).tolist() == certain
    assert found.index[found["suggested"].notna()].tolist() == ([] if everything else [50])


def test_a_confidence_that_holds_keeps_a_label_off_the_list():
    rows, truth = clusters(120, spread=0.3)
    labels = flipped(truth, [5, 40])
    rows[60] = (rows[60] + rows[61]) / np.linalg.norm(rows[60] + rows[61])  # between two classes, rightly labelled
    rows[60] = 0.3 * rows[60] + 0.7 * rows[61]
    confidence = np.full(120, 0.9)
    confidence[[5, 40, 60]] = [0.5, 0.5, 0.3]
    assert {5, 40, 60} <= likely_errors(rows, labels, confidence).keys()
    confidence[60] = 0.9999
    listed = likely_errors(rows, labels, confidence).keys()
    assert {5, 40} <= listed
    assert 60 not in listed


def test_a_text_that_looks_like_no_class_is_in_doubt_but_no_likely_error():
    rows, truth = clusters(120)
    rows[60] = [0.9, 1.0, 0.9, *([0] * 17)] / np.sqrt(0.9**2 * 2 + 1)  # a little more like class 1 than its own, 0
    confidence = np.full(120, 0.95)
    confidence[60] = 0.4
    arguments = (rows, flipped(truth, [4]), confidence)
    assert doubt(*arguments, classes=CLASSES, seed=0)[60] > 0.3
    assert likely_errors(*arguments).keys() == {4}


def test_soft_targets_believe_a_label_less_the_more_it_is_in_doubt() -> None:
    features, corners = clusters(60)
    labels = [CLASSES[corner] for corner in corners]
    labels[0], labels[1] = CLASSES[2], CLASSES[2]  # text 0 is of class 0, text 1 of class 1
    asked = {"classes": CLASSES, "seed": 0}
    doubts = doubt(features, labels, [None] * 60, **asked)
    targets = soft_targets(features, labels, [None] * 60, certain=[False, True] + [False] * 58, **asked)
    assert targets.sum(axis=1) == pytest.approx(np.ones(60))
    assert targets[0, 2] == pytest.approx(1 - doubts[0])
    assert targets[0].argmax() == 0  # what the features say, as the label is hardly believed
    assert targets[1].tolist() == [0, 0, 1]  # a person's label stands
    assert targets[5, corners[5]] == pytest.approx(1 - doubts[5])
    assert targets[5, corners[5]] > 0.9


def test_soft_targets_where_nothing_can_be_said() -> None:
    targets = soft_targets(np.eye(2), ["sports", "sports"], [0.9, 0.9], classes=CLASSES, seed=0)
    assert targets.sum(axis=1) == pytest.approx([1, 1])
    assert (targets[:, 0] > 0.5).all()
    assert targets[0, 1] == targets[0, 2]
    assert soft_targets(np.empty((0, 2)), [], [], classes=CLASSES, seed=0).shape == (0, 3)


def test_a_class_with_few_texts_is_not_doubted_away() -> None:
    features, corners = clusters(60)
    labels = [CLASSES[corner % 2] for corner in corners]
    rare = [0, 1, 2]  # one of each cluster: nothing that a classifier could learn from two of them holds for the third
    for i in rare:
        labels[i] = CLASSES[2]
    doubts = doubt(features, labels, [None] * 60, classes=CLASSES, seed=0)
    targets = soft_targets(features, labels, [None] * 60, classes=CLASSES, seed=0)
    assert doubts[rare].mean() > 0.5
    assert 1 - targets[rare, 2].mean() == pytest.approx(0.25 * 2 / 16)
    others = [i for i in range(60) if labels[i] == CLASSES[0]]
    assert doubts[others].mean() < 0.25
    assert targets[others, 0] == pytest.approx(1 - doubts[others])


@pytest.mark.parametrize(("texts", "most"), [(1, 0.0), (5, 0.0625), (9, 0.125), (17, 0.25), (20, 0.25)])
def test_a_class_may_be_doubted_the_less_the_fewer_texts_it_has(texts: int, most: float) -> None:
    features, corners = clusters(60)
    labels = [CLASSES[corner % 2] for corner in corners]
    confidence = np.full(60, 0.95)
    odd = list(range(texts))  # spread over the clusters, and the LLM was not sure of them
    for i in odd:
        labels[i], confidence[i] = CLASSES[2], 0.2
    assert doubt(features, labels, confidence, classes=CLASSES, seed=0)[odd].mean() > 0.25
    targets = soft_targets(features, labels, confidence, classes=CLASSES, seed=0)
    assert 1 - targets[odd, 2].mean() == pytest.approx(most)


@pytest.mark.filterwarnings("error")
def test_many_classes_with_few_texts_are_examined_without_a_warning() -> None:
    names = [f"class {i}" for i in range(20)]
    features = np.eye(40)
    assert len(doubt(features, [names[i % 20] for i in range(40)], [None] * 40, classes=names, seed=0)) == 40


@pytest.mark.parametrize("n", [2, 3, 5])
def test_without_like_texts_the_doubt_is_the_llms_own_for_any_number_of_classes(n: int) -> None:
    classes = [str(i) for i in range(n)]
    confidence = [0.9, 0.8, 0.7, 0.95, 0.6]
    assert doubt(np.eye(5), ["0"] * 5, confidence, classes=classes, seed=0) == pytest.approx(1 - np.array(confidence))
