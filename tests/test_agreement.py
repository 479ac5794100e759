"""The two LLMs on the same texts: how far they agree, and what the small one's confidence is worth."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chat_server import ChatServer, Said, shown_text
from runs_made import LABELLER, WORDS, word_of

from nbhelpers import agreement
from nbhelpers.agreement import Comparison, compare_llms, read_calibration, read_comparison
from nbhelpers.calibration import Calibration
from nbhelpers.chunking import chunk_id
from nbhelpers.config import Config
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks
from nbhelpers.run_folder import RunFolder

MakeConfig = Callable[..., Config]
RULES = "Go by the first word."
SURE = math.log(0.99)

pytestmark = pytest.mark.usefixtures("quick_retries")


def some(n: int) -> pd.DataFrame:
    """Text 0 is about goals, text 1 about votes, text 2 about rain, and so on."""
    texts = [f"{list(WORDS)[i % 3]} number {i}." for i in range(n)]
    return pd.DataFrame({"chunk_id": [chunk_id(text) for text in texts], "text": texts})


def differing(odd: set[int], *, logprobs: bool = False) -> Callable[..., Any]:
    """The small LLM takes goals for weather in the texts of these numbers; always 99 % sure, where it tells."""

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        text = shown_text(messages) or ""
        number = int(text.strip(".").rpartition(" ")[2])
        label = "weather" if model == "little" and number in odd else WORDS[word_of(text)]
        if not logprobs:
            return f"Final label: {label}"
        other = next(name for name in WORDS.values() if name != label)
        tops = [{"token": label, "logprob": SURE}, {"token": other, "logprob": math.log(0.01)}]
        content = [
            {"token": "Final label: ", "logprob": 0.0, "top_logprobs": []},
            {"token": label, "logprob": SURE, "top_logprobs": tops},
        ]
        return Said(f"Final label: {label}", choice={"logprobs": {"content": content}})

    return answer


def compare(config: Config, run: RunFolder, store: LabelStore, *, n: int = 60) -> Comparison:
    first = config.training.test_labeler
    labels = label_chunks(some(n), size=first, rules=RULES, config=config, store=store)
    return compare_llms(labels, rules=RULES, config=config, run=run, store=store)


@pytest.mark.parametrize("test_labeler", ["large", "small"])
def test_they_are_compared_on_the_first_test_texts_and_04_reads_the_same(
    test_labeler: str, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(differing({0})) as server:
        config = make_config(server.url, labeling={"compare": 10}, training={"test_labeler": test_labeler})
        found = compare(config, run, store, n=30)
        assert server.calls == 30 + 10
        assert server.asked_twice == []
        again = read_comparison(run, config=config)
        assert server.calls == 40
    for comparison in (found, again):
        said = str(comparison)
        assert "agree on 9 of 10 texts (90.0%, 95 % interval 55.5% to 99.7%; Cohen's kappa 0.85)." in said
        assert "Mixed up most, large LLM first: sports taken for weather (1)." in said
        assert ("shown at about 90.0%" in said) == (test_labeler == "large")  # or it is measured by its own teacher
    figures = again.to_dict()
    assert (figures["n"], figures["share"], figures["ceiling"]) == (10, 0.9, 0.9)
    assert figures["mixed_up"] == [["sports", "weather", 1]]
    assert figures["kappa"] == pytest.approx(0.9 - 0.33 + 0.18, abs=0.15)
    assert json.dumps(figures) == json.dumps(found.to_dict())


def test_a_text_without_both_labels_is_left_out_and_counted(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    answer = differing(set())

    def failing(model: str, messages: list[dict[str, Any]]) -> Any:
        return "no idea" if model == "little" and "number 3." in str(shown_text(messages)) else answer(model, messages)

    with ChatServer(failing) as server:
        found = compare(make_config(server.url, labeling={"compare": 10}), run, store, n=12)
    assert "agree on 9 of 9 texts" in str(found)
    assert "1 more have not both labels." in str(found)
    assert read_calibration(run) == Calibration()


def test_where_there_is_nothing_to_compare_the_reason_is_said(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(LABELLER) as server:
        config = make_config(server.url)
        assert "Run 03_test_labels first" in str(read_comparison(run, config=config))
        compare(config, run, store, n=12)
        off = make_config(server.url, labeling={"compare": 0})
        same = make_config(server.url, api={"small_model": "big", "small_api_key": "another"})
        for changed, reason in ((off, "compare is 0"), (same, "the same model")):
            for found in (compare(changed, run, store), read_comparison(run, config=changed)):
                assert reason in str(found)
                assert (found.to_dict(), found.reliability().empty) == ({}, True)
            assert not run.agreement.exists()
        server.answer = lambda model, messages: "no idea" if model == "little" else LABELLER(model, messages)
        silent = make_config(server.url, api={"small_model": "little"}, classification={"desc": "Sort others."})
        assert str(compare(silent, run, store, n=3)) == "No text has a label by both LLMs."
        assert read_comparison(run, config=silent).to_dict() == {}


def test_confidence_from_log_probabilities_is_calibrated_on_texts_that_both_labelled(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    wrong = set(range(0, 60, 6))  # 10 of 60
    with ChatServer(differing(wrong, logprobs=True), refused_parameters=["response_format"]) as server:
        found = compare(make_config(server.url, labeling={"compare": 60}), run, store)
    assert found.source == "log-probabilities"
    assert found.texts["confidence"].tolist() == pytest.approx([0.99] * 60)  # as it was given
    [row] = found.reliability().to_dict("records")
    assert (row["texts"], row["confidence"], row["right"]) == (60, pytest.approx(0.99), pytest.approx(5 / 6))
    calibration = read_calibration(run)
    assert calibration == found.calibration
    assert calibration([0.99]) == pytest.approx([5 / 6], abs=0.02)
    told = found.to_dict()["confidence"]
    assert (told["source"], told["texts"], told["calibrated_on"]) == ("log-probabilities", 60, 60)
    assert told["error"] == pytest.approx(0.99 - 5 / 6)
    assert told["error_calibrated"] < 0.05
    assert "log-probabilities. On 60 texts it is off by 15.7% on average; calibrated, each text by the others" in str(
        found
    )


def test_confidence_from_several_answers_says_how_many(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(differing({0, 3})) as server:
        config = make_config(server.url, labeling={"compare": 24, "label_samples": 3})
        found = compare(config, run, store, n=24)
        assert server.calls == 24 + 3 * 24
    assert found.source == "agreement of 3 answers"
    assert found.reliability()["confidence"].tolist() == [1.0]
    assert read_calibration(run).texts == 24


def test_few_texts_leave_the_confidence_as_it_is(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    with ChatServer(differing({0}, logprobs=True), refused_parameters=["response_format"]) as server:
        found = compare(make_config(server.url, labeling={"compare": 12}), run, store)
    assert "used as it is, since to calibrate it takes 20 texts (labeling.compare)" in str(found)
    assert read_calibration(run) == Calibration()
    assert found.to_dict()["confidence"]["error_calibrated"] is None


def test_without_confidence_it_says_what_to_do(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    with ChatServer(differing(set())) as server:
        found = compare(make_config(server.url), run, store)
    assert found.source == ""
    assert "none. Its endpoint gives no log-probabilities; labeling.label_samples: 3" in str(found)
    assert found.reliability().empty


def test_a_local_models_scores_are_a_source(
    make_config: MakeConfig, run: RunFolder, store: LabelStore, tiny_llm: Path
) -> None:
    with ChatServer(LABELLER) as server:
        config = make_config(server.url, api={"small_mode": "local", "small_model": str(tiny_llm)})
        found = compare(config, run, store, n=24)
    assert found.source == "the local model's scores"
    assert found.to_dict()["confidence"]["texts"] == 24


def test_an_older_run_folder_has_no_calibration(run: RunFolder, make_config: MakeConfig) -> None:
    run.agreement.parent.mkdir(parents=True)
    run.agreement.write_text(json.dumps({"n": 10, "share": 0.9}), "utf-8")
    assert read_calibration(run) == Calibration()
    assert str(read_comparison(run, config=make_config())) == "No text has a label by both LLMs."
    assert agreement.MADE_BY == "03_test_labels"
