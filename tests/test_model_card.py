"""The model card: metadata that Hugging Face reads, and words that say what the classifier is and is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from chat_server import ChatServer
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from report_made import make_facts
from runs_made import WordFits, prepare, texts_of, write_rows

from nbhelpers.config import Config
from nbhelpers.label_store import LabelStore
from nbhelpers.model_card import card, write_model_card
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder, write_json

MakeConfig = Callable[..., Config]
TRAINING = {"settings": {"max_tokens": 512, "train_tokens": 256}}
ROWS = [{"label": "ham", "source": "small"}, {"label": "spam", "source": "small"}, {"label": "ham", "source": "human"}]
TRUTH = {"classifier against the truth": {"share": 0.75, "low": 0.6, "high": 0.86, "texts": 40}}


def made(classes: list[str], *, truth: Any = (), note: str = "A note.", **last: Any) -> str:
    facts = make_facts(classes, note=note)
    report = {**facts.report, "iterations": [{**facts.report["iterations"][0], **last}]}
    return card(facts.config, report, dict(truth), ROWS, TRAINING)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_its_metadata_are_read_back_by_hugging_face() -> None:
    data = ModelCard(made(["ham", "spam"], truth=TRUTH)).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert data.base_model == make_facts(["ham", "spam"]).config.training.model_path
    assert (data.license, data.language) == (None, None)  # not known, so not claimed
    results = {r.dataset_config: (r.metric_type, r.metric_value, plain(r.metric_name)) for r in data.eval_results}
    assert results == {
        "labelled by the large LLM": ("accuracy", 0.8, "accuracy (95 % interval 64.4 % to 90.9 %)"),
        "labelled by people": ("accuracy", 0.75, "accuracy (95 % interval 60.0 % to 86.0 %)"),
    }


def test_a_base_model_in_a_folder_of_ones_own_is_no_id(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(training={"model_path": str(tmp_path)}, classification={"classes": ["ham", "spam"]})
    assert ModelCard(card(config, make_facts(["ham", "spam"]).report, {}, ROWS, TRAINING)).data.base_model is None


def test_it_says_what_the_classifier_learned_from_and_how_good_it_is() -> None:
    text = plain(made(["ham", "spam"]))
    assert "3 labels: 2 by the small LLM, 1 by people (large LLM: `big`, small LLM: `little`)" in text
    assert "| ham | 2 | 20 | 80.0 % | 80.0 % | 80.0 % |" in text
    assert "| Same label as the large LLM | 80.0 % | 64.4 % to 90.9 % | 40 |" in text
    assert "Nobody has checked" in text
    assert 'model="path/to/classifier_1"' in text


def test_a_copy_says_what_it_is_a_copy_of() -> None:
    assert "copy of classifier_2" in made(["ham", "spam"], copy_of=2)
    assert "copy of" not in made(["ham", "spam"])


def test_no_text_is_taken_for_markdown_or_html() -> None:
    evil = "<script>alert(1)</script>|*b*"
    text = made(["ham", evil], note=f"[link](javascript:alert(2)) {evil}\n# no heading")
    shown = BeautifulSoup(MarkdownIt().enable("table").render(text.split("---\n", 2)[2]), "html.parser")
    assert shown.find_all(["script", "a", "em", "img"]) == []
    assert [heading.get_text() for heading in shown.find_all("h1")] == ["classifier_1: a classifier for 2 classes"]
    rows = [[cell.get_text() for cell in row.find_all("td")] for row in shown.table.find_all("tr")[1:]]
    assert [(row[0], len(row)) for row in rows] == [("ham", 6), (evil, 6)]


def test_it_is_written_into_the_final_classifiers_folder_and_makes_nothing_stale(
    make_config: MakeConfig,
    server: ChatServer,
    fits: WordFits,
    run: RunFolder,
    store: LabelStore,
    tiny_base_model: Path,
) -> None:
    sizes = {"train_set_size": 15, "train_set_increment": 15, "test_set_size": 20, "max_iters": 2}
    changes = {"training": {"model_path": str(tiny_base_model), **sizes}, "system": {"required_accuracy": 0.99}}
    config = make_config(server.url, **changes)
    write_rows(config.path.input_dir, texts_of({"goal": 20, "vote": 20, "rain": 20}))
    prepare(config, run, store)
    fits.blind = [{"goal"}, {"goal"}]
    Rounds(config, run, store).run_until_done()
    before = {path: path.read_bytes() for path in run.classifiers.rglob("*") if path.is_file()}
    path = write_model_card(config, run)
    assert path == run.classifier(max(run.iterations())) / "README.md"
    assert {file: file.read_bytes() for file in before} == before
    Rounds(config, run, store).run_until_done()
    assert len(fits.made) == 2  # nothing is trained again
    last = max(run.iterations())
    run.write_truth_shares(last, TRUTH)
    write_model_card(config, run)
    assert "labelled by people" in path.read_text("utf-8")
    made = run.classifier(last) / "training.json"
    write_json(made, {**json.loads(made.read_text("utf-8")), "seconds": 99.0})  # trained anew
    write_model_card(config, run)
    assert "labelled by people" not in path.read_text("utf-8")
