"""The plan: what is still to be asked, as the run then asks it, from at most five calls that the run need not make."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from chat_server import ChatServer, Fault, shown_text
from runs_made import LABELLER, WORDS, prepare, texts_of, write_rows

from nbhelpers.__main__ import main
from nbhelpers.agreement import compare_llms
from nbhelpers.config import Config
from nbhelpers.errors import BudgetError, EndpointError
from nbhelpers.ingest import ingest
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels
from nbhelpers.plan import _mean_reply, make_plan
from nbhelpers.rounds import Rounds
from nbhelpers.rules import make_rules, read_rules
from nbhelpers.run_folder import RunFolder
from nbhelpers.stages import begin, find_stage, finish

MakeConfig = Callable[..., Config]
PRICES = {
    "cost_per_million_large_input": 3.0,
    "cost_per_million_large_output": 12.0,
    "cost_per_million_small_input": 0.5,
    "cost_per_million_small_output": 2.0,
}
SIZES = {"test_set_size": 30, "train_set_size": 20, "train_set_increment": 10, "max_iters": 3, "selection": "random"}

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def texts(tmp_path: Path) -> None:
    """120 texts of very different lengths."""
    made = [" ".join([text] * (1 + number % 7)) for number, text in enumerate(texts_of(dict.fromkeys(WORDS, 40)))]
    write_rows(tmp_path / "texts", made)


def by_row(table: pd.DataFrame) -> dict[tuple[str, int], dict[str, Any]]:
    rows = table.to_dict("records")
    return {(row["stage"], 0 if pd.isna(row["iteration"]) else row["iteration"]): row for row in rows}


def used(store: LabelStore, since: int) -> tuple[int, int, int]:
    """Calls and their tokens, after call number `since`."""
    with sqlite3.connect(store.path) as db:
        [row] = db.execute(
            "SELECT count(*), total(prompt_tokens), total(completion_tokens) FROM calls WHERE call > ?", (since,)
        ).fetchall()
    return row


def all_calls(store: LabelStore) -> int:
    return int(store.usage()["calls"].sum())


def close(planned: dict[str, Any], really: tuple[int, int, int], *, large: bool) -> None:
    calls, sent, received = really
    assert planned["calls"] == calls
    assert planned["prompt_tokens"] == pytest.approx(sent, rel=0.1)
    assert planned["completion_tokens"] == pytest.approx(received, rel=0.1)
    dollars = (sent * (3 if large else 0.5) + received * (12 if large else 2)) / 1e6
    assert planned["dollars"] == pytest.approx(dollars, rel=0.1)


@pytest.mark.usefixtures("texts", "fits")
def test_a_run_uses_what_was_planned_and_asks_nothing_twice(
    server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    config = make_config(
        server.url, training=SIZES, cost=PRICES, labeling={"compare": 10}, system={"required_accuracy": 1}
    )
    ingest(config, run)
    plan = make_plan(config, run, store)
    assert server.calls == all_calls(store) == 5
    rows = by_row(plan.table)
    assert [(stage, i, row["llm"]) for (stage, i), row in rows.items()] == [
        ("02 rules", 0, "large"),
        ("03 test labels", 0, "large"),
        ("03 agreement of the LLMs", 0, "small"),
        ("04 labels", 1, "small"),
        ("04 labels", 2, "small"),
        ("04 labels", 3, "small"),
        ("total", 0, ""),
    ]
    assert not run.rules.exists()
    assert not run.test_set.exists()

    before = all_calls(store)
    prepare(config, run, store)
    close(rows["03 test labels", 0], used(store, before), large=True)
    before = all_calls(store)
    compare_llms(read_test_labels(run), rules=read_rules(run), config=config, run=run, store=store)
    close(rows["03 agreement of the LLMs", 0], used(store, before), large=False)
    rounds = Rounds(config, run, store)
    for i in (1, 2, 3):
        before = all_calls(store)
        rounds.step()
        close(rows["04 labels", i], used(store, before), large=False)
    assert rows["02 rules", 0]["calls"] == 0
    assert rows["total", 0]["calls"] + 5 == server.calls
    assert server.asked_twice == []
    again = make_plan(config, run, store)  # no step has a stamp: only the store says that nothing is left
    assert by_row(again.table)["total", 0] | {"stage": "", "iteration": 0, "llm": ""} == {
        "stage": "",
        "iteration": 0,
        "llm": "",
        "calls": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "dollars": 0,
        "llm_minutes": 0,
    }
    assert server.calls == rows["total", 0]["calls"] + 5


def test_replies_are_planned_as_if_each_class_had_been_named_once_more() -> None:
    """Names of 2, 2, 2 and 10 letters: 4 on average, so each reply that names "xy" twice is one token short."""
    answers = pd.DataFrame({"label": ["xy", "xy"], "reply": ["It is xy.\nFinal label: xy"] * 2})
    assert _mean_reply(answers.assign(completion_tokens=[6, 8]), ["xy", "long names"]) == 8.0
    local = pd.DataFrame({"label": [None], "reply": [None], "completion_tokens": [0]})
    assert _mean_reply(local, ["xy", "long names"]) == 0.0


@pytest.mark.usefixtures("texts", "fits")
def test_texts_that_a_classifier_will_choose_are_planned_by_the_mean(
    server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    changes: dict[str, Any] = {"cost": PRICES, "system": {"required_accuracy": 1}, "labeling": {"cascade": 0.25}}
    config = make_config(server.url, training={**SIZES, "selection": "auto"}, **changes)
    ingest(config, run)
    rows = by_row(make_plan(config, run, store).table)
    assert [rows["04 labels", i]["calls"] for i in (1, 2, 3)] == [20, 10, 10]  # the 03 agreement is on other texts
    assert [rows["04 doubtful labels", i]["calls"] for i in (1, 2, 3)] == [5, 2, 3]
    assert rows["04 labels", 3]["prompt_tokens"] == pytest.approx(rows["04 labels", 1]["prompt_tokens"] / 2, rel=0.1)


def test_texts_that_are_asked_about_first_are_among_those_that_a_classifier_will_choose(
    server: ChatServer, open_rounds: Callable[..., Rounds], run: RunFolder, store: LabelStore
) -> None:
    """Without a comparison of the LLMs, the small one is first asked about the random fifth of the first batch."""
    rounds = open_rounds(selection="auto", labeling={"compare": 0})
    server.reset()
    rows = by_row(make_plan(rounds.config, run, store, step="04_train").table)
    assert [rows["04 labels", i]["calls"] for i in (1, 2)] == [20 - 2, 10]
    assert [rows["04 labels", i]["prompt_tokens"] > 0 for i in (1, 2)] == [True, True]
    assert server.calls == 2
    rounds.step()
    assert (server.calls, server.asked_twice) == (20, [])


@pytest.mark.usefixtures("texts", "fits")
def test_several_answers_a_text_are_planned_but_not_among_the_first_questions(
    server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    changes: dict[str, Any] = {"cost": PRICES, "labeling": {"compare": 10, "label_samples": 3}}
    config = make_config(server.url, training={**SIZES, "max_iters": 1}, **changes)
    ingest(config, run)
    rows = by_row(make_plan(config, run, store).table)
    assert server.calls == 5
    prepare(config, run, store)
    before = all_calls(store)
    compare_llms(read_test_labels(run), rules=read_rules(run), config=config, run=run, store=store)
    close(rows["03 agreement of the LLMs", 0], used(store, before), large=False)
    before = all_calls(store)
    Rounds(config, run, store).step()
    close(rows["04 labels", 1], used(store, before), large=False)
    assert rows["03 agreement of the LLMs", 0]["calls"] + rows["04 labels", 1]["calls"] == (10 + 20) * 3 - 2
    assert rows["03 test labels", 0]["calls"] == 30 - 2  # the large LLM answers once
    assert by_row(make_plan(config, run, store).table)["total", 0]["calls"] == 0
    assert rows["total", 0]["calls"] + 5 == server.calls


@pytest.mark.usefixtures("texts")
def test_finished_steps_are_left_out(
    server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    config = make_config(server.url, training=SIZES)
    prepare(config, run, store)
    for name in ("02_rules", "03_test_labels"):
        stage = find_stage(name)
        finish(stage, run, begin(stage, config, run))
    stages = make_plan(config, run, store).table["stage"]
    assert set(stages) == {"04 labels", "total"}


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize("missing", ["cost_per_million_large_output", "cost_per_million_small_input"])
def test_an_unknown_price_is_shown_as_unknown(
    missing: str, server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    config = make_config(server.url, training=SIZES, cost={name: 1.0 for name in PRICES if name != missing})
    ingest(config, run)
    plan = make_plan(config, run, store)
    asked = plan.table[plan.table["calls"] > 0].set_index("llm")
    size = "large" if "large" in missing else "small"
    assert asked.loc[[size], "dollars"].isna().all()
    assert asked.loc["total" if "total" in asked.index else ""]["dollars"] is pd.NA
    assert asked.drop([size, ""])["dollars"].gt(0).all()
    assert asked["prompt_tokens"].gt(0).all()
    assert re.search(r"total .* unknown +[\d.]+$", str(plan), re.MULTILINE)


@pytest.mark.usefixtures("texts")
def test_without_probes_only_what_is_known_is_shown(
    server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    config = make_config(server.url, training=SIZES, cost=PRICES)
    bare = make_plan(config, run, store, probe=False)  # not even texts
    ingest(config, run)
    plan = make_plan(config, run, store, probe=False)
    for made in (bare, plan):
        assert made.table["calls"].tolist() == [1, 30, 30, 20, 10, 10, 101]
        assert made.table[["prompt_tokens", "completion_tokens", "dollars", "llm_minutes"]].isna().all(axis=None)
    assert server.calls == 0
    make_plan(config, run, store)
    assert make_plan(config, run, store, probe=False).table["dollars"].notna().all()
    assert server.calls == 5


@pytest.mark.usefixtures("texts")
def test_too_few_texts_are_said_and_nothing_is_asked(
    server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    config = make_config(server.url, training={**SIZES, "test_set_size": 110})
    ingest(config, run)
    for probe in (True, False):
        assert "There are 120 chunks, but test_set_size (110)" in str(make_plan(config, run, store, probe=probe))
    assert server.calls == 0


@pytest.mark.usefixtures("texts")
def test_repeated_questions_are_expected_once_enough_calls_have_shown_how_many_fail(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    asked: list[str] = []

    def every_third_is_no_label(model: str, messages: list[dict[str, Any]]) -> Any:
        asked.append(model)
        return "I wonder." if model == "big" and len(asked) % 3 == 0 else LABELLER(model, messages)

    with ChatServer(every_third_is_no_label) as server:
        config = make_config(
            server.url, training=SIZES, labeling={"answer_form": "plain"}, system={"concurrency_limit": 1}
        )
        prepare(config, run, store)
        more = make_config(server.url, training={**SIZES, "test_set_size": 60}, labeling={"answer_form": "plain"})
        plan = by_row(make_plan(more, run, store).table)["03 test labels", 0]
    assert plan["calls"] == pytest.approx(45, abs=2)


@pytest.mark.usefixtures("texts")
def test_the_budget_stands_beside_the_plan_and_a_small_one_buys_no_probe(
    server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    config = make_config(server.url, training=SIZES, cost={**PRICES, "budget_usd": 0.001})
    ingest(config, run)
    plan = make_plan(config, run, store)
    assert server.calls == 0
    assert isinstance(plan.error, BudgetError)
    assert "cost.budget_usd: $0.0010, spent $0, planned unknown." in str(plan)
    assert "dollars are left" in str(plan)
    richer = make_config(server.url, training=SIZES, cost={**PRICES, "budget_usd": 0.1})
    assert "not suffice" not in str(make_plan(richer, run, store))
    larger = make_config(server.url, training={**SIZES, "max_iters": 8}, cost={**PRICES, "budget_usd": 0.01})
    assert "That does not suffice." in str(make_plan(larger, run, store))


def test_what_a_killed_run_left_under_way_is_spent(
    config_file: Path, server: ChatServer, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with LabelStore(run.labels) as store:
        store.reserve("key", 0.95)
    assert main(["plan", str(config_file), "--set", "cost.budget_usd=1"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"spent \$0\.9\d \(\$0\.95 of it for calls cut off by a kill", printed)


@pytest.mark.usefixtures("texts")
def test_an_endpoint_that_answers_nothing_is_said_and_stops_no_notebook(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(LABELLER, faults=[Fault(500)] * 50) as server:
        config = make_config(server.url, training=SIZES)
        ingest(config, run)
        plan = make_plan(config, run, store)
    assert isinstance(plan.error, EndpointError)
    assert plan.table["calls"].iloc[-1] == 101
    assert plan.table["dollars"].isna().all()


@pytest.mark.usefixtures("texts")
def test_replies_that_name_no_class_are_why_nothing_is_known(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(lambda model, messages: "I am a teapot." if shown_text(messages) else "1. Rules.") as server:
        config = make_config(server.url, training=SIZES)
        ingest(config, run)
        plan = make_plan(config, run, store)
    assert re.search(r"Not all of it could be found out: None of the \d texts got a label \(.*teapot", str(plan))


@pytest.mark.usefixtures("texts")
def test_faults_among_the_probes_are_paid_for_but_not_fatal(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(LABELLER, faults=[Fault(500), Fault(429, retry_after=0.01)]) as server:
        config = make_config(server.url, training=SIZES)
        ingest(config, run)
        assert make_plan(config, run, store).table["prompt_tokens"].notna().all()
        assert sum(server.answered.values()) == 5


@pytest.mark.usefixtures("texts")
def test_refined_rules_are_planned_with_probes_that_the_refinement_needs(
    server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    config = make_config(server.url, training=SIZES, rules={"refine": 20})
    ingest(config, run)
    rows = make_plan(config, run, store).table.set_index("stage")
    assert rows.loc["02 refined rules, at most", "calls"].tolist() == [20 + 10 + 1 - 2, 20 + 10 - 2]
    assert rows.loc["03 test labels", "calls"] == 30
    assert not run.pilot.exists()


@pytest.mark.usefixtures("texts")
def test_rules_that_cannot_be_refined_are_not_planned_to_be(
    server: ChatServer, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    config = make_config(server.url, api={"small_model": "big"}, training=SIZES, rules={"refine": 20})
    ingest(config, run)
    assert "02 refined rules, at most" not in set(make_plan(config, run, store).table["stage"])


@pytest.mark.usefixtures("texts")
def test_local_models_cost_nothing(
    tiny_llm: Path, make_config: MakeConfig, run: RunFolder, store: LabelStore, tmp_path: Path
) -> None:
    api = {"large_model": str(tiny_llm), "large_mode": "local", "small_model": str(tiny_llm), "small_mode": "local"}
    (tmp_path / "rules.md").write_text("Go by the word.", "utf-8")  # this model's own would come to no end
    config = make_config(api=api, training=SIZES, classification={"rules_file": str(tmp_path / "rules.md")})
    ingest(config, run)
    make_rules(config, run, store)
    plan = make_plan(config, run, store)
    assert plan.table["dollars"].eq(0).all()
    assert plan.table["calls"].tolist() == [0, 26, 20, 10, 10, 66]  # with the rules it has answered five questions
    assert plan.table["llm_minutes"].iloc[1:].gt(0).all()


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize(("compare", "models"), [(0, {"big"}), (40, {"big", "little"})])
def test_a_notebook_asks_only_questions_of_its_own_first(
    compare: int, models: set[str], make_config: MakeConfig, run: RunFolder, store: LabelStore, server: ChatServer
) -> None:
    config = make_config(server.url, training=SIZES, labeling={"compare": compare})
    ingest(config, run)
    make_rules(config, run, store)
    server.reset()
    make_plan(config, run, store, step="03_test_labels")
    assert {request["model"] for request in server.requests} == models
    assert server.calls == 2 * len(models)


# The command line


@pytest.fixture
def config_file(tmp_path: Path, texts: None, server: ChatServer) -> Path:
    sections = {
        "api": {
            "large_model": "big",
            "large_base_url": server.url,
            "small_model": "little",
            "small_base_url": server.url,
        },
        "classification": {"classes": list(WORDS.values()), "desc": "Sort the news."},
        "path": {"input_dir": str(tmp_path / "texts"), "output_dir": str(tmp_path / "out")},
        "training": SIZES,
        "cost": PRICES,
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(sections), "utf-8")
    return file


def test_the_command_reads_the_texts_and_prints_the_plan(
    config_file: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(config_file), "--set", "cost.budget_usd=1"]) == 0
    printed = capsys.readouterr().out
    assert "Texts read, which costs nothing: 1 files, 120 chunks." in printed
    assert re.search(r"^04 labels, iteration 3 +small +10 ", printed, re.MULTILINE)
    assert re.search(r"^04 doubtful labels, iteration 1 +large +2 ", printed, re.MULTILINE)
    assert re.search(r"^total +100 ", printed, re.MULTILINE)
    assert "Paid so far: 5 calls, $0.0" in printed
    assert "cost.budget_usd: $1.00, spent $0.0" in printed
    assert main(["plan", str(config_file)]) == 0
    assert server.calls == 5
    assert re.search(r"^total +100 ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.test_set_size=119", "There are 120 chunks"),
        ("path.input_dir=nowhere", "path.input_dir"),
        ("training.colour=red", "colour"),
        ("api.large_api_key=${NO_SUCH_KEY_HERE}", "NO_SUCH_KEY_HERE is not set"),
        ("api.small_api_key=${NO_SUCH_KEY_HERE}", "NO_SUCH_KEY_HERE is not set"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_1(
    change: str, message: str, config_file: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(config_file), "--set", change]) == 1
    assert re.search(rf"^error: .*{re.escape(message)}", capsys.readouterr().err, re.MULTILINE | re.DOTALL)
    assert server.calls == (3 if "small_api" in change else 0)


def test_wrong_arguments_have_exit_code_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["plan"])
    assert stopped.value.code == 2
