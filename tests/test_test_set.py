"""The sealed test set stays as it was drawn, and nothing close to it is trained on."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.audit import support_claim
from nbhelpers.config import Config, RulesSection, Training
from nbhelpers.config_file import parse_config
from nbhelpers.errors import NotEnoughChunksError, RunFolderError
from nbhelpers.run_folder import RunFolder, write_json, write_table
from nbhelpers.selection import random_order
from nbhelpers.test_set import (
    Pool,
    added_since,
    check_enough,
    draw_test_set,
    open_pilot,
    open_pool,
    open_test_set,
    training_pool,
)

IDS = [f"{i:016x}" for i in range(1000)]


def tables(*places: str, alike: Sequence[str] = (), rows: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Chunks and occurrences of files written "name: text text ...", each letter a text in its position.

    `alike` lists near-duplicates ("ab": a and b are one group). In `rows`, each row is a document of its own.
    """
    found = [
        {"chunk_id": text, "source": name, "position": position, "document": f"{name}#{position}" if rows else name}
        for name, texts in (place.split(":") for place in places)
        for position, text in enumerate(texts.split())
    ]
    occurrences = pd.DataFrame(found, columns=["chunk_id", "source", "position", "document"])
    ids = list(dict.fromkeys(occurrences["chunk_id"]))
    group = {text: number for number, texts in enumerate(alike) for text in texts}
    chunks = pd.DataFrame({"chunk_id": ids, "near_group": [group.get(text, 100 + i) for i, text in enumerate(ids)]})
    return chunks, occurrences


def pool_of(
    data: tuple[pd.DataFrame, pd.DataFrame], test: str, *, wanted: int, at_least: int = 0
) -> tuple[str, str, int]:
    """The texts that may be trained on, the scope, and how many are left out."""
    pool = training_pool(*data, list(test), wanted=wanted, at_least=at_least)
    return "".join(pool.chunks["chunk_id"]), pool.scope, pool.left_out


# The draw


def test_the_draw_is_random_and_fixed_by_the_seed() -> None:
    first, second = draw_test_set(IDS, size=100, seed=0), draw_test_set(IDS, size=100, seed=1)
    assert first == draw_test_set(IDS[::-1], size=100, seed=0)
    assert len(set(first)) == len(set(second)) == 100
    assert len(set(first) & set(second)) < 30  # 10 expected
    assert (
        300 < sum(int(chunk_id, 16) for chunk_id in first) / 100 < 700
    )  # from all over the files, not their beginning


def test_every_text_has_the_same_chance() -> None:
    times = dict.fromkeys(IDS[:10], 0)
    for seed in range(1000):
        for chunk_id in draw_test_set(IDS[:10], size=3, seed=seed):
            times[chunk_id] += 1
    assert sum(times.values()) == 3000
    assert all(240 < n < 360 for n in times.values())  # 300 expected, more than four standard deviations either way


def test_files_added_later_do_not_redraw_the_test_set() -> None:
    drawn = draw_test_set(IDS[:50], size=10, seed=0)
    assert draw_test_set(IDS, size=10, seed=0) != drawn  # without the memory it would be another one
    assert draw_test_set(IDS, size=10, seed=0, drawn=drawn) == drawn


def test_a_chunk_that_vanished_is_replaced_and_the_others_stay() -> None:
    drawn = draw_test_set(IDS, size=10, seed=0)
    present = [chunk_id for chunk_id in IDS if chunk_id not in drawn[2:4]]
    again = draw_test_set(present, size=10, seed=0, drawn=drawn)
    assert again[:8] == drawn[:2] + drawn[4:]
    assert len(set(again)) == 10
    assert set(again) <= set(present)


def test_a_test_set_that_grows_does_not_take_the_texts_drawn_at_random_for_training() -> None:
    drawn = draw_test_set(IDS, size=100, seed=0)
    trained = random_order([chunk_id for chunk_id in IDS if chunk_id not in drawn], 0)[:100]
    larger = draw_test_set(IDS, size=200, seed=0, drawn=drawn)
    assert larger[:100] == drawn
    assert len(set(larger) & set(trained)) < 30  # 11 expected


