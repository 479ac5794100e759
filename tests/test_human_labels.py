"""Labels that people own: used in training, and what those of test texts say about the truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chat_server import ChatServer, shown_text
from runs_made import LABELLER, WordFits, prepare, texts_of, write_rows

from nbhelpers.audit import truth_interval
from nbhelpers.config import Config
from nbhelpers.human_labels import accuracy_against_people, human_labels
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels
from nbhelpers.prediction import predict_all
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder

MakeConfig = Callable[..., Config]


def right(text: str) -> str:
    return {"goal": "sports", "vote": "politics"}[text.split()[0]]


@pytest.fixture
def prepared(
    make_config: MakeConfig,
    server: ChatServer,
    run: RunFolder,
    store: LabelStore,
    tiny_base_model: Path,
    fits: WordFits,
) -> Callable[..., Rounds]:
    """An LLM that takes every text with an "x" in its last word for weather; 40 test texts, of which some are such."""

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        text = shown_text(messages)
        return "Final label: weather" if text and "x" in text.split()[-1] else LABELLER(model, messages)

    server.answer = answer

    def start(**path: str) -> Rounds:
        sizes = {"train_set_size": 40, "test_set_size": 40, "max_iters": 1, "model_path": str(tiny_base_model)}
        config = make_config(server.url, training=sizes, path=path)
        if not config.path.input_dir.exists():
            made = texts_of({"goal": 60, "vote": 60})
            write_rows(
                config.path.input_dir, [f"{text} {'x' if i % 3 == 0 else 'y'}{i}" for i, text in enumerate(made)]
            )
            prepare(config, run, store)
        return Rounds(config, run, store)

    return start


def test_without_labels_of_people_nothing_is_claimed_about_the_truth(prepared: Callable[..., Rounds]) -> None:
    report = prepared().run_until_done()
    assert (report["truth"], report["human_labels"]) == (None, None)
    assert not any("by people" in note for note in report["notes"])


def test_a_random_audit_gives_an_interval_for_the_truth_and_changes_no_test_label(
    prepared: Callable[..., Rounds], run: RunFolder, store: LabelStore
) -> None:
    rounds = prepared()
    before = read_test_labels(run)
    texts = before.set_index("chunk_id")["text"]
    for chunk_id in before["chunk_id"].head(25):
        store.set_human_label(chunk_id, right(texts[chunk_id]), note="audit")
    truth = rounds.run_until_done()["truth"]
    assert (truth["n"], truth["m"]) == (40, 25)
    predicted = dict(zip(before["chunk_id"], rounds.final.predicted, strict=True))
    really = sum(predicted[c] == right(texts[c]) for c in texts.index) / 40
    assert truth["low"] <= really <= truth["high"]
    assert truth["high"] - truth["low"] <= truth["alone_high"] - truth["alone_low"] + 0.02
    pd.testing.assert_frame_equal(read_test_labels(run), before)


def test_labels_that_somebody_picked_support_no_claim(
    prepared: Callable[..., Rounds], run: RunFolder, tmp_path: Path
) -> None:
    prepared()
    test = read_test_labels(run).head(10)
    file = tmp_path / "mine.csv"
    rows = pd.DataFrame({"text": test["text"], "label": [right(text) for text in test["text"]], "drawn": "chosen"})
    order = read_test_labels(run)["chunk_id"].tolist()[:1]
    rows = rows[~test["chunk_id"].isin(order)]  # the first one of the draw is missing
    rows.to_csv(file, index=False)
    report = prepared(human_labels=str(file)).run_until_done()
    assert report["truth"] is None
    assert (report["human_labels"]["claim"], len(report["human_labels"]["after_gap"])) == ([], len(rows))
    rows = rows.assign(drawn="random")
    other = {"text": prepared().pool.chunks["text"].iloc[0], "label": "sports", "drawn": "random"}
    bad = {"text": "no such text", "label": "sports", "drawn": "random"}
    pd.concat([rows, pd.DataFrame([other, bad])]).to_csv(file, index=False)
    report = prepared(human_labels=str(file)).run_until_done()
    assert report["truth"]["m"] == len(rows)
    told = report["human_labels"]
    assert (len(told["claim"]), told["after_gap"], len(told["chosen"])) == (len(rows), [], 1)
    assert told["left_out"] == [f"row {len(rows) + 3} left out, no text has this text: 'no such text'."]
    assert report["notes"][-2] == f"path.human_labels: {told['left_out'][0]}"
    assert report["notes"][-1] == (
        f"Labels by people: {len(rows)} of test texts drawn at random, which say how right the LLM and classifier are; "
        "1 of other texts, which say nothing of it and may be trained on."
    )


def test_a_file_of_labels_outranks_the_llm_in_training_and_in_the_predictions(
    prepared: Callable[..., Rounds], run: RunFolder, store: LabelStore, tmp_path: Path
) -> None:
    prepared()
    chunks = run.read_table(run.chunks, made_by="01_ingest")
    file = tmp_path / "mine.csv"
    pd.DataFrame({"text": chunks["text"], "label": [right(text) for text in chunks["text"]]}).to_csv(file, index=False)
    rounds = prepared(human_labels=str(file))
    rounds.step()
    labels = rounds.final.labels
    assert set(labels["source"]) == {"human"}
    assert labels["label"].tolist() == [right(text) for text in labels["text"]]
    rounds.run_until_done()
    predictions = predict_all(rounds.config, run, store)
    assert set(predictions["label_source"]) == {"human"}
    assert predictions["label"].tolist() == [right(text) for text in predictions["text"]]
    store.set_human_label(labels["chunk_id"][0], "weather")
    assert human_labels(rounds.config, run, store).labels[labels["chunk_id"][0]] == "weather"


def test_a_label_of_a_class_that_is_no_more_does_not_count(prepared: Callable[..., Rounds], store: LabelStore) -> None:
    rounds = prepared()
    for chunk_id in rounds.pool.chunks["chunk_id"]:
        store.set_human_label(chunk_id, "gardening")
    rounds.step()
    assert set(rounds.final.labels["source"]) == {"small"}


def test_the_truth_is_judged_by_where_classifier_and_llm_agree(make_config, run, store) -> None:
    test = pd.DataFrame({"chunk_id": list("abcdefghij"), "label": ["sports"] * 8 + ["weather"] * 2})
    for chunk_id, label in (("a", "sports"), ("b", "sports"), ("c", "weather")):
        store.set_human_label(chunk_id, label)
    said = ["sports"] * 6 + ["politics"] * 4
    found = accuracy_against_people(said, test, config=make_config(), run=run, store=store)
    assert found == truth_interval([True] * 6 + [False] * 4, [0, 1, 2], [True, True, False])
