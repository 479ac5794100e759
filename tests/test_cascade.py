"""The cascade: the most doubtful labels are asked of the large LLM, once, and the same again in a repeated run."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chat_server import ChatServer, shown_text
from runs_made import LABELLER, WORDS, WordFits, dataset, prepare, texts_of, write_rows

from nbhelpers import cascade
from nbhelpers.config import Config
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import ASKED_AGAIN
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder, write_json

MakeConfig = Callable[..., Config]
Open = Callable[..., Rounds]
ODD = "zz"  # the small LLM gets texts with this wrong

pytestmark = pytest.mark.usefixtures("quick_retries", "fits")


def answer(model: str, messages: list[dict[str, Any]]) -> Any:
    text = shown_text(messages) or ""
    return "Final label: weather" if model == "little" and ODD in text else LABELLER(model, messages)


@pytest.fixture
def opened(
    make_config: MakeConfig,
    server: ChatServer,
    run: RunFolder,
    store: LabelStore,
    tiny_base_model: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Open:
    """Rounds with 40, 60, ... labels of texts of which every fourth is odd; what is odd is most in doubt."""
    asked_about: list[list[str]] = []

    def doubt(features: np.ndarray[Any, Any], labels: list[str], confidence: Any, **_: Any) -> Any:
        # the features stand for the texts here: see below
        return np.array([0.9 if ODD in text else 0.1 for text in asked_about[-1]])

    def features(texts: list[str], **_: Any) -> Any:
        asked_about.append(texts)
        return np.zeros((len(texts), 2), dtype=np.float32)

    monkeypatch.setattr(cascade, "features", features)
    monkeypatch.setattr(cascade, "doubt", doubt)
    server.answer = answer

    def open_again(
        *, train_set_size: int = 40, train_set_increment: int = 20, max_iters: int = 2, **labeling: Any
    ) -> Rounds:
        sizes = {
            "train_set_size": train_set_size,
            "train_set_increment": train_set_increment,
            "test_set_size": 20,
            "max_iters": max_iters,
            "selection": "random",
        }
        config = make_config(
            server.url,
            training={"model_path": str(tiny_base_model), **sizes},
            system={"required_accuracy": 1.0, "stop_rule": "lower_bound"},
            labeling=labeling,
        )
        if not config.path.input_dir.exists():
            made = texts_of({"goal": 60, "vote": 60})
            write_rows(
                config.path.input_dir, [f"{text} {ODD}{i}" if i % 4 == 0 else text for i, text in enumerate(made)]
            )
            prepare(config, run, store)
        return Rounds(config, run, store)

    return open_again


def asked(server: ChatServer, model: str) -> list[str]:
    return [str(shown_text(body["messages"])) for body in server.requests if body["model"] == model]


def test_a_tenth_by_default(opened: Open, server: ChatServer) -> None:
    rounds = opened(cascade="auto")
    server.reset()
    report = rounds.run_until_done()
    assert len(asked(server, "big")) == report["iterations"][-1]["labels"] // 10


def test_none_where_it_is_off(opened: Open, server: ChatServer) -> None:
    rounds = opened(cascade=0)
    server.reset()
    rounds.run_until_done()
    assert asked(server, "big") == []


def test_a_quarter_and_no_more_is_asked_of_the_large_llm(opened: Open, server: ChatServer, run: RunFolder) -> None:
    rounds = opened(cascade=0.25)
    server.reset()
    report = rounds.run_until_done()
    sent = asked(server, "big")
    for number, row in enumerate(report["iterations"][:2], 1):
        assert row["labelled_by"]["large"] <= row["labels"] // 4
        made = dataset(run, number)
        assert set(made.loc[made["source"] == "large", "text"]) <= set(sent)
    assert len(sent) == len(set(sent)) == report["iterations"][1]["labels"] // 4
    odd = [text for text in rounds.final.labels["text"] if ODD in text]
    assert set(sent) >= set(odd) or set(sent) <= set(odd)  # the doubtful ones first
    labels = rounds.final.labels.set_index("text")
    for text in sent:
        assert labels.loc[text, "label"] == next(name for word, name in WORDS.items() if word in text)
        assert labels.loc[text, "source"] == "large"


def test_a_repeated_run_has_the_same_labels_and_trains_nothing_again(
    opened: Open, server: ChatServer, run: RunFolder, fits: WordFits
) -> None:
    opened(cascade=0.25).run_until_done()
    before, made = [dataset(run, n) for n in (1, 2)], len(fits.made)
    server.reset()
    opened(cascade=0.25).run_until_done()
    assert server.calls == 0
    assert len(fits.made) == made
    for old, new in zip(before, [dataset(run, n) for n in (1, 2)], strict=True):
        pd.testing.assert_frame_equal(old, new)


def test_after_a_run_with_more_labels_the_share_is_kept_at_every_size(opened: Open) -> None:
    opened(cascade=0.25, train_set_size=60, max_iters=1).run_until_done()
    again = opened(cascade=0.25)
    again.run_until_done()
    assert [made.row["labelled_by"]["large"] for made in again.done] == [10, 15]


@pytest.mark.parametrize("edited", [True, False])
@pytest.mark.parametrize(("before", "after"), [(0.1, 0.5), (0.5, 0.1), (0.25, 0)])
def test_another_share_counts_at_every_size_and_pays_for_no_answer_again(
    opened: Open, server: ChatServer, before: float, after: float, edited: bool
) -> None:
    opened(cascade=before).run_until_done()
    paid = asked(server, "big")
    server.reset()
    again = opened(cascade=after)
    again.rules += " Mind the weather." if edited else ""  # each batch is labelled anew
    again.run_until_done()
    assert [made.row["labelled_by"].get("large", 0) for made in again.done] == [int(after * n) for n in (40, 60)]
    assert bool(asked(server, "big")) == (after > (0 if edited else before))
    server.reset()
    last = opened(cascade=before)
    last.run_until_done()
    assert not set(asked(server, "big")) & set(paid)


def test_what_was_decided_at_a_size_stays_where_nothing_was_sent_on(
    opened: Open, server: ChatServer, store: LabelStore
) -> None:
    """With small increments the quota does not grow at every size; a person's labels since change no decision."""
    sizes = {"cascade": 0.1, "train_set_size": 20, "train_set_increment": 5, "max_iters": 5}
    opened(**sizes).run_until_done()
    sent = store.sent_on()
    assert sorted(sent.values()) == [20, 20, 30, 40]
    for chunk_id, at in sent.items():
        if at > 20:
            store.set_human_label(chunk_id, "sports")
    server.reset()
    opened(**sizes).begin()
    assert store.sent_on() == sent
    assert asked(server, "big") == []


