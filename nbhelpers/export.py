"""The LLM calls as training conversations, for teaching a model to write rules or labels (`meta_datagen`)."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from nbhelpers.config import Config, repository_root
from nbhelpers.errors import PromptError
from nbhelpers.labeling import label_prompt, read_test_labels
from nbhelpers.prompt_files import Message, load_prompt
from nbhelpers.rules import read_rules
from nbhelpers.run_folder import RunFolder, write_text

SPEAKERS = {"system": "system", "developer": "system", "user": "human", "assistant": "gpt"}
_PLACEHOLDER = re.compile(r"\{\{?\s*(text|label|reply|rules|classes|desc)\s*\}?\}")


def write_meta_dataset(config: Config, run: RunFolder) -> int:
    """Writes meta_dataset.jsonl.

    A line is {"detail_key": ..., "conversations": [{"from": "system" | "human" | "gpt", "value": ...}]}: the calls
    named by `meta_datagen_keys` as they were asked and answered, then each template of `meta_datagen_extras`, filled
    in with every labelled text: {text}, {label}, {reply}, {rules}, {classes}, {desc}.

    Returns:
        Number of conversations; 0 where `do_meta_datagen` is off.
    Raises:
        PromptError: a template is missing or is not a list of role and content.
    """
    wanted = config.meta_datagen
    if not wanted.do_meta_datagen:
        return 0
    lines: list[dict[str, Any]] = []
    labels = _labels(run)
    rules = read_rules(run)
    if "rules_creation_details" in wanted.meta_datagen_keys:
        made = run.read_yaml(run.rules, made_by="02_rules")
        if made.get("model_rules"):
            lines.append(_line("rules_creation_details", made["asked"], made["model_rules"]))
    if "label_details" in wanted.meta_datagen_keys:
        prompt = label_prompt(config, rules)
        for row in labels:
            lines.append(_line("label_details", prompt.render(row["text"]), row["reply"]))
    task = {"rules": rules, "classes": "\n".join(config.classification.classes), "desc": config.classification.desc}
    for name in wanted.meta_datagen_extras:
        template = _read_template(name)
        for row in labels:
            lines.append(_line(name, _fill(template, {**task, **row})))
    write_text(run.meta_dataset, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return len(lines)


def check_extras(config: Config) -> None:
    """Refuses what `write_meta_dataset` could not use, before the labels are paid for that it needs.

    Raises:
        PromptError: as `write_meta_dataset`.
    """
    if config.meta_datagen.do_meta_datagen:
        for name in config.meta_datagen.meta_datagen_extras:
            _read_template(name)


def _labels(run: RunFolder) -> list[dict[str, str]]:
    """Text, label and reply of everything that an LLM labelled; a local model's reply is its label."""
    train = run.read_table(run.train_labels, made_by="04_train")
    labels = pd.concat([read_test_labels(run), train])
    labels = labels[labels["label"].notna() & (labels["source"] != "human")]
    labels["reply"] = labels["reply"].fillna("Final label: " + labels["label"])
    columns = ["text", "label", "reply"]
    return [dict(zip(columns, row, strict=True)) for row in labels[columns].itertuples(index=False, name=None)]


def _fill(template: list[Message], values: dict[str, str]) -> list[Message]:
    return [
        {"role": turn["role"], "content": _PLACEHOLDER.sub(lambda match: values[match[1]], turn["content"])}
        for turn in template
    ]


def _line(detail_key: str, messages: list[Message], reply: str | None = None) -> dict[str, Any]:
    turns = [{"from": SPEAKERS[message["role"]], "value": message["content"]} for message in messages]
    if reply is not None:
        turns.append({"from": "gpt", "value": reply})
    return {"detail_key": detail_key, "conversations": turns}


def _read_template(name: str) -> list[Message]:
    path = Path(name).expanduser()
    path = path if path.is_absolute() else repository_root() / path
    if not path.is_file():
        raise PromptError(f"meta_datagen.meta_datagen_extras: {name} not found. Write the path of a YAML prompt file.")
    return load_prompt(path.stem, [path.parent])[0]