def test_what_a_person_checked_still_counts_once_the_test_set_has_grown() -> None:
    checked = draw_test_set(IDS, size=40, seed=0)
    larger = draw_test_set(IDS, size=60, seed=0, drawn=checked)
    assert support_claim(larger, checked).claim == checked


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(IDS[:12]), unique=True),
    st.lists(st.sampled_from(IDS[:12]), unique=True),
    st.integers(1, 12),
    st.integers(0, 3),
)
def test_what_was_drawn_and_is_there_comes_first(present: list[str], drawn: list[str], size: int, seed: int) -> None:
    result = draw_test_set(present, size=size, seed=seed, drawn=drawn)
    kept = [chunk_id for chunk_id in drawn if chunk_id in present]
    assert len(result) == len(set(result)) == min(size, len(present))
    assert set(result) <= set(present)
    assert result[: len(kept)] == kept[:size]
    assert draw_test_set(present, size=size + 1, seed=seed, drawn=drawn)[:size] == result  # a larger one only adds


# The pool beside it


def test_no_chunk_of_a_test_document_is_trained_on_where_enough_remain() -> None:
    data = tables("one: a b c d", "two: e f g", "three: h i j")
    assert pool_of(data, "bf", wanted=3) == ("hij", "documents", 5)


def test_where_too_few_remain_only_the_neighbours_are_left_out_and_the_scope_says_so() -> None:
    data = tables("one: a b c d", "two: e f g", "three: h i j")
    assert pool_of(data, "bf", wanted=4) == ("dhij", "chunks", 4)
    assert pool_of(data, "a", wanted=100) == ("cdefghij", "chunks", 1)


def test_neighbours_are_counted_in_their_own_document_only() -> None:
    assert pool_of(tables("one: a b c", "two: d e f"), "c", wanted=9) == ("adef", "chunks", 1)
    assert pool_of(tables("one: a b c", "two: b d e"), "a", wanted=9) == ("cde", "chunks", 1)  # b is a neighbour in one


def test_rows_are_documents_of_their_own() -> None:
    data = tables("table.jsonl: a b c d e", rows=True)
    assert pool_of(data, "c", wanted=100) == ("abde", "documents", 0)


def test_a_row_that_repeats_a_test_text_is_the_test_text() -> None:
    assert pool_of(tables("table.jsonl: a b a c", rows=True), "a", wanted=100) == ("bc", "documents", 0)


def test_a_test_text_that_occurs_in_two_documents_counts_for_both() -> None:
    data = tables("one: a b c d", "two: e a f", "three: h i j")
    assert pool_of(data, "a", wanted=3) == ("hij", "documents", 5)
    assert pool_of(data, "a", wanted=4) == ("cdhij", "chunks", 3)  # b, e and f stand beside it


def test_a_text_that_also_occurs_in_a_test_document_is_left_out() -> None:
    data = tables("one: a b x y", "two: x c d")
    assert pool_of(data, "a", wanted=2) == ("cd", "documents", 3)


@pytest.mark.parametrize("wanted", [2, 100])
def test_a_near_duplicate_of_a_test_text_is_never_trained_on(wanted: int) -> None:
    data = tables("one: a b c", "two: d e f", "three: g h i", alike=["agi", "df"])
    texts, _, left_out = pool_of(data, "a", wanted=wanted)
    assert not set(texts) & set("agi")
    assert set("def") <= set(texts)  # alike among themselves is fine
    assert left_out == 9 - 1 - len(texts)


def test_near_duplicates_of_near_duplicates_are_one_group_whatever_document() -> None:
    data = tables("table.jsonl: a b c d", alike=["abc"], rows=True)
    assert pool_of(data, "b", wanted=1) == ("d", "documents", 2)


