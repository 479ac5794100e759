"""report.html: one file to read and to send on, with everything that a run may claim, what it cost, and what it is not.

`read_facts` reads the run folder, `gather` makes of it what the page says, pure and without a clock, and `render` draws
the figures and fills in the template. Nothing is fetched from elsewhere, and every text is escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nbhelpers import page_words, plots
from nbhelpers.config import Config, repository_root
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels
from nbhelpers.pictures import alt_text, class_looks, for_dark_page, png_bytes, svg_bytes
from nbhelpers.reliability import reliability_table
from nbhelpers.rules import read_rules
from nbhelpers.run_folder import RunFolder, write_text
from nbhelpers.running_costs import Making, Rate, break_even, classifier_rate, llm_rate, making

EXAMPLES = 6  # of texts that were labelled alike, and of those that were not
EXAMPLE_CHARS = 600
MIXED_UP = 5
LARGEST_SVG = 400_000  # bytes; a picture of more strokes than that is smaller, and shown faster, as a PNG


@dataclass(frozen=True, eq=False)
class Facts:
    """What a run folder holds, as `gather` takes it.

    `train` are the labels that trained the final classifier (label, source), `test` the test set's, `predictions` what
    `prediction.predict_all` returned; `truth` is truth.json's content, `training` the classifier's training.json's.
    """

    name: str
    config: Config
    report: Mapping[str, Any]
    rules: str
    train: pd.DataFrame
    test: pd.DataFrame
    predictions: pd.DataFrame
    truth: Mapping[str, Mapping[str, float]]
    training: Mapping[str, Any]
    llms: Mapping[str, Rate | None]
    classifier: Rate | None
    making: Making
    calls_between: tuple[str, str] | None
    hashes: Mapping[str, str]


def write_report_page(config: Config, run: RunFolder, store: LabelStore, predictions: pd.DataFrame) -> str:
    """Writes report.html; returns a sentence that says where it is.

    Args:
        predictions: as prediction.predict_all returned them, of all texts or of the test set alone.
    Raises:
        RunFolderError: something that 01 to 04 leave is not there.
    """
    write_text(run.page, render(gather(read_facts(config, run, store, predictions))))
    return f"The report to send on: {run.name}/{run.page.name}"


def read_facts(config: Config, run: RunFolder, store: LabelStore, predictions: pd.DataFrame) -> Facts:
    """Reads what the page is made from.

    Raises:
        RunFolderError: something that 01 to 04 leave is not there.
    """
    report = run.read_json(run.report, made_by="04_train")
    name = report["final"]["classifier"]
    number = report["iterations"][-1]["iteration"]
    folder = run.classifier(number)
    dataset = run.dataset(number)
    rows = [json.loads(line) for line in dataset.read_text("utf-8").splitlines()]
    weights = sorted(folder.glob("*.safetensors"))
    files = [run.chunks, run.rules, run.test_set, run.test_labels, dataset, *weights]
    return Facts(
        name=run.root.name,
        config=config,
        report=report,
        rules=read_rules(run),
        train=pd.DataFrame(rows, columns=["label", "source"]),
        test=read_test_labels(run),
        predictions=predictions,
        truth=run.read_truth_shares(name),
        training=run.read_json(folder / "training.json", made_by="04_train"),
        llms={size: llm_rate(config, store, size) for size in ("large", "small")},
        classifier=classifier_rate(run, name),
        making=making(config, run, store),
        calls_between=store.first_and_last_call(),
        hashes={path.relative_to(run.root).as_posix(): _sha256(path) for path in files if path.exists()},
    )


def gather(facts: Facts) -> dict[str, Any]:
    """What the page says, as plain values and tables: the same facts, the same page."""
    config, report = facts.config, facts.report
    classes = config.classification.classes
    last = report["iterations"][-1]
    tested = _tested(facts)
    right = tested["predicted_label"] == tested["label"]
    everything = config.classification.predict_on_whole_set_at_the_end
    labeller = f"the {config.training.test_labeler} LLM"
    return {
        "name": facts.name,
        "desc": config.classification.desc,
        "classes": [{"name": name, "colour": colour} for name, (colour, _) in class_looks(classes).items()],
        "rules": facts.rules,
        "labeller": labeller,
        "labeller_model": config.api_of(config.training.test_labeler).model,
        "base_model": config.training.model_path,
        "classifier": report["final"]["classifier"],
        "status": report["status"],
        "outcome": page_words.outcome(report),
        "final": last,
        "target": report["target"],
        "claim": report.get("claim"),
        "claims": page_words.claims(report, facts.truth, labeller),
        "truth": page_words.against_truth(report, facts.truth),
        "what_more_brings": page_words.what_more_brings(report.get("outlook")),
        "meaning": page_words.meaning(report, facts.truth, labeller),
        "notes": report.get("notes", []),
        "iterations": report["iterations"],
        "confusion": pd.DataFrame(last["confusion"], index=classes, columns=classes),
        "per_class": pd.DataFrame(last["per_class"]).astype(dict.fromkeys(("precision", "recall", "f1"), float)),
        "mixed_up": _mixed_up(last["confusion"], classes),
        "reliability": reliability_table(tested["probability"].tolist(), right.tolist()),
        "thresholds": (report.get("confidence") or {}).get("thresholds", []),
        "train": facts.train,
        "train_counts": dict(Counter(facts.train["label"])),
        "train_sources": dict(Counter(facts.train["source"])),
        "right": _examples(tested[right].sort_values("chunk_id")),  # an id is a hash: its order is a draw
        "wrong": _examples(tested[~right].sort_values("probability", ascending=False, kind="stable")),
        "wrong_texts": int((~right).sum()),
        "predictions": facts.predictions,
        "everything": everything,
        "predicted_counts": dict(Counter(facts.predictions["label"])),
        "label_sources": dict(Counter(facts.predictions["label_source"])),
        "ingest": report["ingest"],
        "llm": report["llm"],
        "making": facts.making,
        "costs": _costs(facts),
        "load": f"{facts.name}/classifiers/{report['final']['classifier']}",
        "versions": {**report["versions"], "trained with": facts.training.get("versions")},
        "config_yaml": _config_yaml(report["config"]),
        "hashes": facts.hashes,
        "calls_between": facts.calls_between,
    }


def render(content: Mapping[str, Any]) -> str:
    """The page: draws the figures and fills in the template, where every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nbhelpers"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(page_words.FILTERS)
    figures = {name: _figure(draw(content)) for name, draw in FIGURES.items()}
    return environment.get_template("report.html").render(**content, figures=figures)


