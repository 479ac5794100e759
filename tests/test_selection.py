import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.errors import ConfigError
from nbhelpers.selection import choose, random_order, random_part, validation_share, weigh

IDS = [f"{i:016x}" for i in range(2000)]
ids = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=30)


def candidates(groups):
    return pd.DataFrame({"chunk_id": IDS[: len(groups)], "near_group": list(groups)})


def circle(n):
    """Rows of length 1 from one axis to the other."""
    angles = np.linspace(0, np.pi / 2, n)
    return np.column_stack([np.cos(angles), np.sin(angles)])


def around(centre, n, *, seed):
    """Rows of length 1, close to a point."""
    rows = np.asarray(centre) + 0.05 * np.random.default_rng(seed).standard_normal((n, len(centre)))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def labelled_evidence(rows, known, labels, doubts=None):
    """Of two classes, described as the first and as the last row."""
    doubts = [0.0] * len(known) if doubts is None else doubts
    ends = rows[[0, -1]] if len(rows) else np.empty((2, 2))
    return weigh(rows, ends, classes=["a", "b"], labelled=rows[known], labels=labels, doubts=doubts)


def test_validation_share_is_about_the_share_asked_for():
    assert validation_share(IDS).mean() == pytest.approx(0.2, abs=0.03)
    assert validation_share(IDS, share=0.5).mean() == pytest.approx(0.5, abs=0.03)
    assert not validation_share(IDS, share=0).any()
    assert validation_share(IDS, share=1).all()
    assert validation_share([]).dtype == bool


@settings(deadline=None)
@given(ids)
def test_validation_share_depends_on_the_chunk_id_alone(chunk_ids):
    together = validation_share(chunk_ids).tolist()
    assert together == [bool(validation_share([chunk_id])[0]) for chunk_id in chunk_ids]
    assert validation_share(chunk_ids[::-1]).tolist() == together[::-1]


@settings(deadline=None)
@given(ids, st.integers(0, 5), st.data())
def test_random_order_keeps_when_texts_come_and_go(chunk_ids, seed, data):
    order = random_order(chunk_ids, seed)
    assert sorted(order) == sorted(chunk_ids)
    assert random_order(chunk_ids[::-1], seed) == order
    kept = [chunk_id for chunk_id in chunk_ids if data.draw(st.booleans())]
    assert random_order(kept, seed) == [chunk_id for chunk_id in order if chunk_id in set(kept)]


def test_random_order_is_another_one_for_another_seed_and_independent_of_validation():
    first, second = random_order(IDS, 0), random_order(IDS, 1)
    assert first != second
    assert len(set(first[:200]) & set(second[:200])) < 50  # 20 expected
    assert validation_share(first[:400]).mean() == pytest.approx(0.2, abs=0.07)


def test_stored_draws_never_move():
    # Runs that exist depend on these: a change here would redraw their test sets.
    assert random_order(["a", "b", "c", "d"], 0) == ["d", "a", "b", "c"]
    assert validation_share(IDS[:12]).nonzero()[0].tolist() == [1, 9]


def test_random_choice_is_the_random_order():
    chosen = choose(candidates(range(50)), n=10, seed=3, strategy="random")
    assert chosen["chunk_id"].tolist() == random_order(IDS[:50], 3)[:10]
    assert set(chosen["why"]) == {"random"}
    assert chosen.columns.tolist() == ["chunk_id", "why"]


def test_random_choice_takes_no_notice_of_the_evidence():
    pool, evidence = candidates(range(50)), labelled_evidence(circle(50), [0, 25], ["a", "b"])
    pd.testing.assert_frame_equal(
        choose(pool, n=10, seed=3, strategy="random", evidence=evidence), choose(pool, n=10, seed=3, strategy="random")
    )


def test_a_fifth_of_an_active_batch_is_the_next_of_the_random_order():
    pool = candidates(range(100))
    evidence = labelled_evidence(circle(100), [0, 50], ["a", "b"])
    chosen = choose(pool, n=20, seed=0, strategy="auto", evidence=evidence)
    assert chosen["chunk_id"].tolist()[:4] == random_order(IDS[:100], 0)[:4]
    assert chosen["why"].eq("random").tolist() == [True] * 4 + [False] * 16