letters = "abcdefghij"


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(letters), min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(0, 6), min_size=len(letters), max_size=len(letters)),
    st.booleans(),
    st.integers(0, 8),
    st.data(),
)
def test_the_pool_is_what_the_rule_says(
    files: list[list[str]], groups: list[int], rows: bool, wanted: int, data: Any
) -> None:
    """The rule written out text by text."""
    group = dict(zip(letters, groups, strict=True))
    chunks, occurrences = tables(*(f"{i}.txt: {' '.join(texts)}" for i, texts in enumerate(files)), rows=rows)
    chunks["near_group"] = chunks["chunk_id"].map(group)
    test = data.draw(st.lists(st.sampled_from(sorted(chunks["chunk_id"])), unique=True, min_size=1))
    free = {text for text in chunks["chunk_id"] if group[text] not in {group[t] for t in test}}
    documents = [[text] for texts in files for text in texts] if rows else files
    beside = {text for texts in documents if set(test) & set(texts) for text in texts}
    neighbours = {
        other for texts in documents for pair in itertools.pairwise(texts) if set(test) & set(pair) for other in pair
    }
    expected, scope = free - beside, "documents"
    if len(expected) < wanted and expected != free:
        expected, scope = free - neighbours, "chunks"
    pool = training_pool(chunks, occurrences, test, wanted=wanted, at_least=0)
    assert (set(pool.chunks["chunk_id"]), pool.scope) == (expected, scope)
    assert len(pool.chunks) + pool.left_out + len(test) == len(chunks)


# Too few


@pytest.mark.parametrize(
    ("chunks", "test", "train", "said"),
    [
        (100, 200, 40, "There are 100 chunks, but test_set_size (200) and train_set_size (40) need 240. "),
        (100, 200, 40, "training.test_set_size: 83 with training.train_set_size: 17 would fit."),
        (239, 200, 40, "training.test_set_size: 199 with training.train_set_size: 40 would fit."),
        (10, 2, 1000, "training.test_set_size: 2 with training.train_set_size: 8 would fit."),
        (10, 1000, 2, "training.test_set_size: 8 with training.train_set_size: 2 would fit."),
        (5, 200, 40, "There are 5 chunks"),
        (0, 2, 2, "There are 0 chunks, but test_set_size (2) and train_set_size (2) need 4. Add texts, or lower"),
    ],
)
def test_too_few_chunks_says_how_many_there_are_and_what_would_fit(
    chunks: int, test: int, train: int, said: str
) -> None:
    with pytest.raises(NotEnoughChunksError) as raised:
        check_enough(chunks, test_set_size=test, train_set_size=train)
    assert said in str(raised.value)


def test_just_enough_is_enough() -> None:
    check_enough(240, test_set_size=200, train_set_size=40)
    assert pool_of(tables("t.jsonl: a b c d e", rows=True), "a", wanted=9, at_least=4)[0] == "bcde"


@given(st.integers(10, 5000), st.integers(2, 5000), st.integers(2, 5000))
def test_what_is_said_to_fit_does_fit_and_is_a_valid_config(chunks: int, test: int, train: int) -> None:
    if chunks >= test + train:
        check_enough(chunks, test_set_size=test, train_set_size=train)
        return
    with pytest.raises(NotEnoughChunksError) as raised:
        check_enough(chunks, test_set_size=test, train_set_size=train)
    sizes = {key: int(n) for key, n in re.findall(r"training\.(\w+): (\d+)", str(raised.value))}
    check_enough(chunks, **sizes)
    Training.model_validate(sizes)
    assert sum(sizes.values()) == chunks  # nothing is wasted


def test_too_small_a_pool_says_where_the_chunks_went_and_what_would_fit() -> None:
    data = tables("one: a b c d", "two: e f g", alike=["ae"])
    with pytest.raises(NotEnoughChunksError) as raised:
        pool_of(data, "a", wanted=9, at_least=5)
    message = str(raised.value)
    assert "Of 7 chunks, 1 are the test set and 2 are near-duplicates or neighbours of its texts; 4 are left" in message
    assert (
        "train_set_size is 5. Lower training.test_set_size, or add texts; training.train_set_size: 4 would fit."
        in message
    )
    assert pool_of(data, "a", wanted=9, at_least=4)[0] == "cdfg"


def test_a_pool_of_one_is_not_offered() -> None:
    with pytest.raises(NotEnoughChunksError) as raised:
        pool_of(tables("one: a b c"), "a", wanted=9, at_least=2)
    assert str(raised.value).endswith("Lower training.test_set_size, or add texts.")


# On disk


def config_for(folder: Path, **changes: int) -> Config:
    training = {"test_set_size": 10, "train_set_size": 10, "train_set_increment": 10, "max_iters": 1, **changes}
    return parse_config(
        {
            "api": {"large_model": "big", "small_model": "little"},
            "classification": {"classes": ["a", "b"], "desc": "d"},
            "path": {"input_dir": "texts", "output_dir": str(folder)},
            "system": {"seed": training.pop("seed", 0)},
            "training": training,
        }
    )