def test_doubtful_labels_that_the_large_llm_was_not_paid_for_are_said(opened: Open, server: ChatServer) -> None:
    rounds = opened(cascade=0.25)
    server.answer = lambda model, messages: "no idea" if model == "big" else answer(model, messages)
    report = rounds.run_until_done()
    assert any(note.startswith("15 doubtful labels are the small LLM's still") for note in report["notes"])


def test_texts_that_a_person_labelled_are_not_sent_on(opened: Open, server: ChatServer, store: LabelStore) -> None:
    rounds = opened(cascade=0.25)
    odd = rounds.pool.chunks.loc[rounds.pool.chunks["text"].str.contains(ODD), ["chunk_id", "text"]]
    for chunk_id in odd["chunk_id"]:
        store.set_human_label(chunk_id, "sports")
    rounds.run_until_done()
    asked = {shown_text(body["messages"]) for body in server.requests if body["model"] == "big"}
    assert not asked & (set(odd["text"]) - set(rounds.test["text"]))
    labels = rounds.final.labels
    others = labels[~labels["chunk_id"].isin(odd["chunk_id"])]
    assert (others["source"] == "large").sum() == len(others) // 4


def test_where_the_large_llm_names_no_class_the_small_ones_label_stays(opened: Open, server: ChatServer) -> None:
    rounds = opened(cascade=0.25)
    server.answer = lambda model, messages: "no idea" if model == "big" else answer(model, messages)
    rounds.step()
    assert rounds.final.row["failed_labels"] == 0
    assert set(rounds.final.labels["source"]) == {"small"}


def test_the_large_llm_is_not_asked_again_about_what_it_could_not_label(opened: Open, server: ChatServer) -> None:
    def some_in_vain(model: str, messages: list[dict[str, Any]]) -> Any:
        return "no idea" if model == "big" and ODD in (shown_text(messages) or "") else answer(model, messages)

    rounds = opened(cascade=0.25, max_iters=3)
    server.answer = some_in_vain
    server.reset()
    rounds.run_until_done()
    opened(cascade=0.25, max_iters=3).run_until_done()
    times = Counter(asked(server, "big"))
    assert {times[text] for text in times if ODD in text} == {1 + ASKED_AGAIN}
    assert rounds.report()["llm"]["cached"] == 0  # all was bought since the label store was opened


def test_a_text_without_a_label_is_sent_first_and_the_share_is_kept(opened: Open, server: ChatServer) -> None:
    rounds = opened(cascade=0.25)
    lost: set[str] = set()

    def sometimes(model: str, messages: list[dict[str, Any]]) -> Any:
        text = shown_text(messages) or ""
        if model == "little" and ODD not in text and (text in lost or len(lost) < 3):
            lost.add(text)
            return "no idea"
        return answer(model, messages)

    server.answer = sometimes
    server.reset()
    rounds.step()
    sent = asked(server, "big")
    assert len(sent) == 40 // 4
    assert set(sent) > lost
    assert rounds.final.row["failed_labels"] == 0


