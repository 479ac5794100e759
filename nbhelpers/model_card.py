"""README.md in the final classifier's folder: a model card in Hugging Face's form, so that a copy explains itself.

What is not known is left open: the licence (the base model's) and the language of the texts.

Source: Mitchell et al. 2019, arXiv:1810.03993; metadata as huggingface_hub's ModelCardData writes them.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from nbhelpers.config import Config
from nbhelpers.models import local_path
from nbhelpers.page_words import against_truth, claims, meaning, percent, sources
from nbhelpers.run_folder import RunFolder, write_text

CARD = "README.md"
TASK = "text-classification"


def write_model_card(config: Config, run: RunFolder) -> Path:
    """Writes the card of the final classifier, from report.json and, where it is there, truth.json.

    Returns:
        The card's path.
    Raises:
        RunFolderError: no classifier has been trained yet.
    """
    report = run.read_json(run.report, made_by="04_train")
    truth = run.read_truth_shares(report["final"]["classifier"])
    number = report["iterations"][-1]["iteration"]
    folder = run.classifier(number)
    run.require(folder, made_by="04_train")
    training = run.read_json(folder / "training.json", made_by="04_train")
    rows = [json.loads(line) for line in run.dataset(number).read_text("utf-8").splitlines()]
    write_text(folder / CARD, card(config, report, truth, rows, training))
    return folder / CARD


def card(
    config: Config,
    report: Mapping[str, Any],
    truth: Mapping[str, Mapping[str, float]],
    rows: list[dict[str, Any]],
    training: Mapping[str, Any],
) -> str:
    """The card's text: metadata between two lines of dashes, then Markdown.

    Args:
        report, truth: contents of report.json and truth.json.
        rows: the labels that trained the classifier, each with label and source.
        training: how it was trained, the content of its training.json.
    """
    last = report["iterations"][-1]
    labeller = f"the {config.training.test_labeler} LLM"
    counts = Counter(row["label"] for row in rows)
    template = jinja2.Template(
        files("nbhelpers").joinpath("templates/model_card.md").read_text("utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text: str = template.render(
        card_data=_metadata(config, report, truth, labeller).to_yaml(),
        classifier=report["final"]["classifier"],
        classes=config.classification.classes,
        copy_of=last.get("copy_of"),
        desc=_plain(config.classification.desc),
        per_class=[
            {
                "class": _plain(row["class"]),
                "texts": counts[row["class"]],
                "support": row["support"],
                **{name: percent(row[name]) for name in ("precision", "recall", "f1")},
            }
            for row in last["per_class"]
        ],
        train_size=len(rows),
        sources=sources(Counter(row["source"] for row in rows)),
        large=config.api.large_model,
        small=config.api.small_model,
        claims=[
            {
                "what": _plain(row["what"]),
                "value": percent(row["value"]),
                "interval": "–" if row["low"] is None else f"{percent(row['low'])} to {percent(row['high'])}",
                "texts": row["texts"],
            }
            for row in claims(report, truth, labeller)
        ],
        meaning=[_plain(sentence) for sentence in meaning(report, truth, labeller)],
        notes=[_plain(note) for note in report["notes"]],
        max_tokens=training["settings"]["max_tokens"],
        train_tokens=training["settings"]["train_tokens"],
        base_model=config.training.model_path,
    )
    return text


def _metadata(
    config: Config, report: Mapping[str, Any], truth: Mapping[str, Mapping[str, float]], labeller: str
) -> ModelCardData:
    last, name = report["iterations"][-1], config.training.model_path
    known = against_truth(report, truth)
    results = [_result(f"labelled by {labeller}", last["accuracy"], last["accuracy_low"], last["accuracy_high"])]
    if known is not None:
        results.append(_result("labelled by people", known["value"], known["low"], known["high"]))
    return ModelCardData(
        model_name=report["final"]["classifier"],
        base_model=None if local_path(name) else name,  # a folder of one's own is not on the hub
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["nbhelpers", TASK, "llm-labelled"],
        eval_results=results,
    )


def _result(labels: str, accuracy: float, low: float, high: float) -> EvalResult:
    return EvalResult(
        task_type=TASK,
        dataset_type="texts-of-this-run",
        dataset_name=f"Texts of this run, {labels}",
        dataset_config=labels,  # results with the same one would be shown as one
        dataset_split="test",
        metric_type="accuracy",
        metric_name=f"accuracy (95 % interval {percent(low)} to {percent(high)})",
        metric_value=round(accuracy, 4),
    )


def _plain(text: str) -> str:
    """One line that Markdown shows as it is: no tags, no cells of a table, no emphasis."""
    shown = html.escape(" ".join(text.split()), quote=False)
    for sign in "\\|*_`[]":
        shown = shown.replace(sign, f"\\{sign}")
    return shown