def ingested(folder: Path, ids: Sequence[str], *, per_document: int = 1) -> RunFolder:
    """A run folder as notebook 01 leaves it, with these chunks in files of `per_document`."""
    run = RunFolder(folder)
    write_table(
        run.chunks,
        pd.DataFrame({"chunk_id": ids, "text": [f"text {i}" for i in ids], "near_group": [int(i, 16) for i in ids]}),
    )
    places = [(i, f"{n // per_document}.txt", n % per_document) for n, i in enumerate(ids)]
    occurrences = pd.DataFrame(places, columns=["chunk_id", "source", "position"])
    write_table(run.occurrences, occurrences.assign(document=occurrences["source"]))
    return run


def opened(run: RunFolder, **changes: int) -> tuple[list[str], Pool]:
    test, pool = open_test_set(config_for(run.root, **changes), run)
    assert test["text"].tolist() == [f"text {i}" for i in test["chunk_id"]]
    assert not set(pool.chunks["chunk_id"]) & set(test["chunk_id"])
    return test["chunk_id"].tolist(), pool


def test_the_test_set_is_written_down_and_read_again(tmp_path: Path) -> None:
    run = ingested(tmp_path, IDS[:100])
    first, pool = opened(run)
    assert first == draw_test_set(IDS[:100], size=10, seed=0)
    assert (len(pool.chunks), pool.scope) == (90, "documents")
    assert json.loads(run.test_set.read_text("utf-8")) == {"seed": 0, "chunks": 100, "chunk_ids": first}
    assert run.test_set == tmp_path / "classifiers" / "truth_labels_classification" / "test_set.json"
    assert opened(run)[0] == first
    assert opened(ingested(tmp_path, IDS))[0] == first  # files were added
    assert draw_test_set(IDS, size=10, seed=0) != first


def test_texts_that_came_after_the_draw_are_counted(tmp_path: Path) -> None:
    run, config = ingested(tmp_path, IDS[:100]), config_for(tmp_path)
    chunks = run.read_table(run.chunks, made_by="01_ingest")
    assert added_since(config, run, chunks) == 0  # nothing is drawn yet
    opened(run)
    assert added_since(config, run, chunks) == 0
    more = ingested(tmp_path, IDS[:130])
    opened(more)  # which does not draw anew
    chunks = more.read_table(run.chunks, made_by="01_ingest")
    assert added_since(config, more, chunks) == 30
    opened(more, seed=1)
    assert added_since(config_for(tmp_path, seed=1), more, chunks) == 0  # another seed is another draw
    assert added_since(config_for(tmp_path, seed=1), more, chunks.head(90)) == 0


def test_a_test_set_made_smaller_and_larger_again_is_the_same(tmp_path: Path) -> None:
    run = ingested(tmp_path, IDS[:100])
    first, _ = opened(run, test_set_size=20)
    ingested(tmp_path, IDS)
    assert opened(run, test_set_size=5)[0] == first[:5]
    assert opened(run, test_set_size=20)[0] == first
    larger, _ = opened(run, test_set_size=30)
    assert larger[:20] == first
    assert opened(run, test_set_size=5)[0] == first[:5]
    assert opened(run, test_set_size=30)[0] == larger


def test_chunks_that_vanish_and_come_back_take_their_place_again(tmp_path: Path) -> None:
    run = ingested(tmp_path, IDS[:100])
    first, _ = opened(run)
    ingested(tmp_path, [chunk_id for chunk_id in IDS[:100] if chunk_id not in first[:3]])
    without, _ = opened(run)
    assert without[:7] == first[3:]
    assert len(without) == 10
    ingested(tmp_path, IDS[:100])
    assert opened(run)[0] == first


def test_another_seed_draws_another_test_set(tmp_path: Path) -> None:
    run = ingested(tmp_path, IDS[:100])
    first, _ = opened(run)
    second, _ = opened(run, seed=1)
    assert second == draw_test_set(IDS[:100], size=10, seed=1) != first
    assert opened(run, seed=1)[0] == second