def test_first_batch_is_near_each_description_and_typical():
    # Clusters of 40, 30 and 20 texts; the first class is described as the second cluster, the second as the third.
    axes = np.eye(3)
    rows = np.vstack([around(axes[i], n, seed=i) for i, n in enumerate((40, 30, 20))])
    evidence = weigh(rows, axes[[1, 2]], classes=["a", "b"], labelled=rows[:0], labels=[], doubts=[])
    chosen = choose(candidates(range(90)), n=10, seed=0, strategy="auto", evidence=evidence)
    cluster = {chunk_id: 0 if i < 40 else 1 if i < 70 else 2 for i, chunk_id in enumerate(IDS[:90])}
    by_why = {why: [cluster[i] for i in part] for why, part in chosen.groupby("why")["chunk_id"]}
    assert by_why["near the description of a"] == [1]
    assert by_why["near the description of b"] == [2]
    assert len(by_why["random"]) == 2
    assert set(by_why["typical of many texts"]) == {0, 1, 2}
    assert len(by_why["typical of many texts"]) == 6


def test_later_batch_is_where_the_classifier_is_least_sure():
    rows = circle(400)  # one class at the one end, the other at the other: unsure half-way
    evidence = labelled_evidence(rows, [0, 75, 150, 250, 325, 399], ["a", "a", "a", "b", "b", "b"])
    chosen = choose(candidates(range(400)), n=10, seed=0, strategy="auto", evidence=evidence)
    place = chosen["chunk_id"].map({chunk_id: i for i, chunk_id in enumerate(IDS)})[2:]
    assert chosen["why"][2:].str.startswith("least sure (margin 0.0").all()
    assert place.between(185, 215).all()  # of the 16 smallest margins
    assert place.max() - place.min() > 10  # not the 8 smallest, which are alike


