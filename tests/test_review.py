"""review: what a person's messages do, what is then in the label store, and what the next iteration makes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chat_server import ChatServer
from runs_made import WordFits, dataset, prepare, texts_of, word_of, write_rows

from nbhelpers import review
from nbhelpers.config import Config
from nbhelpers.errors import RunFolderError
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels
from nbhelpers.prediction import predict_all
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder

MakeConfig = Callable[..., Config]
CLASSES = ["sports", "politics", "weather"]
SPORTS, POLITICS, WEATHER = range(3)


def examined(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """chunk_id, label, predicted, doubt, suggested; the rest is the same for all unless a test changes it."""
    table = pd.DataFrame(rows, columns=["chunk_id", "label", "predicted", "doubt", "suggested"])
    return table.assign(
        text="text " + table["chunk_id"],
        source="small",
        split="train",
        confidence=0.75,
        reply="Final label: " + table["label"],
        probability=0.9,
        small_label=table["label"],
    ).astype({"suggested": object})


def choose(chunk_id: str, place: int) -> dict[str, Any]:
    return {"do": "choose", "chunk_id": chunk_id, "class": place}


# The queue


@pytest.fixture
def queue(store: LabelStore) -> review.Queue:
    rows = [(name, "politics", "weather", 0.5, None) for name in ("a", "b", "c")]
    return review.Queue(examined(rows), title="Three", classes=CLASSES, store=store, note="review")


def test_a_choice_is_stored_at_once_and_the_next_undecided_text_comes(queue: review.Queue, store: LabelStore) -> None:
    view = queue.view()
    assert (view["n"], view["decided"], view["place"], view["text"], view["chosen"]) == (3, 0, 0, "text a", None)
    assert queue.act(choose("a", SPORTS)) == "Stored: sports."
    assert store.human_labels() == {"a": "sports"}
    view = queue.view()
    assert (view["decided"], view["place"], view["text"]) == (1, 1, "text b")


def test_a_choice_is_of_the_text_that_the_person_saw(queue: review.Queue, store: LabelStore) -> None:
    queue.act({"do": "move", "step": 1})
    queue.act(choose("a", WEATHER))
    assert store.human_labels() == {"a": "weather"}


def test_one_may_skip_and_go_back_but_not_beyond_the_ends(queue: review.Queue) -> None:
    for step, place in ((-1, 0), (1, 1), (1, 2), (1, 2), (-1, 1)):
        queue.act({"do": "move", "step": step})
        assert queue.view()["place"] == place
    queue.act(choose("b", SPORTS))
    queue.act(choose("c", SPORTS))
    assert queue.view()["place"] == 0  # what was skipped comes at the end
    queue.act({"do": "move", "step": 1})
    assert queue.view()["chosen"] == SPORTS


def test_undo_brings_back_what_was_there_before(queue: review.Queue, store: LabelStore) -> None:
    store.set_human_label("elsewhere", "weather")
    queue.act(choose("a", SPORTS))
    queue.act(choose("a", WEATHER))
    assert queue.act({"do": "undo"}) == "Taken back: text 1 is sports again."
    assert (queue.view()["place"], queue.view()["chosen"]) == (0, SPORTS)
    assert queue.act({"do": "undo"}) == "Taken back: text 1 is undecided again."
    assert queue.act({"do": "undo"}) == "There is nothing to undo."
    assert store.human_labels() == {"elsewhere": "weather"}


def test_a_new_kernel_goes_on_where_the_last_one_died(queue: review.Queue, store: LabelStore) -> None:
    queue.act(choose("a", SPORTS))
    queue.act({"do": "move", "step": 1})
    with LabelStore(store.path) as again:
        opened = review.Queue(queue.texts, title="Three", classes=CLASSES, store=again, note="review")
        assert (opened.view()["place"], opened.view()["decided"]) == (1, 1)
        opened.act({"do": "undo"})
    assert store.human_labels() == {}


def test_a_label_of_a_class_that_is_no_more_does_not_count(queue: review.Queue, store: LabelStore) -> None:
    store.set_human_label("a", "music")
    assert queue.view()["decided"] == 0
    assert queue.view()["chosen"] is None


def test_an_empty_queue_has_nothing_to_show(store: LabelStore) -> None:
    view = review.Queue(examined([]), title="None", classes=CLASSES, store=store, note="").view()
    assert view["n"] == view["decided"] == 0
    assert "text" not in view


def test_what_others_say_stands_beside_the_text() -> None:
    row = {**examined([("a", "politics", "weather", 0.5, None)]).iloc[0], "why": "least sure"}
    assert review.details(row) == [
        ["why", "least sure"],
        ["small LLM", "politics (75 %)"],
        ["its reply", "Final label: politics"],
        ["classifier", "weather (90 %)"],
    ]
    assert ["small LLM", "politics"] in review.details({**row, "source": "large", "label": "sports"})
    by_hand = {**row, "source": "human", "confidence": float("nan"), "why": None}
    assert review.details(by_hand)[0] == ["label by a person", "politics"]
    failed = {**row, "label": None, "reply": None, "small_label": None, "predicted": None, "why": None}
    assert review.details(failed) == []


def test_the_queue_begins_with_likely_errors_then_disagreements_then_the_least_sure(
    make_config: MakeConfig, store: LabelStore
) -> None:
    table = examined(
        [
            ("sure", "sports", "sports", 0.01, None),
            ("unsure", "sports", "sports", 0.4, None),
            ("differ", "sports", "sports", 0.1, None),
            ("wrong", "sports", "weather", 0.7, "weather"),
            ("wrongest", "sports", "weather", 0.9, "weather"),
            ("validation", "sports", "weather", 0.99, "weather"),
            ("own file", "sports", "weather", 0.99, "weather"),
            ("before", "sports", "weather", 0.99, "weather"),
        ]
    )
    table.loc[2, ["source", "small_label"]] = ["large", "politics"]
    table.loc[5, "split"] = "validation"
    table.loc[6, "source"] = "human"
    store.set_human_label("before", "politics")
    found = review.open_queue(table, config=make_config(), store=store, n=4)
    assert found.texts[["chunk_id", "why"]].to_numpy().tolist() == [
        ["before", "decided before"],
        ["wrongest", review.LIKELY_ERROR],
        ["wrong", review.LIKELY_ERROR],
        ["differ", review.DISAGREEMENT],
        ["unsure", review.LEAST_SURE],
    ]
    assert found.view()["text"] == "text wrongest"


# The matrix

ROWS = [
    ("a", "sports", "sports", 0.1, None),
    ("b", "sports", "politics", 0.9, "politics"),
    ("c", "sports", "politics", 0.8, None),
    ("d", "weather", "weather", 0.2, None),
]


@pytest.fixture
def matrix(make_config: MakeConfig, store: LabelStore) -> review.Matrix:
    return review.matrix_of_train_set(examined(ROWS), config=make_config(), store=store)


def test_a_cell_opens_with_its_texts_the_most_doubtful_first(matrix: review.Matrix) -> None:
    assert matrix.view()["counts"] == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert matrix.view()["cell"] is None
    assert matrix.act({"do": "open", "row": SPORTS, "column": POLITICS}) == "2 texts."
    view = matrix.view()
    assert view["cell"] == [SPORTS, POLITICS]
    assert [text["chunk_id"] for text in view["texts"]] == ["b", "c"]
    assert view["texts"][0]["details"] == [
        ["small LLM", "sports (75 %)"],
        ["its reply", "Final label: sports"],
        ["classifier", "politics (90 %)"],
    ]
    assert matrix.act({"do": "open", "row": WEATHER, "column": WEATHER}) == "1 text."
    assert matrix.act({"do": "open", "row": POLITICS, "column": SPORTS}) == "0 texts."


def test_a_moved_text_counts_where_it_is_now_and_stays_listed(matrix: review.Matrix, store: LabelStore) -> None:
    matrix.act({"do": "open", "row": SPORTS, "column": POLITICS})
    assert matrix.act(choose("c", POLITICS)) == "Stored: politics. The next iteration learns from it."
    assert store.human_labels() == {"c": "politics"}
    view = matrix.view()
    assert view["counts"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert [(text["chunk_id"], text["class"], text["yours"]) for text in view["texts"]] == [
        ("b", SPORTS, False),
        ("c", POLITICS, True),
    ]
    assert matrix.act({"do": "undo"}) == "Taken back: the text is sports again."
    assert matrix.view()["counts"] == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert matrix.act({"do": "undo"}) == "There is nothing to undo."


def test_a_long_cell_is_read_page_by_page(make_config: MakeConfig, store: LabelStore) -> None:
    rows = [(f"t{i}", "sports", "sports", 0.5, None) for i in range(review.PAGE + 5)]
    matrix = review.matrix_of_train_set(examined(rows), config=make_config(), store=store)
    matrix.act({"do": "open", "row": 0, "column": 0})
    assert (len(matrix.view()["texts"]), matrix.view()["more"]) == (review.PAGE, 5)
    matrix.act({"do": "more"})
    assert (len(matrix.view()["texts"]), matrix.view()["more"]) == (review.PAGE + 5, 0)


def test_the_test_sets_matrix_can_only_be_read(make_config: MakeConfig, store: LabelStore) -> None:
    table = examined(ROWS)
    table.loc[0, "label"] = None
    matrix = review.matrix_of_test_set(table, config=make_config())
    store.set_human_label("b", "weather")  # such as by the audit
    assert matrix.view()["counts"] == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert matrix.view()["editable"] is False
    matrix.act({"do": "open", "row": SPORTS, "column": POLITICS})
    for message in (choose("c", POLITICS), {"do": "undo"}):
        assert matrix.act(message) == "These labels can only be read."
    assert store.human_labels() == {"b": "weather"}
    assert matrix.confusion().loc["sports", "politics"] == 2


# In a run


@pytest.fixture
def rounds(
    make_config: MakeConfig,
    server: ChatServer,
    run: RunFolder,
    store: LabelStore,
    tiny_base_model: Path,
    fits: WordFits,
) -> Rounds:
    """40 test texts, and pools of 30 texts that last for two iterations."""
    sizes = {"train_set_size": 30, "train_set_increment": 30, "test_set_size": 40, "max_iters": 2}
    config = make_config(
        server.url,
        training={"model_path": str(tiny_base_model), **sizes},
        system={"required_accuracy": 1.0, "stop_rule": "lower_bound"},
    )
    write_rows(config.path.input_dir, texts_of({"goal": 50, "vote": 50}))
    prepare(config, run, store)
    return Rounds(config, run, store)


def look_up(rounds: Rounds, run: RunFolder, number: int, chunk_id: str) -> tuple[str, str]:
    row = dataset(run, number).set_index("chunk_id").loc[chunk_id]
    return row["label"], row["source"]


def test_a_label_given_in_the_matrix_trains_the_next_classifier_and_stays_in_the_predictions(
    rounds: Rounds, run: RunFolder, store: LabelStore
) -> None:
    rounds.step()
    matrix = review.matrix_of_train_set(rounds.examine_labels(), config=rounds.config, store=store)
    matrix.act({"do": "open", "row": SPORTS, "column": SPORTS})
    text = matrix.view()["texts"][0]
    assert word_of(text["text"]) == "goal"
    assert look_up(rounds, run, 1, text["chunk_id"]) == ("sports", "small")
    matrix.act(choose(text["chunk_id"], WEATHER))
    rounds.step()
    assert look_up(rounds, run, 2, text["chunk_id"]) == ("weather", "human")
    assert "confidence" not in dataset(run, 2).query("source == 'human'").dropna(axis=1)
    predictions = predict_all(rounds.config, run, store).set_index("chunk_id").loc[text["chunk_id"]]
    assert (predictions["label"], predictions["label_source"]) == ("weather", "human")


def test_where_no_text_is_left_a_correction_is_worth_one_more_iteration(
    rounds: Rounds, run: RunFolder, store: LabelStore
) -> None:
    assert rounds.run_until_done()["status"] == "max_iters"
    assert rounds.step() is None
    queue = review.open_queue(rounds.examine_labels(), config=rounds.config, store=store)
    queue.act(choose(queue.view()["chunk_id"], WEATHER))
    again = rounds.step()
    assert again is not None
    assert again.row["labelled_by"]["human"] == 1
    assert rounds.step() is None


def test_the_test_predictions_say_how_sure_the_classifier_is(rounds: Rounds) -> None:
    rounds.step()
    table = rounds.test_predictions()
    assert table["predicted"].tolist() == rounds.final.predicted
    assert set(table["probability"].round(4)) == {0.8}  # it knows both words


def test_the_audit_is_blind_until_all_are_decided_and_then_says_how_good_the_llm_is(
    rounds: Rounds, run: RunFolder, store: LabelStore
) -> None:
    audit = review.open_audit(rounds.config, run, store, n=10)
    before = read_test_labels(run)
    assert audit.texts["chunk_id"].tolist() == before["chunk_id"].tolist()[:10]
    assert "Nobody has checked" in review.tell_audit(rounds.config, run, store)
    for number in range(10):
        view = audit.view()
        assert view["place"] == number
        assert view["details"] == []
        assert "summary" not in view
        right = {"goal": SPORTS, "vote": POLITICS}[word_of(view["text"])]
        audit.act(choose(view["chunk_id"], WEATHER if number == 3 else right))
    view = audit.view()
    assert view["details"][0][0] == "large LLM"
    assert view["summary"].startswith(
        "The large LLM's label is the person's on 9 of 10 test texts drawn at random "
        "(90.0%, 95 % interval 55.5% to 99.7%). Most often wrong: weather called "
    )
    pd.testing.assert_frame_equal(read_test_labels(run), before)
    given = store.human_labels()
    assert not view["editable"]  # or agreeing with what is shown would make the LLM better than it is
    for longer in (audit, review.open_audit(rounds.config, run, store, n=12)):
        said = longer.act(choose(view["chunk_id"], POLITICS))
        assert said == "What others said of it has been shown, so this label stays."
        assert longer.act({"do": "undo"}) == "There is nothing to undo."
    assert store.human_labels() == given
    assert longer.view()["editable"]  # two more
    rounds.step()
    truth = rounds.truth()
    assert truth is not None
    assert (truth.m, truth.alone) == (10, 0.9)


def test_a_text_that_is_skipped_in_the_audit_ends_what_supports_a_claim(
    rounds: Rounds, run: RunFolder, store: LabelStore
) -> None:
    audit = review.open_audit(rounds.config, run, store, n=5)
    for chunk_id, text in zip(audit.texts["chunk_id"], audit.texts["text"], strict=True):
        if chunk_id != audit.texts["chunk_id"][2]:
            audit.act(choose(chunk_id, {"goal": SPORTS, "vote": POLITICS}[word_of(text)]))
    assert "on 2 of 2 test texts" in review.tell_audit(rounds.config, run, store)


def test_a_label_that_could_not_be_stored_is_an_error(queue: review.Queue, store: LabelStore) -> None:
    store._db.execute("DROP TABLE human_labels")
    with pytest.raises(RunFolderError, match="could not be used"):
        queue.act(choose("a", SPORTS))
