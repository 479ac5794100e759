"""Prediction: a row for every input text, with the label that counts, whatever happened on the way."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chat_server import ChatServer, shown_text
from runs_made import LABELLER, SURE, UNSURE, WORDS, WordClassifier, WordFits, prepare, texts_of, word_of, write_rows
from tiny_models import tiny_bert

from nbhelpers import iteration, prediction
from nbhelpers.classifier import Classifier
from nbhelpers.config import Config
from nbhelpers.errors import RunFolderError
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels, write_test_labels
from nbhelpers.prediction import compare_with_truth, final_classifier, how_good, predict_all
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder, write_json, write_table
from nbhelpers.training import TrainingSettings

MakeConfig = Callable[..., Config]
CLASSES = ["sports", "politics", "weather"]
ODD = [
    'goal, "quoted", and\nanother line',
    "rain \\ 'NA', None",
    "vote été 日本 🙂 =1+1",
    "goal\twith a tab; and 'quotes'",
]
PROBABILITIES = [f"p_{name}" for name in CLASSES]


@pytest.fixture
def texts() -> list[str]:
    """68 texts, of which 4 are duplicates and 4 odd."""
    made = [*texts_of({"goal": 20, "vote": 20, "rain": 20}), *ODD]
    return [*made[:30], *made[:2], *made[30:], made[0], made[63]]


@pytest.fixture
def trained(
    make_config: MakeConfig,
    server: ChatServer,
    fits: WordFits,
    run: RunFolder,
    store: LabelStore,
    tiny_base_model: Path,
    texts: list[str],
) -> Callable[..., Config]:
    """`trained(path={...})`: reads `texts`, does 01 to 04 in one iteration and gives the config."""

    def train(**changes: dict[str, Any]) -> Config:
        sizes = {"train_set_size": 15, "test_set_size": 20, "max_iters": 1}
        changes["training"] = {"model_path": str(tiny_base_model), **sizes, **changes.get("training", {})}
        config = make_config(server.url, **changes)
        if not config.path.input_dir.exists():
            write_rows(config.path.input_dir, texts)
        if not run.test_labels.exists():
            prepare(config, run, store)
        Rounds(config, run, store).run_until_done()
        WordClassifier.asked.clear()
        return config

    return train


def read_csv(run: RunFolder) -> pd.DataFrame:
    return pd.read_csv(run.predictions / "predictions.csv", keep_default_na=False, na_values=[""])


def read_jsonl(run: RunFolder) -> list[dict[str, Any]]:
    content = (run.predictions / "predictions.jsonl").read_text("utf-8")
    return [json.loads(line) for line in content.split("\n")[:-1]]


# The rows


def test_there_is_a_row_for_every_input_text_in_the_order_of_the_files(
    trained: Callable[..., Config], run: RunFolder, store: LabelStore, texts: list[str]
) -> None:
    config = trained()
    write_rows(config.path.input_dir, [texts[5], "snow from another file", texts[6]], name="a_first.jsonl")
    prepare(config, run, store)
    table = predict_all(trained(), run, store)
    assert table.columns.tolist() == [
        *("source", "position", "start", "end", "text", "label", "label_source", "predicted_label", "probability"),
        *("llm_label", *PROBABILITIES, "chunk_id", "metadata"),
    ]
    assert table["text"].tolist() == [texts[5], "snow from another file", texts[6], *texts]
    assert table["source"].tolist() == ["a_first.jsonl"] * 3 + ["rows.jsonl"] * len(texts)
    assert table["position"].tolist() == [0, 1, 2, *range(len(texts))]
    assert [json.loads(row) for row in table["metadata"][3:]] == [{"number": n} for n in range(len(texts))]
    assert (table["start"] == 0).all()
    assert table["end"].tolist() == table["text"].str.len().tolist()


def test_duplicates_have_the_same_prediction(
    trained: Callable[..., Config], run: RunFolder, store: LabelStore, texts: list[str]
) -> None:
    table = predict_all(trained(), run, store)
    assert len(table) - table["text"].nunique() == 4
    same = ["label", "label_source", "predicted_label", "probability", "llm_label", *PROBABILITIES, "chunk_id"]
    for _, rows in table.groupby("text"):
        assert len(rows[same].drop_duplicates()) == 1
    assert len(WordClassifier.asked) == table["text"].nunique()


def test_probabilities_are_the_classifiers_and_sum_to_one(
    trained: Callable[..., Config], run: RunFolder, store: LabelStore, texts: list[str]
) -> None:
    config = trained()
    write_rows(config.path.input_dir, ["snow that it never saw"], name="snow.jsonl")
    prepare(config, run, store)
    table = predict_all(trained(), run, store).set_index("text")
    assert np.allclose(table[PROBABILITIES].sum(axis=1), 1, atol=1e-6)
    assert np.allclose(table[PROBABILITIES].max(axis=1), table["probability"])
    assert [CLASSES[i] for i in table[PROBABILITIES].to_numpy().argmax(axis=1)] == table["predicted_label"].tolist()
    for text, row in table.iterrows():
        assert row["probability"] == pytest.approx(UNSURE if text == "snow that it never saw" else SURE)
        assert row["predicted_label"] == WORDS.get(word_of(str(text)), row["predicted_label"])


def test_whose_label_it_is(
    trained: Callable[..., Config], server: ChatServer, fits: WordFits, run: RunFolder, store: LabelStore
) -> None:
    fits.blind = [set(WORDS)]  # the classifier is always wrong
    server.answer = lambda model, messages: (
        "no idea" if "vote" in (shown_text(messages) or "") and model == "big" else LABELLER(model, messages)
    )
    config = trained()
    test, train = read_test_labels(run), pd.read_parquet(run.train_labels)
    failed = set(test.loc[test["label"].isna(), "chunk_id"])
    seen = (set(test["chunk_id"]) | set(train["chunk_id"])) - failed
    assert len(failed) > 2
    by_hand = [train["chunk_id"][0], test["chunk_id"][0], *sorted(failed)[:1]]
    untouched = set(pd.read_parquet(run.chunks)["chunk_id"]) - seen - failed
    by_hand.append(min(untouched))
    for chunk_id in by_hand:
        store.set_human_label(chunk_id, "weather")
    table = predict_all(config, run, store).drop_duplicates("chunk_id").set_index("chunk_id")
    assert (table.loc[by_hand, "label_source"] == "human").all()
    assert (table.loc[by_hand, "label"] == "weather").all()
    llm = table.loc[sorted(seen - set(by_hand))]
    assert set(llm["label_source"]) == {"LLM"}
    assert llm["label"].tolist() == llm["llm_label"].tolist() == [WORDS[word_of(t)] for t in llm["text"]]
    assert (llm["predicted_label"] != llm["label"]).all()
    rest = table.loc[sorted((failed | untouched) - set(by_hand))]
    assert set(rest["label_source"]) == {"classifier"}
    assert (rest["label"] == rest["predicted_label"]).all()
    assert rest["llm_label"].isna().all()
    assert (table["predicted_label"] != [WORDS[word_of(t)] for t in table["text"]]).all()


# The files


def test_the_three_files_say_the_same(
    trained: Callable[..., Config], run: RunFolder, store: LabelStore, texts: list[str]
) -> None:
    config = trained()
    store.set_human_label(pd.read_parquet(run.chunks)["chunk_id"][3], "weather")
    table = predict_all(config, run, store)
    pd.testing.assert_frame_equal(pd.read_parquet(run.predictions / "predictions.parquet"), table, check_dtype=False)
    plain = read_csv(run)
    assert plain.columns.tolist() == table.columns.tolist()
    assert plain["text"].tolist() == texts
    for column in ("source", "position", "start", "end", "label", "label_source", "predicted_label", "metadata"):
        assert plain[column].tolist() == table[column].tolist(), column
    lines = read_jsonl(run)
    assert [line["text"] for line in lines] == texts
    for line, row, cells in zip(lines, table.to_dict("records"), plain.to_dict("records"), strict=True):
        assert line["metadata"] == json.loads(row["metadata"])
        assert line["probabilities"].keys() == set(CLASSES)
        for name in CLASSES:
            assert line["probabilities"][name] == pytest.approx(row[f"p_{name}"], abs=1e-6)
            assert cells[f"p_{name}"] == pytest.approx(row[f"p_{name}"], abs=1e-6)
        missing = pd.isna(row["llm_label"])
        assert (line["llm_label"] is None) == pd.isna(cells["llm_label"]) == missing
        assert missing or line["llm_label"] == cells["llm_label"] == row["llm_label"]
        for column in ("source", "position", "start", "end", "label", "label_source", "predicted_label", "chunk_id"):
            assert line[column] == row[column]
    assert {path.name for path in run.predictions.iterdir()} == {
        "predictions.parquet", "predictions.jsonl", "predictions.csv"
    }  # fmt: skip


def test_no_predictions_are_written_where_the_config_says_so_and_the_test_set_is_predicted(
    trained: Callable[..., Config], run: RunFolder, store: LabelStore, texts: list[str]
) -> None:
    config = trained(classification={"predict_on_whole_set_at_the_end": False})
    before = {path for path in run.root.rglob("*") if path.is_file()}
    table = predict_all(config, run, store)
    assert {path for path in run.root.rglob("*") if path.is_file()} - before == {run.prediction_time}
    assert not run.predictions.exists()
    tested = set(read_test_labels(run)["chunk_id"])
    assert set(table["chunk_id"]) == tested
    assert table["predicted_label"].tolist() == table["llm_label"].tolist()
    # Nothing is left of it that the next run, which predicts everything, could take for its own.
    whole = predict_all(trained(), run, store)
    assert whole["text"].tolist() == texts
    assert (whole["predicted_label"] == [WORDS[word_of(text)] for text in texts]).all()


# Killed, and again


def test_a_killed_prediction_goes_on_with_the_next_part(
    trained: Callable[..., Config], run: RunFolder, store: LabelStore, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "TEXTS_PER_PART", 10)
    config = trained()
    distinct = list(dict.fromkeys(texts))
    monkeypatch.setattr(WordClassifier, "dies_at", distinct[37])
    with pytest.raises(KeyboardInterrupt):
        predict_all(config, run, store)
    assert WordClassifier.asked == distinct[:37]
    assert not (run.predictions / "predictions.csv").exists()
    WordClassifier.asked.clear()
    monkeypatch.setattr(WordClassifier, "dies_at", None)
    table = predict_all(config, run, store)
    assert WordClassifier.asked == distinct[30:]  # three parts of ten were there
    assert table["text"].tolist() == texts
    assert table["predicted_label"].tolist() == [WORDS[word_of(text)] for text in texts]
    assert len(read_csv(run)) == len(read_jsonl(run)) == len(texts)
    time = run.read_json(run.prediction_time, made_by="05_predict")
    assert time["texts"] == len(distinct) - 30  # what was not predicted now was not timed now
    assert 0 < time["seconds"] < 60


@pytest.mark.parametrize("change", ["classifier", "texts"])
def test_parts_of_another_classifier_or_other_texts_are_not_taken(
    trained: Callable[..., Config],
    fits: WordFits,
    run: RunFolder,
    store: LabelStore,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    monkeypatch.setattr(prediction, "TEXTS_PER_PART", 10)
    fits.blind = [set(WORDS)] if change == "classifier" else []
    config = trained()
    monkeypatch.setattr(WordClassifier, "dies_at", texts[25])
    with pytest.raises(KeyboardInterrupt):
        predict_all(config, run, store)
    monkeypatch.setattr(WordClassifier, "dies_at", None)
    if change == "classifier":
        config = trained(training={"balance": "weights"})  # trained anew, and right this time
    else:
        texts = ["rain first of all", *texts]
        write_rows(config.path.input_dir, texts)
        prepare(config, run, store)
        config = trained()
    table = predict_all(config, run, store)
    assert table["text"].tolist() == texts
    assert table["predicted_label"].tolist() == [WORDS[word_of(text)] for text in texts]
    assert len(WordClassifier.asked) == len(set(texts))


def test_predicting_again_replaces_the_files(trained: Callable[..., Config], run: RunFolder, store: LabelStore) -> None:
    config = trained()
    first = predict_all(config, run, store)
    chunk_id = first.loc[first["label_source"] == "classifier", "chunk_id"].iloc[0]
    store.set_human_label(chunk_id, "politics")
    predict_all(config, run, store)
    for table in (read_csv(run), pd.DataFrame(read_jsonl(run))):
        assert set(table.loc[table["chunk_id"] == chunk_id, "label_source"]) == {"human"}
        assert len(table) == len(first)


# The classifier


def test_the_last_one_that_was_measured_is_the_final_classifier(trained: Callable[..., Config], run: RunFolder) -> None:
    trained()
    report = json.loads(run.report.read_text("utf-8"))
    report["iterations"] = [{**report["iterations"][0], "iteration": number} for number in (1, 2, 10)]
    write_json(run.report, report)
    for number in (2, 10, 11):  # 11: the run was killed before it was measured
        classifier = WordClassifier.load(run.classifier(1))
        classifier.default = f"of {number}"
        classifier.save(run.classifier(number))
    number, classifier = final_classifier(run)
    assert (number, classifier.default) == (10, "of 10")


def test_without_a_classifier_the_notebook_to_run_is_named(run: RunFolder, fits: WordFits) -> None:
    with pytest.raises(RunFolderError, match=r"No classifier in .*out\. Run 04_train first\."):
        final_classifier(run)


@pytest.mark.parametrize(
    ("blind", "says"),
    [
        (
            set(),
            r"^classifier_1 reached the target of 0\.90 \(target_reached\): .* 1\.000, .* 0\.832 to 1\.000\.$",
        ),
        (
            set(WORDS),
            r"^classifier_1 did NOT reach the target of 0\.90 \(max_iters\): .* 0\.000, .* 0\.000 to 0\.168\.$",
        ),
    ],
)
def test_how_good_says_plainly_whether_the_target_was_reached(
    trained: Callable[..., Config], fits: WordFits, run: RunFolder, blind: set[str], says: str
) -> None:
    fits.blind = [blind]
    trained()
    assert re.match(says, how_good(run))  # 20 of 20: 0.025 ** (1 / 20) = 0.8316


def test_how_good_before_training_names_the_notebook_to_run(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="Run 04_train first"):
        how_good(run)
    write_json(run.report, {"status": "failed", "target": 0.9, "final": None})
    with pytest.raises(RunFolderError, match="Run 04_train first"):
        how_good(run)


def test_a_real_classifier_says_the_same_as_by_itself(
    make_config: MakeConfig,
    server: ChatServer,
    run: RunFolder,
    store: LabelStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(iteration, "TrainingSettings", partial(TrainingSettings, min_steps=3))
    monkeypatch.setattr(prediction, "TEXTS_PER_PART", 25)
    base = tiny_bert(tmp_path / "base", WORDS)
    training = {"model_path": str(base), "train_set_size": 10, "test_set_size": 10, "max_iters": 1}
    config = make_config(server.url, training=training)
    write_rows(config.path.input_dir, texts_of(dict.fromkeys(WORDS, 20), words=2))
    prepare(config, run, store)
    Rounds(config, run, store).run_until_done()
    table = predict_all(config, run, store)
    expected = Classifier.load(run.classifier(1)).predict_proba(table["text"].tolist())
    assert np.allclose(table[PROBABILITIES], expected, atol=1e-5)
    assert table["predicted_label"].tolist() == [CLASSES[i] for i in expected.argmax(axis=1)]


# Against the truth


def frame(*rows: tuple[str, int, str, str | None, str]) -> pd.DataFrame:
    """Predictions from (source, position, predicted label, LLM's label, label source); the chunk id is the place's."""
    table = pd.DataFrame(rows, columns=["source", "position", "predicted_label", "llm_label", "label_source"])
    return table.assign(chunk_id=table["source"] + table["position"].astype(str))


@pytest.fixture
def compare(
    make_config: MakeConfig, run: RunFolder, tmp_path: Path
) -> Callable[[pd.DataFrame, str, list[str]], dict[str, tuple[float, float, float, int]]]:
    def compare(predictions: pd.DataFrame, truth: str, tested: list[str], **changes: Any) -> Any:
        file = tmp_path / "truth.csv"
        file.write_text(truth, "utf-8")
        config = make_config(path={"truth": str(file)}, **changes)
        labels = predictions.drop_duplicates("chunk_id").set_index("chunk_id")["llm_label"].reindex(tested)
        labels = pd.DataFrame({"chunk_id": tested, "text": "t", "label": labels.to_numpy(), "confidence": None})
        labels = labels.assign(reason="", source="large", reply="")
        write_test_labels(run, labels, config=config)
        write_table(run.occurrences, predictions[["source", "position"]])
        write_json(run.classifier(1) / "training.json", {"seconds": 1.5})
        return compare_with_truth(config, run, predictions)

    return compare


PREDICTED = frame(
    ("a", 0, "sports", "sports", "LLM"),  # tested: all three agree
    ("a", 1, "sports", "politics", "LLM"),  # tested: the classifier is right, the LLM is not
    ("a", 2, "weather", "weather", "human"),  # tested: both wrong; a person said so
    ("a", 3, "weather", "politics", "LLM"),  # tested: the LLM is right
    ("a", 4, "sports", None, "classifier"),  # tested, but its label failed; right
    ("b", 0, "sports", "weather", "LLM"),  # in a batch
    ("b", 1, "sports", None, "classifier"),  # right
    ("b", 2, "sports", None, "classifier"),  # wrong
    ("b", 3, "sports", None, "classifier"),  # no truth known
    ("b", 4, "sports", None, "human"),  # a person corrected it, and it was trained on
)
TRUTH = """source,position,label
a,0,sports
a,1,sports
a,2,politics
a,3,politics
a,4,sports
b,0,sports
b,1,sports
b,2,weather
b,3,
b,4,sports
c,0,sports
"""
TESTED = ["a0", "a1", "a2", "a3", "a4"]


def test_agreement_and_accuracy_are_as_counted_by_hand(compare: Callable[..., Any], run: RunFolder) -> None:
    shares = compare(PREDICTED, TRUTH, TESTED)
    counts = {name: (round(share * n), n) for name, (share, _, _, n) in shares.items()}
    assert counts == {
        "LLM against the truth": (2, 4),
        "classifier against the LLM": (2, 4),
        "classifier against the truth": (2, 4),
        "the same, on texts no LLM saw": (2, 3),
    }
    # Exact intervals: 2 of 4 and 2 of 3.
    assert shares["LLM against the truth"][:3] == pytest.approx((0.5, 0.0676, 0.9324), abs=1e-4)
    assert shares["the same, on texts no LLM saw"][:3] == pytest.approx((2 / 3, 0.0943, 0.9916), abs=1e-4)
    written = run.read_truth_shares("classifier_1")
    assert {name: tuple(value.values()) for name, value in written.items()} == shares


def test_each_figure_counts_its_own_texts(compare: Callable[..., Any]) -> None:
    predicted = PREDICTED.assign(llm_label=[*["politics"] * 4, *PREDICTED["llm_label"][4:]])
    shares = compare(predicted, TRUTH, TESTED)
    assert [round(share * n) for share, _, _, n in shares.values()] == [2, 0, 2, 2]


def test_a_text_that_stands_twice_counts_once(compare: Callable[..., Any]) -> None:
    twice = frame(("a", 0, "sports", "sports", "LLM"), ("a", 1, "sports", "sports", "LLM")).assign(chunk_id="same")
    shares = compare(twice, "source,position,label\na,0,sports\na,1,sports\n", ["same"])
    assert shares["classifier against the truth"][3] == 1
    assert "the same, on texts no LLM saw" not in shares  # there are none


def test_of_a_truth_none_of_whose_texts_was_predicted_it_is_said(
    make_config: MakeConfig, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(run.occurrences, pd.DataFrame({"source": ["a", "z"], "position": [0, 7]}))
    truth = tmp_path / "truth.csv"
    truth.write_text("source,position,label\nz,7,sports\n", "utf-8")
    assert compare_with_truth(make_config(path={"truth": str(truth)}), run, PREDICTED) == {}
    assert capsys.readouterr().out == "path.truth: none of its texts was predicted, so nothing is compared.\n"


def test_rows_of_the_truth_that_name_no_text_are_told(
    compare: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    predicted = frame(("a", 0, "sports", "sports", "LLM"), ("a", 1, "sports", None, "classifier"))
    compare(predicted, "source,position,label\na,0,sports\na,1,sports\n", ["a0"])
    assert capsys.readouterr().out == ""
    compare(predicted, "source,position,label\na,0,sports\nb,7,sports\na,2,sports\n", ["a0"])
    said = "path.truth: 2 of its 3 rows name none of the texts, such as source b, position 7.\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("name", ["None", "NA", "null"])
def test_a_class_may_have_the_name_of_nothing(compare: Callable[..., Any], name: str) -> None:
    predicted = frame(("a", 0, name, name, "LLM"), ("a", 1, "other", "other", "LLM"))
    truth = f"source,position,label\na,0,{name}\na,1,other\n"
    shares = compare(predicted, truth, ["a0", "a1"], classification={"classes": [name, "other"]})
    assert shares["LLM against the truth"][0] == 1.0
    assert shares["classifier against the truth"] == (1.0, pytest.approx(0.1581, abs=1e-4), 1.0, 2)


def test_without_a_truth_there_is_nothing_to_compare(make_config: MakeConfig, run: RunFolder) -> None:
    write_json(run.truth_shares, {"classifier against the truth": {"share": 0.5}})  # an earlier run had one
    assert compare_with_truth(make_config(), run, PREDICTED) == {}
    assert not run.truth_shares.exists()


def test_each_figure_compares_its_own_two_labels(compare) -> None:
    predicted = frame(
        ("a", 0, "sports", "sports", "LLM"),
        ("a", 1, "sports", "politics", "LLM"),
        ("a", 2, "sports", "politics", "LLM"),
        ("a", 3, "politics", "politics", "LLM"),
    )
    truth = "source,position,label\n" + "".join(f"a,{i},sports\n" for i in range(4))
    shares = compare(predicted, truth, ["a0", "a1", "a2", "a3"])
    assert {name: share for name, (share, *_) in shares.items()} == {
        "LLM against the truth": 0.25,
        "classifier against the LLM": 0.5,
        "classifier against the truth": 0.75,
    }


def test_what_a_person_said_in_training_is_no_llms_label(trained, run, store) -> None:
    trained()
    chunk_id = pd.read_parquet(run.train_labels)["chunk_id"][0]
    store.set_human_label(chunk_id, "weather")
    table = predict_all(trained(), run, store).set_index("chunk_id")
    assert table.loc[[chunk_id], "label_source"].eq("human").all()
    assert table.loc[[chunk_id], "llm_label"].isna().all()
