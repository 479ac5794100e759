"""What report.json holds, and the plain warnings that belong beside its figures."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pandas as pd

from nbhelpers.agreement import read_comparison
from nbhelpers.audit import TruthEstimate
from nbhelpers.config import Config, Size
from nbhelpers.evaluation import texts_to_hold, what_can_be_shown
from nbhelpers.human_labels import supported
from nbhelpers.ingest import count_ingest
from nbhelpers.iteration import Iteration
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import NOT_ASKED, read_test_labels
from nbhelpers.learning_curve import Outlook, extrapolate
from nbhelpers.llms import usage
from nbhelpers.reliability import PRECISIONS, calibration_error, reliability_table, threshold_for
from nbhelpers.run_folder import RunFolder
from nbhelpers.running_costs import llm_rate
from nbhelpers.stopping import target_reached
from nbhelpers.test_set import Pool, added_since

REPORTED_VERSIONS = ("nbhelpers", "torch", "transformers", "openai", "pandas", "scikit-learn")
MANY_COPIES = 0.05  # share of all texts, from which on a note says that each counts once
FEW = 10  # test texts of a class, below which its figures mean nothing
NAMED = 5  # of such classes, in a note
FINAL_FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "majority_baseline")


def report_content(
    done: Sequence[Iteration],
    test: pd.DataFrame,
    *,
    status: str,
    notes: Sequence[str],
    truth: TruthEstimate | None,
    outlook: Outlook | None,
    config: Config,
    run: RunFolder,
    store: LabelStore,
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        done: the iterations so far; the last one's classifier is the final one.
        test: the test set with the LLM's labels.
        status: how the loop ended, or "running".
        notes: what belongs beside the figures.
        truth: the final classifier's accuracy against people's labels, where there are such.
        outlook: what another batch is likely to bring, where something can be said about it.
        config, run, store: what was asked for, read, and paid.
    """
    documents = run.read_table(run.documents, made_by="01_ingest")
    chunks = run.read_table(run.chunks, made_by="01_ingest")
    report: dict[str, Any] = {
        "status": status,
        "target": config.system.required_accuracy,
        "stop_rule": config.system.stop_rule,
        "iterations": [iteration.row for iteration in done],
        "final": None,
        "claim": None,
        "outlook": None if outlook is None else asdict(outlook),
        "llm": usage(config, store),
        "llms_agree": read_comparison(run, config=config).to_dict() or None,
        "ingest": count_ingest(documents, chunks),
        "added_since_draw": added_since(config, run, chunks),
        "notes": list(notes),
        "config": config.public(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in REPORTED_VERSIONS}},
    }
    if done:
        final = done[-1].row
        figures = {name: final[name] for name in FINAL_FIGURES}
        report["final"] = {"classifier": f"classifier_{final['iteration']}", **figures}
        report["confidence"] = confidence_part(done[-1], test["label"])
        report["truth"] = None if truth is None else asdict(truth)
        test_ids = read_test_labels(run)["chunk_id"].tolist()
        people, support = supported(test_ids, config=config, run=run, store=store)
        report["human_labels"] = {**support._asdict(), "left_out": people.problems} if people.labels else None
        if final["looks"] is not None:
            report["claim"] = {"lower_bound": final["lower_bound"], "confidence": 0.95, "looks": final["looks"]}
    return report


def confidence_part(final: Iteration, test_labels: "pd.Series[str]") -> dict[str, Any]:
    """What the classifier's probabilities are worth against the LLM's labels of the test set."""
    known = test_labels.notna().tolist()
    pairs = zip(final.predicted, test_labels, strict=True)
    right = [said == label for (said, label), counts in zip(pairs, known, strict=True) if counts]
    confidence = [value for value, counts in zip(final.probability, known, strict=True) if counts]
    found = [threshold_for(precision, confidence, right) for precision in PRECISIONS]
    return {
        "calibration_error": calibration_error(reliability_table(confidence, right)),
        "thresholds": [asdict(threshold) for threshold in found if threshold is not None],
    }


def look_ahead(
    done: Sequence[Iteration], test_labels: Sequence[str | None], *, more: int, config: Config, store: LabelStore
) -> Outlook | None:
    """What `more` labels are likely to bring, and their price as that of the labels so far.

    Args:
        done: the iterations so far.
        test_labels: of the test texts, in the order of their predictions; texts without one are left out.
        more: labels to buy.
        config, store: the share of them that the large LLM gives, and what each LLM has cost.
    """
    own = [iteration for iteration in done if "copy_of" not in iteration.row]
    right = [
        [said == label for said, label in zip(iteration.predicted, test_labels, strict=True) if pd.notna(label)]
        for iteration in own
    ]
    change = extrapolate([len(iteration.labels) for iteration in own], right, more=more) if more > 0 else None
    if change is None:
        return None
    shares: dict[Size, float] = {"small": 1.0, "large": config.cascade_share}
    rates = {size: llm_rate(config, store, size) for size, share in shares.items() if share > 0}
    costs = [
        None if rate is None or rate.dollars is None else shares[size] * rate.dollars for size, rate in rates.items()
    ]
    known = [cost for cost in costs if cost is not None]
    return Outlook(more, *change, dollars=more * sum(known) if len(known) == len(costs) else None)


