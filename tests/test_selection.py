import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.errors import ConfigError
from nbhelpers.selection import choose, random_order, validation_share

IDS = [f"{i:016x}" for i in range(2000)]
ids = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=30)


def candidates(groups):
    return pd.DataFrame({"chunk_id": IDS[: len(groups)], "near_group": list(groups)})


def sure_of(margins):
    return np.array([[0.5 + margin / 2, 0.5 - margin / 2] for margin in margins])


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
    chosen = choose(candidates(range(50)), n=10, seed=3, strategy="random", probabilities=sure_of([0.5] * 50))
    assert chosen["chunk_id"].tolist() == random_order(IDS[:50], 3)[:10]
    assert set(chosen["why"]) == {"random"}
    assert chosen.columns.tolist() == ["chunk_id", "why"]


def test_auto_without_a_classifier_is_random():
    pool = candidates(range(30))
    auto = choose(pool, n=8, seed=0, strategy="auto", probabilities=None)
    pd.testing.assert_frame_equal(auto, choose(pool, n=8, seed=0, strategy="random", probabilities=None))


def test_auto_takes_half_where_the_classifier_is_least_sure_and_half_at_random():
    margins = np.linspace(0.9, 0.0, 100)  # the last texts are the least sure
    chosen = choose(candidates(range(100)), n=10, seed=0, strategy="auto", probabilities=sure_of(margins))
    assert chosen["chunk_id"].tolist()[:5] == IDS[99:94:-1]
    assert chosen["why"].tolist()[:2] == ["least sure (margin 0.00)", "least sure (margin 0.01)"]
    assert chosen["why"].tolist()[5:] == ["random"] * 5
    left = [chunk_id for chunk_id in random_order(IDS[:100], 0) if chunk_id not in set(IDS[95:100])]
    assert chosen["chunk_id"].tolist()[5:] == left[:5]


def test_margin_is_between_the_two_likeliest_of_many_classes():
    probabilities = np.array([[0.34, 0.33, 0.33], [0.6, 0.39, 0.01], [0.05, 0.475, 0.475], [0.9, 0.05, 0.05]])
    chosen = choose(candidates(range(4)), n=4, seed=0, strategy="auto", probabilities=probabilities)
    assert chosen["chunk_id"].tolist()[:2] == [IDS[2], IDS[0]]
    assert chosen["why"][1] == "least sure (margin 0.01)"


@pytest.mark.parametrize("strategy", ["random", "auto"])
def test_near_duplicates_wait_until_every_group_has_one(strategy):
    groups = [0] * 20 + [1] * 5 + [2, 3, 4]
    margins = [0.0] * 20 + [0.9] * 8  # the near-duplicates are the least sure, and would fill the batch
    chosen = choose(candidates(groups), n=28, seed=1, strategy=strategy, probabilities=sure_of(margins))
    group = dict(zip(IDS, groups, strict=False))
    order = [group[chunk_id] for chunk_id in chosen["chunk_id"]]
    assert sorted(order) == sorted(groups)
    first = choose(candidates(groups), n=5, seed=1, strategy=strategy, probabilities=sure_of(margins))
    assert sorted(group[chunk_id] for chunk_id in first["chunk_id"]) == [0, 1, 2, 3, 4]
    seven = choose(candidates(groups), n=7, seed=1, strategy=strategy, probabilities=sure_of(margins))
    assert sorted(group[chunk_id] for chunk_id in seven["chunk_id"]) == [0, 0, 1, 1, 2, 3, 4]


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 50), st.sampled_from(["auto", "random"]))
def test_choice_is_distinct_candidates_and_as_many_as_there_are(groups, n, strategy):
    margins = np.random.default_rng(0).random(len(groups))
    chosen = choose(candidates(groups), n=n, seed=0, strategy=strategy, probabilities=sure_of(margins).reshape(-1, 2))
    assert len(chosen) == min(n, len(groups))
    assert chosen["chunk_id"].is_unique
    assert set(chosen["chunk_id"]) <= set(IDS[: len(groups)])


def test_candidates_may_have_any_index_and_are_not_changed():
    pool = candidates(range(20)).set_index(pd.Index([7] * 20))
    before = pool.copy()
    chosen = choose(pool, n=6, seed=0, strategy="auto", probabilities=sure_of(np.linspace(0, 1, 20)))
    assert chosen["chunk_id"].tolist()[:3] == IDS[:3]
    pd.testing.assert_frame_equal(pool, before)


def test_unknown_strategy_is_refused():
    with pytest.raises(ConfigError, match="'active'"):
        choose(candidates(range(3)), n=1, seed=0, strategy="active", probabilities=None)