@pytest.mark.parametrize(("known", "unlike"), [([0, 90], {1, 2}), ([0, 90, 50], {2}), ([0, 30, 60, 90], set())])
def test_what_no_labelled_text_is_like_gets_its_share_of_a_batch(known, unlike):
    axes = np.eye(12)
    rows = np.vstack([around(axes[i], 30, seed=i) for i in range(4)])  # four clusters of 30 texts
    left = np.setdiff1d(np.arange(120), known)
    labels = ["a", "b", "b", "b"][: len(known)]
    evidence = weigh(
        rows[left], axes[[0, 3]], classes=["a", "b"], labelled=rows[known], labels=labels, doubts=[0.0] * len(known)
    )
    chosen = choose(candidates(range(120)).iloc[left], n=30, seed=0, strategy="auto", evidence=evidence)
    new = chosen.loc[chosen["why"] == "unlike any labelled text", "chunk_id"]
    assert {IDS.index(chunk_id) // 30 for chunk_id in new} == unlike
    assert len(new) == pytest.approx(24 * len(unlike) / 4, abs=1.5)


@pytest.mark.parametrize("labels_of_c", [0, 1])
def test_class_with_few_labels_so_far_is_looked_for(labels_of_c):
    # 5 of 205 texts are of class c, which is never the likeliest of a classifier that knows one of its texts, or none.
    axes = np.eye(3)
    rows = np.vstack([around(axes[0], 100, seed=0), around(axes[1], 100, seed=1), around(axes[2], 5, seed=2)])
    rows = np.vstack([rows, around(axes[2], 1, seed=3)])  # labelled already
    known = [*range(10), *range(100, 110), *[205] * labels_of_c]
    labels = ["a"] * 10 + ["b"] * 10 + ["c"] * labels_of_c
    evidence = weigh(
        rows[:205], axes, classes=["a", "b", "c"], labelled=rows[known], labels=labels, doubts=np.zeros(len(known))
    )
    chosen = choose(candidates(range(205)), n=20, seed=0, strategy="auto", evidence=evidence)
    found = chosen.loc[chosen["why"] == "likely c, which is rare so far", "chunk_id"]
    assert len(found) == 5 - labels_of_c  # 0.75 of an equal part of 20 labels is 5, 0.3 of 16 texts 4.8
    assert set(found) <= set(IDS[200:205])


def test_of_many_classes_not_only_the_first_ones_are_looked_for():
    names = [f"class {i}" for i in range(77)]
    rows, described = around(np.eye(80)[0], 200, seed=0), np.eye(80)[:77]
    nothing = weigh(rows, described, classes=names, labelled=rows[:0], labels=[], doubts=[])
    first = choose(candidates(range(200)), n=40, seed=0, strategy="auto", evidence=nothing)["why"]
    near = first[first.str.startswith("near the description")].str.extract(r"(\d+)$")[0].astype(int)
    assert len(near) == near.nunique() == 16  # half of 32 texts
    assert near.max() > 40
    more = weigh(rows[40:], described, classes=names, labelled=rows[:40], labels=names[:40], doubts=[0.0] * 40)
    later = choose(candidates(range(160)), n=40, seed=0, strategy="auto", evidence=more)["why"]
    rare = later[later.str.endswith("rare so far")].str.extract(r"class (\d+),")[0].astype(int)
    assert len(rare) == rare.nunique() == 10  # 0.3 of 32 texts
    assert rare.min() >= 40


@pytest.mark.parametrize(
    ("doubts", "chased"),
    [([0.9, 0.9, 0.9], False), ([0.9, 0.9, 0.1], True), ([0.0, 0.0, 0.0], True)],
)
def test_texts_amid_doubtful_labels_are_not_chased(doubts, chased):
    rows = circle(200)
    known, labels = [0, 1, 2, 98, 100, 102, 197, 198, 199], ["a", "a", "a", "a", "b", "b", "b", "b", "b"]
    evidence = labelled_evidence(rows, known, labels, doubts=[0.1] * 3 + doubts + [0.1] * 3)
    chosen = choose(candidates(range(200)), n=20, seed=0, strategy="auto", evidence=evidence)
    place = chosen["chunk_id"].map({chunk_id: i for i, chunk_id in enumerate(IDS)})
    # From 53 to 147, where the classifier is least sure, the nearest three labels are those at 98, 100 and 102.
    assert place[chosen["why"] != "random"].between(53, 147).any() == chased


@pytest.mark.parametrize("strategy", ["random", "auto"])
def test_near_duplicates_wait_until_every_group_has_one(strategy):
    groups = [0] * 20 + [1] * 5 + [2, 3, 4]
    evidence = labelled_evidence(circle(28), [0, 27], ["a", "b"])
    group = dict(zip(IDS, groups, strict=False))

    def first(n):
        chosen = choose(candidates(groups), n=n, seed=1, strategy=strategy, evidence=evidence)
        return [group[chunk_id] for chunk_id in chosen["chunk_id"]]

    assert sorted(first(28)) == sorted(groups)
    assert sorted(first(5)) == [0, 1, 2, 3, 4]
    assert sorted(first(7)) == [0, 0, 1, 1, 2, 3, 4]


@pytest.mark.parametrize("strategy", ["random", "auto"])
def test_near_duplicates_of_labelled_texts_wait_too(strategy):
    evidence = labelled_evidence(circle(40), [0, 39], ["a", "b"])
    groups = [7] * 30 + list(range(10, 20))
    chosen = choose(candidates(groups), n=10, seed=1, strategy=strategy, evidence=evidence, labelled_groups=[7])
    assert sorted(chosen["chunk_id"]) == sorted(IDS[30:40])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 50), st.sampled_from(["auto", "random"]), st.booleans())
def test_choice_is_distinct_candidates_and_as_many_as_there_are(groups, n, strategy, first):
    rows = circle(len(groups))
    labelled = [] if first or not groups else [0, len(groups) - 1]
    evidence = labelled_evidence(rows, labelled, ["a", "b"][: len(labelled)])
    chosen = choose(candidates(groups), n=n, seed=0, strategy=strategy, evidence=evidence)
    assert len(chosen) == min(n, len(groups))
    assert chosen["chunk_id"].is_unique
    assert set(chosen["chunk_id"]) <= set(IDS[: len(groups)])