def warnings(
    test: pd.DataFrame, pool: Pool, *, chunks: pd.DataFrame, config: Config, run: RunFolder, store: LabelStore
) -> list[str]:
    """Plain warnings about what the figures of this config, test set, pool and all chunks cannot say."""
    return [
        *_which_texts(test, pool, chunks, config, run),
        _how_it_stops(test, config),
        *_how_labelled(config, store),
        *_classes_without_figures(test, chunks, config),
    ]


def _which_texts(test: pd.DataFrame, pool: Pool, chunks: pd.DataFrame, config: Config, run: RunFolder) -> list[str]:
    """Texts that accuracy and claim are not about."""
    notes = []
    unpaid = int((test["reason"] == NOT_ASKED).sum())
    failed = test.loc[test["label"].isna() & (test["reason"] != NOT_ASKED), "reason"]
    if unpaid:
        notes.append(
            f"{unpaid} of {len(test)} test texts have no label, as cost.budget_usd is spent: raise it and run again."
        )
    if len(failed):
        notes.append(
            f"{len(failed)} of {len(test)} test texts have no label, as the LLM gave none (mostly: "
            f"{failed.mode().iloc[0]}). Accuracy and claim are about the texts that it can label."
        )
    if added := added_since(config, run, chunks):
        notes.append(
            f"{added} of {len(chunks)} texts came after the test set was drawn: it is no random sample of all now. "
            "Accuracy and claim are about texts like the earlier ones; for all, use another path.output_dir."
        )
    copies = int(chunks["count"].sum()) - len(chunks)
    if copies >= MANY_COPIES * (copies + len(chunks)):
        notes.append(
            f"{copies} of {copies + len(chunks)} texts are copies of others. Accuracy and claim count each distinct "
            "text once; predictions.csv has a row for each copy."
        )
    if pool.scope == "chunks":
        notes.append(
            "Too few chunks to leave whole test documents out of training: the accuracy holds for new chunks of "
            "these documents, not for other documents."
        )
    return notes


def _how_it_stops(test: pd.DataFrame, config: Config) -> str:
    """What a look at the test set can show, and that the rule `accuracy` takes no account of it."""
    known_or_unpaid = int((test["label"].notna() | (test["reason"] == NOT_ASKED)).sum())
    can_show = what_can_be_shown(known_or_unpaid, config.system.required_accuracy)
    if config.system.stop_rule == "lower_bound":
        return can_show
    return (
        "The stop rule compares the accuracy itself with the target, which chance reaches too; "
        f"stop_rule: lower_bound waits until one may be 95 % sure. {can_show}"
    )


def _how_labelled(config: Config, store: LabelStore) -> list[str]:
    """What is to be known of the labels: whether texts were chosen, and which LLM labelled them."""
    notes = []
    if config.training.selection == "random" and not store.selection()["why"].eq("random").all():
        notes.append(
            "Some texts were not drawn at random but chosen, before training.selection was random: what is paid "
            "for stays. For a run at random only, use another path.output_dir."
        )
    local = {config.api_of(size).model for size in ("large", "small") if config.api_of(size).mode == "local"}
    if local:
        notes.append(
            f"Labels come from a local model ({', '.join(sorted(local))}). A small model is a weak labeller: check "
            "it against labels of your own (path.truth), or name a better LLM under api: (params/openai.yaml). "
            "Its favourite class names are corrected as if all classes were about equally frequent."
        )
    return notes


def _classes_without_figures(test: pd.DataFrame, chunks: pd.DataFrame, config: Config) -> list[str]:
    """Classes of which there are too few test texts, and what would do."""
    notes = []
    known = int(test["label"].notna().sum())
    texts = {name: int((test["label"] == name).sum()) for name in config.classification.classes}
    unused = [name for name in texts if texts[name] == 0]
    few = {name: n for name, n in texts.items() if 0 < n < FEW}
    if len(texts) - len(unused) == 1:
        notes.append(
            f"The LLM gave all {known} test texts one class. Read some of its answers in notebook 3, and sharpen the "
            "rules or the classes."
        )
    if unused:
        notes.append(
            f"No test text is of class {_some(unused)}: its figures mean nothing yet. More than "
            f"{_test_texts(texts_to_hold(FEW, seen=0, total=known), chunks)} would be needed to hold ten of it."
        )
    if few:
        counts = [f"{name} ({n})" for name, n in sorted(few.items(), key=lambda pair: pair[1])]
        notes.append(
            f"Fewer than ten of {known} test texts are of class {_some(counts)}: such figures mean nothing yet. About "
            f"{_test_texts(texts_to_hold(FEW, seen=min(few.values()), total=known), chunks)} would hold ten of each "
            "(training.test_set_size)."
        )
    return notes


def tell_baseline(row: Mapping[str, Any], *, config: Config) -> list[str]:
    """Why an iteration's figure that meets the target does not count: it is not above the baseline beyond chance."""
    rule, target = config.system.stop_rule, config.system.required_accuracy
    if row[rule] is None or row[rule] < target or target_reached(row, target=target, rule=rule):
        return []
    return [
        f"The target does not count as reached: the interval of the accuracy begins at {row['accuracy_low']:.3f}, not "
        f"above the baseline of {row['majority_baseline']:.3f}, always saying {row['majority_class']}."
    ]


def _test_texts(wanted: int, chunks: pd.DataFrame) -> str:
    """Example: 180 -> 180 test texts, and with 150 chunks -> 180 test texts (there are 150 in all)."""
    return f"{wanted} test texts" + (f" (there are {len(chunks)} in all)" if wanted > len(chunks) else "")


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are. Example: seven -> a, b, c, d, e and 2 more."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