def test_every_label_is_examined_and_what_the_small_llm_said_stands_beside_it(opened: Open) -> None:
    rounds = opened(cascade=0.25)
    rounds.step()
    examined = rounds.examine_labels()
    assert examined["chunk_id"].tolist() == rounds.final.labels["chunk_id"].tolist()
    assert {"predicted", "probability", "suggested", "doubt"} <= set(examined)
    odd = examined[examined["source"] == "large"]
    assert len(odd) == 10
    assert set(odd["small_label"]) == {"weather"}
    assert "weather" not in set(odd["label"])


def test_a_persons_label_is_in_no_doubt(opened: Open, store: LabelStore) -> None:
    rounds = opened()
    rounds.step()
    corrected = rounds.final.labels["chunk_id"].tolist()[:3]
    for chunk_id in corrected:
        store.set_human_label(chunk_id, "sports")
    rounds.step()
    examined = rounds.examine_labels().set_index("chunk_id")
    assert examined.loc[corrected, "source"].tolist() == ["human"] * 3
    assert (examined["doubt"] == 0).tolist() == examined.index.isin(corrected).tolist()


def test_the_small_llms_confidence_counts_calibrated_and_stays_as_it_was_given(
    make_config: MakeConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[list[float]] = []

    def examine(features: Any, labels: list[str], confidence: list[float], **_: Any) -> pd.DataFrame:
        counted.append(confidence)
        return pd.DataFrame({"doubt": [0.5] * len(labels)})

    monkeypatch.setattr(cascade, "features", lambda texts, **_: np.zeros((len(texts), 2)))
    monkeypatch.setattr(cascade, "examine", examine)
    labels = pd.DataFrame({"text": list("abc"), "label": "sports", "source": ["small", "large", "small"]})
    labels["confidence"] = [0.9, 0.9, math.nan]
    for slope, expected in ((0.5, 0.75), (1.0, 0.9)):  # half the log-odds of 9 to 1 are those of 3 to 1
        write_json(run.agreement, {"confidence": {"slope": slope, "shift": 0.0, "calibrated_on": 40}})
        examined = cascade.examine_labels(labels, config=make_config(), run=run)
        assert counted[-1] == pytest.approx([expected, 0.9, math.nan], nan_ok=True)
        assert examined["confidence"].tolist() == pytest.approx([0.9, 0.9, math.nan], nan_ok=True)


def test_where_the_small_llm_gives_no_confidence_the_large_ones_says_nothing_of_its_labels(
    make_config: MakeConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[list[float]] = []

    def soft_targets(features: Any, labels: list[str], confidence: list[float], **_: Any) -> Any:
        counted.append(confidence)
        return np.eye(2)

    monkeypatch.setattr(cascade, "features", lambda texts, **_: np.zeros((len(texts), 2)))
    monkeypatch.setattr(cascade, "soft_targets", soft_targets)
    labels = pd.DataFrame({"text": list("ab"), "label": "sports", "source": ["small", "large"]})
    cascade.believed_labels(labels.assign(confidence=[math.nan, 0.99]), config=make_config(), run=run)
    cascade.believed_labels(labels.assign(confidence=[0.9, 0.99]), config=make_config(), run=run)
    assert np.isnan(counted[0]).all()
    assert counted[1][1] == 0.99


def test_texts_that_are_sent_on_later_are_not_unsettled(opened, monkeypatch) -> None:
    monkeypatch.setattr(cascade, "doubt", lambda features, labels, *a, **k: np.linspace(0.9, 0.1, len(labels)))
    opened(cascade=0.25, max_iters=2).run_until_done()
    report = opened(cascade=0.25, max_iters=1).run_until_done()
    assert not [note for note in report["notes"] if "doubtful labels" in note]


def test_a_text_that_was_sent_on_and_then_labelled_by_a_person_is_settled(make_config, store) -> None:
    config = make_config(labeling={"cascade": 0.25})
    store.add_sent_on(["a", "b"], 3)
    store.note_finding(cascade.DECIDED, '{"share": 0.25, "sizes": [3]}')
    labels = pd.DataFrame({"chunk_id": ["a", "b", "c"], "source": ["human", "large", "small"]})
    assert cascade.tell_unsettled(labels, config=config, store=store) == []
    [note] = cascade.tell_unsettled(labels.assign(source="small"), config=config, store=store)
    assert note.startswith("2 doubtful labels are the small LLM's still")