def test_candidates_may_have_any_index_and_are_not_changed():
    pool = candidates(range(20)).set_index(pd.Index([7] * 20))
    before, evidence = pool.copy(), labelled_evidence(circle(20), [0, 19], ["a", "b"])
    chosen = choose(pool, n=6, seed=0, strategy="auto", evidence=evidence)
    pd.testing.assert_frame_equal(
        chosen, choose(candidates(range(20)), n=6, seed=0, strategy="auto", evidence=evidence)
    )
    pd.testing.assert_frame_equal(pool, before)


def test_unknown_strategy_is_refused():
    with pytest.raises(ConfigError, match="'active'"):
        choose(candidates(range(3)), n=1, seed=0, strategy="active")


def test_twenty_thousand_candidates_take_seconds():
    rows = np.random.default_rng(0).standard_normal((20_000, 32), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pool = pd.DataFrame({"chunk_id": [f"{i:x}" for i in range(20_000)], "near_group": range(20_000)})
    started = time.process_time()
    for labelled in ([], list(range(100))):
        evidence = labelled_evidence(rows, labelled, ["a", "b"] * (len(labelled) // 2))
        assert len(choose(pool, n=40, seed=0, strategy="auto", evidence=evidence)) == 40
    assert time.process_time() - started < 20


# The random part


def chosen_as(*pairs):
    return pd.DataFrame(list(pairs), columns=["chunk_id", "why"])


def test_random_part_is_the_random_order_up_to_the_last_text_drawn_at_random():
    pool = candidates(range(10))
    order = random_order(IDS[:10], 0)
    chosen = chosen_as((order[0], "random"), (order[7], "least sure"), (order[2], "random"), (order[1], "typical"))
    assert random_part(pool, chosen, seed=0) == order[:3]
    # The fourth was chosen and not drawn: counted, it would be there because it was thought rare or hard.
    assert random_part(pool, pd.concat([chosen, chosen_as((order[3], "least sure"))]), seed=0) == order[:3]


def test_random_part_ends_where_a_text_was_not_chosen():
    order = random_order(IDS[:10], 0)
    chosen = chosen_as((order[0], "random"), (order[2], "random"))  # drawn with another seed, say
    assert random_part(candidates(range(10)), chosen, seed=0) == order[:1]
    assert random_part(candidates(range(10)), chosen_as(), seed=0) == []


def test_random_part_counts_a_near_duplicate_by_the_text_that_stands_for_it():
    order = random_order(IDS[:6], 0)
    pool = pd.DataFrame({"chunk_id": order, "near_group": [0, 1, 0, 2, 0, 3]})
    chosen = chosen_as((order[0], "random"), (order[1], "random"), (order[3], "random"))
    assert random_part(pool, chosen, seed=0) == [order[0], order[1], order[0], order[3]]


def test_random_part_of_an_active_run_has_the_shares_of_the_pool():
    # 6 % of the pool are of class b, which the active part finds first: more than half of the labels are.
    rng = np.random.default_rng(0)
    shares, found = [], []
    for seed in range(15):
        true = rng.random(500) < 0.06
        rows = np.vstack([around([1.0, 0.0], 500, seed=seed)])
        rows[true] = around([0.0, 1.0], int(true.sum()), seed=seed)
        pool, chosen = candidates(range(500)), chosen_as()
        place = {chunk_id: i for i, chunk_id in enumerate(IDS[:500])}
        for _ in range(3):
            known = [place[chunk_id] for chunk_id in chosen["chunk_id"]]
            left = np.setdiff1d(np.arange(500), known)
            labels = ["b" if true[i] else "a" for i in known]
            evidence = weigh(
                rows[left],
                np.eye(2),
                classes=["a", "b"],
                labelled=rows[known],
                labels=labels,
                doubts=[0.0] * len(known),
            )
            more = choose(pool.iloc[left], n=20, seed=seed, strategy="auto", evidence=evidence)
            chosen = pd.concat([chosen, more])
        sample = random_part(pool, chosen, seed=seed)
        shares.append(np.mean([true[place[chunk_id]] for chunk_id in sample]))
        found.append(np.mean([true[place[chunk_id]] for chunk_id in chosen["chunk_id"]]))
    assert np.mean(found) > 0.2
    assert np.mean(shares) == pytest.approx(0.06, abs=0.04)  # standard error 0.015