FIGURES: dict[str, Callable[[Mapping[str, Any]], Figure | Axes]] = {
    "learning_curve": lambda page: plots.learning_curve(
        page["iterations"], target=page["target"], majority_baseline=page["final"]["majority_baseline"]
    ),
    "confusion": lambda page: plots.confusion_matrix(
        page["confusion"], rows=f"{page['labeller'].removeprefix('the ')}'s label"
    ),
    "per_class": lambda page: plots.per_class(page["per_class"]),
    "reliability": lambda page: plots.reliability(
        page["reliability"], title="The classifier's confidence", right=f"has {page['labeller']}'s label"
    ),
    "train_classes": lambda page: plots.class_shares(
        page["train"]["label"], [row["name"] for row in page["classes"]], title="What the classifier was trained on"
    ),
    "predicted_classes": lambda page: plots.class_shares(
        page["predictions"]["label"],
        [row["name"] for row in page["classes"]],
        title="Classes of all input texts" if page["everything"] else "Classes of the test set",
    ),
    "confidence": lambda page: plots.confidence_by_class(
        page["predictions"].assign(label=page["predictions"]["predicted_label"]),
        [row["name"] for row in page["classes"]],
    ),
}


def _config_yaml(config: Mapping[str, Any]) -> str:
    """The config to be read elsewhere: paths from the repository's root, as people write them, or from one's home."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    for folder, short in ((repository_root(), ""), (Path.home(), "~/")):
        if folder != folder.parent:  # an unknown user's home is /, which is in every path
            text = text.replace(f"{folder}/", short)
    return text


def _tested(facts: Facts) -> pd.DataFrame:
    """The labelled test texts with what the classifier says of them, one row a text."""
    said = facts.predictions.drop_duplicates("chunk_id")[["chunk_id", "predicted_label", "probability"]]
    return facts.test[facts.test["label"].notna()].merge(said, on="chunk_id")


def _mixed_up(confusion: list[list[int]], classes: list[str]) -> list[dict[str, Any]]:
    pairs: list[dict[str, Any]] = [
        {"llm": classes[row], "classifier": classes[column], "texts": n, "of": sum(confusion[row])}
        for row, counts in enumerate(confusion)
        for column, n in enumerate(counts)
        if row != column and n
    ]
    return sorted(pairs, key=lambda pair: -pair["texts"])[:MIXED_UP]


def _examples(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "text": page_words.shortened(row["text"], EXAMPLE_CHARS),
            "llm": row["label"],
            "llm_confidence": None if pd.isna(row["confidence"]) else row["confidence"],
            "reply": None if pd.isna(row["reply"]) else page_words.shortened(row["reply"], EXAMPLE_CHARS),
            "classifier": row["predicted_label"],
            "probability": row["probability"],
        }
        for row in table.head(EXAMPLES).to_dict("records")
    ]


def _costs(facts: Facts) -> list[dict[str, Any]]:
    """A row for each labeller: what a text costs and takes, and after how many the classifier has paid off."""
    own, made = facts.classifier, facts.making
    rows = []
    for size, rate in facts.llms.items():
        if rate is not None:
            rows.append(
                {
                    "who": f"{size} LLM",
                    "rate": rate,
                    "money": break_even(made.dollars, rate.dollars, None if own is None else own.dollars),
                    "time": break_even(made.seconds, rate.wall_seconds, None if own is None else own.seconds),
                }
            )
    if own is not None:
        rows.append({"who": "classifier", "rate": own, "money": None, "time": None})
    return rows


def _figure(drawn: Figure | Axes) -> dict[str, Any]:
    """A picture as an `img` takes it, at its size in CSS pixels; without a dark one, the page inverts the light one."""
    svg = svg_bytes(drawn, "")
    if len(svg) > LARGEST_SVG:
        light, dark = _data("png", png_bytes(drawn, dpi=150)), None
    else:
        light, inverse = _data("svg+xml", svg), for_dark_page(svg)
        dark = None if inverse is None else _data("svg+xml", inverse)
    figure = drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn
    assert isinstance(figure, Figure)
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    return {"light": light, "dark": dark, "alt": alt_text(drawn), "width": width, "height": height}


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _sha256(path: Any) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
