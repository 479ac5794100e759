"""Meta-datagen: the LLM calls of a run as training conversations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from chat_server import ChatServer, keyword_labeller, shown_text

from nbhelpers.chunking import chunk_id
from nbhelpers.config import Config
from nbhelpers.errors import PromptError, RunFolderError
from nbhelpers.export import write_meta_dataset
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks, label_prompt, write_test_labels
from nbhelpers.notebook import open_run
from nbhelpers.rules import make_rules, read_rules
from nbhelpers.run_folder import RunFolder, write_table

MakeConfig = Callable[..., Config]
RULES = "1. Goals are sports.\n2. {label} in braces stays as it is."
TEST = ["a goal with {reply} and {{ rules }}", "the vote", "nothing that fits"]
TRAIN = ["rain on the goal", "a vote in the rain, corrected", "rain"]
NAMES = {"goal": "sports", "vote": "politics", "rain": "weather"}


@pytest.fixture
def finished(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> Callable[..., Config]:
    """`finished(meta_datagen={...})`: makes rules and labels with a server, as 02 to 04 do, and gives the config."""

    def finish(**changes: Any) -> Config:
        labeller = keyword_labeller(NAMES, rules=RULES)

        def answer(model: str, messages: list[dict[str, Any]]) -> Any:
            return "no idea" if "nothing" in (shown_text(messages) or "") else labeller(model, messages)

        with ChatServer(answer) as server:
            config = make_config(server.url, **changes)
            make_rules(config, run, store)
            label(config, run, store)
        return config

    return finish


def label(config: Config, run: RunFolder, store: LabelStore) -> None:
    test, train = (pd.DataFrame({"chunk_id": map(chunk_id, texts), "text": texts}) for texts in (TEST, TRAIN))
    rules = read_rules(run)
    write_test_labels(run, label_chunks(test, size="large", rules=rules, config=config, store=store), config=config)
    labels = label_chunks(train, size="small", rules=rules, config=config, store=store)
    labels.loc[1, ["label", "source"]] = ["sports", "human"]
    labels["split"] = "train"
    write_table(run.train_labels, labels)


def lines(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.meta_dataset.read_text("utf-8").splitlines()]


def meta(*keys: str, extras: tuple[Path, ...] = ()) -> dict[str, Any]:
    return {"do_meta_datagen": True, "meta_datagen_keys": list(keys), "meta_datagen_extras": [str(p) for p in extras]}


def template(path: Path, *turns: tuple[str, str]) -> Path:
    path.write_text(yaml.safe_dump([{"role": role, "content": content} for role, content in turns]), "utf-8")
    return path


def test_label_details_are_the_calls_as_they_were_asked_and_answered(
    finished: Callable[..., Config], run: RunFolder
) -> None:
    config = finished(meta_datagen=meta("label_details"))
    # Two of the three test texts have a label, and two of the three others: one was corrected by a person.
    assert write_meta_dataset(config, run) == 4
    made = lines(run)
    assert [line["detail_key"] for line in made] == ["label_details"] * 4
    prompt = label_prompt(config, RULES)
    for line, text in zip(made, [*TEST[:2], TRAIN[0], TRAIN[2]], strict=True):
        system, human, gpt = line["conversations"]
        asked = [turn["content"] for turn in prompt.render(text)]
        name = next(name for word, name in NAMES.items() if word in text)
        assert (system["from"], human["from"], gpt["from"]) == ("system", "human", "gpt")
        assert [system["value"], human["value"]] == asked
        assert gpt["value"] == f"A keyword decides.\nFinal label: {name}"


def test_rules_creation_details_are_the_question_for_the_rules_and_what_the_model_wrote(
    finished: Callable[..., Config], run: RunFolder
) -> None:
    config = finished(meta_datagen=meta("rules_creation_details"))
    asked = yaml.safe_load(run.rules.read_text("utf-8"))["asked"]
    content = yaml.safe_load(run.rules.read_text("utf-8"))
    run.rules.write_text(yaml.safe_dump({**content, "rules": "edited by a person"}), "utf-8")
    assert write_meta_dataset(config, run) == 1
    assert lines(run) == [
        {
            "detail_key": "rules_creation_details",
            "conversations": [
                {"from": "system", "value": asked[0]["content"]},
                {"from": "human", "value": asked[1]["content"]},
                {"from": "gpt", "value": RULES},
            ],
        }
    ]


def test_rules_that_no_model_wrote_make_no_conversation(
    tmp_path: Path, finished: Callable[..., Config], run: RunFolder
) -> None:
    (tmp_path / "rules.md").write_text("1. Mine.", "utf-8")
    config = finished(
        classification={"rules_file": str(tmp_path / "rules.md")},
        meta_datagen=meta("rules_creation_details", "label_details"),
    )
    assert write_meta_dataset(config, run) == 4
    assert {line["detail_key"] for line in lines(run)} == {"label_details"}


def test_extras_are_filled_in_once_with_every_labelled_text(
    tmp_path: Path, finished: Callable[..., Config], run: RunFolder
) -> None:
    short = template(tmp_path / "short.yaml", ("user", "{text}?"), ("assistant", "{label}"))
    whole = template(
        tmp_path / "whole.yaml",
        ("system", "{{ desc }}|{classes}|{rules}"),
        ("user", '{"text": "{text}", "n": {other}}'),
        ("assistant", "{reply}"),
    )
    config = finished(meta_datagen=meta("rules_creation_details", extras=(short, whole)))
    assert write_meta_dataset(config, run) == 1 + 4 + 4
    made = lines(run)
    assert [line["detail_key"] for line in made[1:]] == [str(short)] * 4 + [str(whole)] * 4
    assert [turn["value"] for turn in made[1]["conversations"]] == [TEST[0] + "?", "sports"]
    assert [turn["from"] for turn in made[1]["conversations"]] == ["human", "gpt"]
    assert [turn["value"] for turn in made[5]["conversations"]] == [
        f"{config.classification.desc}|sports\npolitics\nweather|{RULES}",
        f'{{"text": "{TEST[0]}", "n": {{other}}}}',
        "A keyword decides.\nFinal label: sports",
    ]


def test_a_local_models_reply_is_its_label(
    make_config: MakeConfig, run: RunFolder, store: LabelStore, tiny_llm: Path
) -> None:
    local = {
        f"{size}_{key}": value
        for size in ("large", "small")
        for key, value in (("mode", "local"), ("model", str(tiny_llm)))
    }
    config = make_config(api=local, meta_datagen=meta("label_details"))
    run.rules.parent.mkdir(parents=True)
    run.rules.write_text("rules: 1. Any.\n", "utf-8")
    label(config, run, store)
    assert write_meta_dataset(config, run) == 5
    classes = config.classification.classes
    replies = [line["conversations"][-1]["value"] for line in lines(run)]
    assert set(replies) <= {f"Final label: {name}" for name in classes}


@pytest.mark.parametrize("section", [{}, {"do_meta_datagen": False, "meta_datagen_keys": ["label_details"]}])
def test_nothing_is_written_when_off(section: dict[str, Any], make_config: MakeConfig, run: RunFolder) -> None:
    assert write_meta_dataset(make_config(meta_datagen=section), run) == 0
    assert not run.meta_dataset.exists()


def test_a_missing_template_is_an_error_that_names_it(
    tmp_path: Path, finished: Callable[..., Config], run: RunFolder
) -> None:
    config = finished(meta_datagen=meta(extras=(tmp_path / "none.yaml",)))
    with pytest.raises(PromptError, match=r"meta_datagen_extras: .*none\.yaml not found"):
        write_meta_dataset(config, run)
    assert not run.meta_dataset.exists()


def test_a_missing_template_is_said_before_anything_is_paid_for(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(meta_datagen=meta(extras=(tmp_path / "none.yaml",)))
    with pytest.raises(PromptError, match=r"none\.yaml not found"):
        open_run("01_ingest", config.model_dump(mode="json"))


def test_a_template_that_is_no_list_of_messages_is_an_error(
    tmp_path: Path, finished: Callable[..., Config], run: RunFolder
) -> None:
    (tmp_path / "bad.yaml").write_text("text: x", "utf-8")
    config = finished(meta_datagen=meta(extras=(tmp_path / "bad.yaml",)))
    with pytest.raises(PromptError, match=r"bad\.yaml is not a list of messages"):
        write_meta_dataset(config, run)


def test_before_training_the_error_names_the_notebook(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with pytest.raises(RunFolderError, match=r"train_labels\.parquet not found.*Run 04_train first"):
        write_meta_dataset(make_config(meta_datagen=meta("label_details")), run)
