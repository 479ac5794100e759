"""report.html: everything in one file, nothing unescaped, nothing unknown shown as known."""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from bs4 import BeautifulSoup
from chat_server import ChatServer
from report_made import make_facts
from runs_made import WordFits, prepare, texts_of, write_rows

from nbhelpers.config import Config, repository_root
from nbhelpers.label_store import LabelStore
from nbhelpers.prediction import compare_with_truth, predict_all
from nbhelpers.report_page import EXAMPLES, gather, render, write_report_page
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder
from nbhelpers.running_costs import Making, Rate

MakeConfig = Callable[..., Config]
EVIL = "<script>alert(1)</script>"
HOSTILE = ["ham", EVIL, 'quote" onload="alert(2)']


@pytest.fixture(scope="module")
def page() -> str:
    """The page of two classes, ham and spam."""
    return render(gather(make_facts(["ham", "spam"])))


def words(page: str) -> str:
    page = re.sub("</?bdi>", "", page)  # which are no words apart
    return " ".join(BeautifulSoup(page, "html.parser").get_text(" ").replace("\N{NO-BREAK SPACE}", " ").split())


def test_no_text_reaches_the_page_as_markup() -> None:
    page = render(gather(make_facts(HOSTILE, note=f"</pre>{EVIL}<img src=x onerror=alert(3)>&amp;{{{{ 7 * 7 }}}}")))
    soup = BeautifulSoup(page, "html.parser")
    assert soup.find_all("script") == []
    sources = [*(tag["src"] for tag in soup.find_all("img")), *(tag["srcset"] for tag in soup.find_all("source"))]
    assert {source[:11] for source in sources} == {"data:image/"}
    assert {name for tag in soup.find_all() for name in tag.attrs if name.startswith("on")} == set()
    assert words(page).count(f"</pre>{EVIL}<img src=x onerror=alert(3)>&amp;{{{{ 7 * 7 }}}}") >= 5
    assert {item.get_text(strip=True) for item in soup.select(".classes li")} == set(HOSTILE)


def test_paths_in_the_config_are_those_that_others_can_use() -> None:
    facts = make_facts(["ham", "spam"])
    folders = {"input_dir": f"{repository_root()}/texts", "output_dir": f"{Path.home()}/runs", "truth": "/data/truth"}
    facts.report["config"]["path"] = folders
    assert "path: input_dir: texts output_dir: ~/runs truth: /data/truth" in words(render(gather(facts)))


def test_a_home_that_is_the_root_leaves_addresses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    facts = make_facts(["ham", "spam"])
    facts.report["config"]["api"] = {"large_base_url": "https://api.openai.com/v1"}
    assert "large_base_url: https://api.openai.com/v1" in words(render(gather(facts)))


def test_it_is_one_file_whose_pictures_have_alt_texts(page: str) -> None:
    soup = BeautifulSoup(page, "html.parser")
    assert soup.find_all(["script", "link", "iframe", "object"], src=True) == []
    assert [tag["href"] for tag in soup.find_all("link")] == ["data:,"]
    assert re.findall(r"url\(|@import|https?://", str(soup.style)) == []
    assert len(soup.find_all("img")) == 7
    for image in soup.find_all("img"):
        assert len(image["alt"]) > 30
        kind, _, content = image["src"].partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert ElementTree.fromstring(base64.b64decode(content)).tag.endswith("svg")


def test_its_links_lead_to_its_sections(page: str) -> None:
    soup = BeautifulSoup(page, "html.parser")
    links = [link["href"] for link in soup.find_all("a")]
    assert links == [f"#{section['id']}" for section in soup.find_all("section")]


def test_the_same_facts_give_the_same_page(page: str) -> None:
    assert render(gather(make_facts(["ham", "spam"]))) == page


def test_the_claim_stands_with_interval_baseline_and_what_it_is_not(page: str) -> None:
    said = words(page)
    assert "80.0 % of 40 test texts have the label that the large LLM gave them" in said
    assert "64.4 % to 90.9 %" in said  # 32 of 40, exact
    assert "Baseline: always saying “ham” 50.0 %" in said
    assert "Nobody has checked" in said
    assert "that people gave them" not in said


def test_the_truth_is_shown_where_it_is_known() -> None:
    truth = {"classifier against the truth": {"share": 0.75, "low": 0.6, "high": 0.86, "texts": 40}}
    said = words(render(gather(replace(make_facts(["ham", "spam"]), truth=truth))))
    assert "75.0 % (60.0 % to 86.0 %) have the label that people gave them" in said