def test_texts_that_the_rules_were_fitted_to_are_not_drawn_but_may_be_trained_on(tmp_path: Path) -> None:
    run = ingested(tmp_path, IDS[:100])
    usual = draw_test_set(IDS[:100], size=10, seed=0)
    write_json(run.pilot, {"seed": 0, "drawn": usual[:3], "chunk_ids": [*usual[:3], "gone"]})
    test, pool = opened(run)
    assert test[:7] == usual[3:]
    assert not set(test) & set(usual[:3])
    assert set(usual[:3]) <= set(pool.chunks["chunk_id"])
    write_json(run.pilot, {"seed": 0, "drawn": [], "chunk_ids": IDS[:91]})
    with pytest.raises(NotEnoughChunksError, match=r"9 chunks are left without the pilot .* test_set_size is 10"):
        opened(ingested(tmp_path, IDS[:100]))


def test_the_pilot_is_a_draw_of_its_own(tmp_path: Path) -> None:
    run = ingested(tmp_path, IDS)
    config = config_for(tmp_path).model_copy(update={"rules": RulesSection(refine=100)})
    pilot = open_pilot(config, run)["chunk_id"].tolist()
    assert len(set(pilot)) == 100
    assert len(set(pilot) & set(draw_test_set(IDS, size=100, seed=0))) < 30  # 10 expected
    assert open_pilot(config, run)["chunk_id"].tolist() == pilot
    more = config.model_copy(update={"rules": RulesSection(refine=120)})
    assert open_pilot(more, run)["chunk_id"].tolist()[:100] == pilot
    test, _ = opened(run)
    another = config.model_copy(update={"system": config.system.model_copy(update={"seed": 1})})
    second = open_pilot(another, run)["chunk_id"].tolist()
    assert len(set(pilot) & set(second)) < 30
    assert not set(test) & set(second)
    ever = json.loads(run.pilot.read_text("utf-8"))["chunk_ids"]  # none of these is drawn for the test set any more
    assert set(pilot) | set(second) <= set(ever)


def test_the_iterations_still_to_come_decide_what_enough_is(tmp_path: Path) -> None:
    run = ingested(tmp_path, IDS[:100], per_document=5)
    config = config_for(tmp_path, train_set_size=20, train_set_increment=5)
    test, pool = open_test_set(config, run)
    many = open_pool(config_for(tmp_path, train_set_size=20, train_set_increment=5, max_iters=20), run, *_of(run, test))
    assert (pool.scope, many.scope) == ("documents", "chunks")
    assert len(pool.chunks) < len(many.chunks) < 90
    assert set(pool.chunks["chunk_id"]) < set(many.chunks["chunk_id"])
    # 20 + 5 n texts can be used: the largest n for which whole documents may stay out
    n = (len(pool.chunks) - 20) // 5
    for iterations, scope in [(n + 1, "documents"), (n + 2, "chunks")]:
        sizes = {"train_set_size": 20, "train_set_increment": 5, "max_iters": iterations}
        assert open_pool(config_for(tmp_path, **sizes), run, *_of(run, test)).scope == scope


def _of(run: RunFolder, test: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    return run.read_table(run.chunks, made_by="01_ingest"), test["chunk_id"].tolist()


@pytest.mark.parametrize(
    ("ids", "per_document", "said"),
    [(IDS[:15], 1, "There are 15 chunks"), (IDS[:21], 21, "near-duplicates or neighbours")],
)
def test_nothing_is_drawn_where_there_is_too_little(
    tmp_path: Path, ids: list[str], per_document: int, said: str
) -> None:
    run = ingested(tmp_path, ids, per_document=per_document)
    with pytest.raises(NotEnoughChunksError, match=said):
        opened(run)
    assert not run.test_set.exists()


def test_without_chunks_the_notebook_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"chunks\.parquet not found in .*\. Run 01_ingest first\."):
        open_test_set(config_for(tmp_path), RunFolder(tmp_path))


def test_a_damaged_test_set_is_not_silently_drawn_anew(tmp_path: Path) -> None:
    run = ingested(tmp_path, IDS[:100])
    opened(run)
    run.test_set.write_text('{"seed": 0, "chunk_ids": [', "utf-8")
    with pytest.raises(RunFolderError, match=r"test_set\.json cannot be read .* 03_test_labels"):
        opened(run)
