"""When the loop ends, by hand-computed cases and over simulated runs."""

import pytest
from runs_simulated import Setting, simulate

from nbhelpers.stopping import converged, target_reached, worth_a_look


@pytest.mark.parametrize(
    ("changes", "rule", "reached"),
    [
        ({}, "lower_bound", True),
        ({}, "accuracy", True),
        ({"lower_bound": 0.899}, "lower_bound", False),
        ({"lower_bound": 0.899}, "accuracy", True),
        ({"lower_bound": None}, "lower_bound", False),  # no look at the test set was taken
        ({"lower_bound": None}, "accuracy", True),
        ({"majority_baseline": 0.95}, "lower_bound", False),  # always the same answer does as well
        ({"majority_baseline": 0.95}, "accuracy", False),
    ],
)
def test_the_target_is_reached_by_the_rule_and_above_the_baseline(changes, rule, reached):
    row = {"accuracy": 0.96, "accuracy_low": 0.93, "majority_baseline": 0.5, "lower_bound": 0.9, **changes}
    assert target_reached(row, target=0.9, rule=rule) is reached


# 189 of 200 must be right at the first look, 0.945; of labels that are wrong once in ten, 0.9 * 0.945 = 0.8505.
# P(p > 0.8505) with all of t right is 1 - 0.8505 ** (t + 1).
@pytest.mark.parametrize(
    ("right", "total", "worth"),
    [
        (0, 0, False),  # nothing to go by
        (1, 1, True),  # 1 - 0.8505 ** 2 = 0.28
        (8, 8, True),  # 0.77
        (6, 8, False),
        (17, 20, True),
        (16, 20, False),
        (32, 40, False),
    ],
)
def test_a_look_is_taken_where_the_validation_set_leaves_a_chance(right, total, worth):
    assert worth_a_look(right, total, target=0.9, test_size=200, look=1) is worth


def test_a_look_that_could_show_nothing_is_not_taken():
    assert worth_a_look(40, 40, target=0.9, test_size=36, look=1)  # all 36 right would do
    assert not worth_a_look(40, 40, target=0.9, test_size=36, look=2)  # now not even these
    assert not worth_a_look(40, 40, target=0.9, test_size=35, look=1)


def predictions(*changes: int, texts: int = 300) -> list[dict[str, str]]:
    """Predictions of two classes, half each, where the given number of texts changes its class after each iteration."""
    said = ["a", "b"] * (texts // 2)
    made, place = [list(said)], 0
    for change in changes:
        for _ in range(change):
            said[place] = "b" if said[place] == "a" else "a"
            place += 1
        made.append(list(said))
    return [{str(i): name for i, name in enumerate(one)} for one in made]


# With two even classes kappa is about 1 - 2 * changed / texts; the mean of three is 0.99 where 4.5 of 900 change.
@pytest.mark.parametrize(
    ("changes", "ended"),
    [
        ((0, 0, 0), True),
        ((2, 1, 1), True),
        ((2, 2, 1), False),
        ((0, 0), False),  # three iterations
        ((90, 0, 0, 0), True),  # only the last three comparisons count
        ((0, 0, 0, 90), False),
        ((3, 3, 3, 3, 3), False),
    ],
)
def test_it_has_converged_when_the_last_three_iterations_change_hardly_a_text(changes, ended):
    assert converged(predictions(*changes)) is ended


def test_always_the_same_class_is_no_sign_of_an_end():
    assert not converged([{str(i): "a" for i in range(300)}] * 4)


def test_few_texts_are_no_sign_of_an_end_and_labelled_ones_do_not_count():
    assert converged(predictions(0, 0, 0, texts=100))
    assert not converged(predictions(0, 0, 0, texts=98))
    *earlier, last = predictions(0, 0, 0, texts=300)
    assert converged([*earlier, {name: said for name, said in last.items() if int(name) >= 200}])
    assert not converged([*earlier, {name: said for name, said in last.items() if int(name) > 200}])


RUNS = 400
SLACK = 2.5 * (0.05 * 0.95 / RUNS) ** 0.5  # of a share of 0.05 over so many runs


@pytest.mark.parametrize(
    "setting",
    [
        Setting(accuracy=0.899, target=0.9, test_size=100, classes=2),
        Setting(accuracy=0.899, target=0.9, test_size=300, classes=20),
        Setting(accuracy=0.79, target=0.8, test_size=600, classes=5),
        Setting(accuracy=0.88, target=0.9, test_size=200, classes=5, rise=0.1),
    ],
    ids=str,
)
def test_at_most_five_runs_in_a_hundred_stop_or_claim_wrongly(setting):
    outcome = simulate(setting, runs=RUNS, seed=1)
    assert outcome.stopped_wrongly <= 0.05
    assert outcome.claimed_wrongly <= 0.05
    assert outcome.covered >= 0.95 - SLACK


@pytest.mark.parametrize(("rule", "at_least"), [("naive", 0.07), ("accuracy", 0.7)])
def test_without_counting_the_looks_they_would(rule, at_least):
    """The simulation can tell a rule that holds from one that does not."""
    setting = Setting(accuracy=0.899, target=0.9, test_size=300, classes=5)
    assert simulate(setting, runs=RUNS, seed=1, rule=rule).stopped_wrongly >= at_least


def test_a_classifier_well_above_the_target_is_shown_to_be():
    outcome = simulate(Setting(accuracy=0.96, target=0.9, test_size=200, classes=5), runs=RUNS, seed=1)
    assert outcome.reached >= 0.9
    assert outcome.stopped_wrongly == 0
    assert outcome.iterations_taken < 3  # and soon