def test_an_unknown_price_is_called_unknown(page: str) -> None:
    [llm, classifier] = gather(make_facts(["ham", "spam"]))["costs"]
    assert (llm["rate"].dollars, llm["money"]) == (None, None)
    assert llm["time"] == 103  # 50 s to make, 2 s / 4 at once by the LLM, 0.01 by the classifier: 102.04
    assert classifier["who"] == "classifier"
    said = words(page)
    assert "price unknown prices are not in the config" in said
    assert "big price unknown 8 min 4 calls at once 40 texts unknown after 103 texts" in said
    assert "$0 10 s 40 texts" in said


def test_a_known_price_tells_when_the_classifier_has_paid_for_itself() -> None:
    facts = make_facts(["ham", "spam"])
    facts = replace(facts, llms={"large": Rate("big", 40, 0.002, 2.0), "small": None}, making=Making(3.0, 30.0, 20.0))
    [llm, _] = gather(facts)["costs"]
    assert llm["money"] == 1500
    assert "$2.00" in words(render(gather(facts)))


def test_examples_are_of_texts_labelled_alike_and_otherwise() -> None:
    page = gather(make_facts(["ham", "spam"]))
    assert page["wrong_texts"] == 8
    wrong = [row["text"].split()[1] for row in page["wrong"]]
    assert wrong == ["35", "30", "25", "20", "15", "10"]  # the surest first
    assert all(row["llm"] != row["classifier"] for row in page["wrong"])
    assert len(page["right"]) == EXAMPLES
    assert all(row["llm"] == row["classifier"] for row in page["right"])


def test_what_may_be_left_undecided_is_shown_where_it_is_known(page: str) -> None:
    assert "95.0 % 70.0 % 25.0 % 96.0 % 80.0 % to 99.0 %" in words(page)
    facts = make_facts(["ham", "spam"])
    report = {name: value for name, value in facts.report.items() if name != "confidence"}
    assert gather(replace(facts, report=report))["thresholds"] == []


def test_classes_mixed_up_most_come_first() -> None:
    facts = make_facts(["ham", "spam"])
    last = {**facts.report["iterations"][0], "confusion": [[9, 1], [4, 26]]}
    pairs = gather(replace(facts, report={**facts.report, "iterations": [last]}))["mixed_up"]
    assert [(p["llm"], p["classifier"], p["texts"], p["of"]) for p in pairs] == [
        ("spam", "ham", 4, 30),
        ("ham", "spam", 1, 10),
    ]


def test_only_the_test_set_is_predicted_where_the_config_says_so() -> None:
    said = words(render(gather(make_facts(["ham", "spam"], everything=False))))
    assert "texts predicted: the test set only" in said
    assert "What the test texts are" in said


# From a run folder


def test_a_run_folder_gives_its_page(
    make_config: MakeConfig,
    server: ChatServer,
    fits: WordFits,
    run: RunFolder,
    store: LabelStore,
    tiny_base_model: Any,
    tmp_path: Any,
) -> None:
    fits.blind = [{"goal"}]
    sizes = {"train_set_size": 15, "test_set_size": 20, "max_iters": 1}
    truth = tmp_path / "truth.csv"
    truth.write_text("source,position,label\nrows.jsonl,0,sports\nrows.jsonl,1,weather\n", "utf-8")
    config = make_config(
        server.url,
        training={"model_path": str(tiny_base_model), **sizes},
        path={"truth": str(truth)},
        api={"large_api_key": "sk-verySecret1234567890"},
    )
    write_rows(config.path.input_dir, texts_of({"goal": 20, "vote": 20, "rain": 20}))
    prepare(config, run, store)
    Rounds(config, run, store).run_until_done()
    predictions = predict_all(config, run, store)
    compare_with_truth(config, run, predictions)
    said = write_report_page(config, run, store, predictions)
    assert said.endswith("report.html")
    page = run.page.read_text("utf-8")
    assert "verySecret" not in page
    shown = words(page)
    digest = hashlib.sha256(run.chunks.read_bytes()).hexdigest()
    assert f"{digest} chunks.parquet" in shown
    assert "Classifier against the truth" in shown
    assert "“sports” taken for “politics”" in shown or "“sports” taken for “weather”" in shown
    assert f"label is the LLM's for {(predictions['label_source'] == 'LLM').sum()} texts" in shown
