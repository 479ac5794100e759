"""What report.json holds, and the plain warnings that belong beside its figures."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pandas as pd

from nbhelpers.audit import TruthEstimate
from nbhelpers.config import Config
from nbhelpers.evaluation import smallest_correct
from nbhelpers.ingest import count_ingest
from nbhelpers.iteration import Iteration
from nbhelpers.label_store import LabelStore
from nbhelpers.llms import usage
from nbhelpers.run_folder import RunFolder
from nbhelpers.test_set import Pool

REPORTED_VERSIONS = ("nbhelpers", "torch", "transformers", "openai", "pandas", "scikit-learn")
FINAL_FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "majority_baseline")


def report_content(
    done: Sequence[Iteration],
    *,
    status: str,
    notes: Sequence[str],
    truth: TruthEstimate | None,
    config: Config,
    run: RunFolder,
    store: LabelStore,
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        done: the iterations so far; the last one's classifier is the final one.
        status: how the loop ended, or "running".
        notes: what belongs beside the figures.
        truth: the final classifier's accuracy against people's labels, where there are such.
        config, run, store: what was asked for, read, and paid.
    """
    documents = run.read_table(run.documents, made_by="01_ingest")
    chunks = run.read_table(run.chunks, made_by="01_ingest")
    agreement = run.read_json(run.agreement, made_by="03_test_labels") if run.agreement.exists() else None
    report: dict[str, Any] = {
        "status": status,
        "target": config.system.required_accuracy,
        "stop_rule": config.system.stop_rule,
        "iterations": [iteration.row for iteration in done],
        "final": None,
        "claim": None,
        "llm": usage(config, store),
        "llms_agree": agreement,
        "ingest": count_ingest(documents, chunks),
        "notes": list(notes),
        "config": config.public(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in REPORTED_VERSIONS}},
    }
    if done:
        final = done[-1].row
        figures = {name: final[name] for name in FINAL_FIGURES}
        report["final"] = {"classifier": f"classifier_{final['iteration']}", **figures}
        report["truth"] = None if truth is None else asdict(truth)
        report["claim"] = {"lower_bound": final["lower_bound"], "confidence": 0.95, "looks": final["looks"]}
    return report


def warnings(test: pd.DataFrame, pool: Pool, *, config: Config, store: LabelStore) -> list[str]:
    """Plain warnings about what the figures of this config, test set and pool cannot say."""
    notes = []
    target, known = config.system.required_accuracy, int(test["label"].notna().sum())
    needed = smallest_correct(known, target, look=1)
    if config.system.stop_rule == "accuracy":
        bound = (
            f"{needed} right at the first look" if needed is not None else "a larger test set: all right is not enough"
        )
        notes.append(
            f"The stop rule compares the accuracy itself with the target. With {known} test texts, being 95 % sure "
            f"of {target:.2f} takes {bound}; stop_rule: lower_bound waits for that."
        )
    elif needed is None:
        notes.append(f"{known} test texts cannot show {target:.2f}, even all right: raise training.test_set_size.")
    if pool.scope == "chunks":
        notes.append(
            "Too few chunks to leave whole test documents out of training: the accuracy holds for new chunks of "
            "these documents, not for other documents."
        )
    if config.training.selection == "random" and not store.selection()["why"].eq("random").all():
        notes.append(
            "Some texts were chosen by an earlier classifier, before training.selection was random: what is paid "
            "for stays. For a run at random only, use another path.output_dir."
        )
    local = {config.api_of(size).model for size in ("large", "small") if config.api_of(size).mode == "local"}
    if local:
        notes.append(
            f"Labels come from a local model ({', '.join(sorted(local))}). A small model is a weak teacher: check "
            "it against labels of your own (path.truth), or name a better LLM under api: (params/openai.yaml). "
            "Its favourite class names are corrected as if all classes were about equally frequent."
        )
    unused = [name for name in config.classification.classes if name not in set(test["label"])]
    if unused:
        notes.append(f"No test text is of class {', '.join(unused)}: its figures mean nothing yet.")
    return notes
