"""What a report says in plain words: how a run ended, what its number means, and figures as people write them.

Pure. What is not known is called unknown, and is never written as 0. Nothing here is HTML.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from nbhelpers.money import dollars
from nbhelpers.pictures import exact_percent

UNKNOWN = "unknown"
TRUTH_ROW = "classifier against the truth"  # of truth.json
ENDS = {
    "target_reached": "The target was reached.",
    "converged": "More labels no longer helped, and the target was not reached.",
    "max_iters": "The last iteration that the config allows (max_iters) was done, and the target was not reached.",
    "no_more_chunks": "No text was left to label, and the target was not reached.",
    "budget": "The budget was spent, and the target was not reached.",
    "failed": "A step failed before the end.",
    "running": "The run has not ended yet.",
}
RULES = {
    "lower_bound": "the lower bound must reach it",
    "accuracy": "the accuracy itself must reach it, without a margin for chance",
}


def outcome(report: Mapping[str, Any]) -> str:
    """How the run ended, and by which rule that was decided."""
    end = ENDS.get(report["status"], f"The run ended with {report['status']}.")
    rule = RULES.get(report["stop_rule"], report["stop_rule"])
    return f"{end} Target: {percent(report['target'])} ({rule})."


def claimed(report: Mapping[str, Any]) -> str:
    """What the final classifier's look at the test set shows, in a sentence."""
    claim = report.get("claim")
    if claim is None:
        return "Nothing is claimed: no look was taken at the test set."
    least = percent(quotable(claim["lower_bound"]))
    then = " there were when the test set was drawn" if report["added_since_draw"] else ""
    failed = report["iterations"][-1]["failed_test_labels"]
    whose = "that the LLM can label get its label" if failed else "get the label that the LLM would give"
    return f"At least {least} of all distinct texts{then} {whose}, {_how_sure(claim)}."


def _how_sure(claim: Mapping[str, Any]) -> str:
    looks = "one look" if claim["looks"] == 1 else f"{claim['looks']} looks"
    return f"with {claim['confidence'] * 100:.0f} % confidence after {looks} at the test set"


def claims(report: Mapping[str, Any], truth: Mapping[str, Mapping[str, float]], labeller: str) -> list[dict[str, Any]]:
    """The figures that may be quoted: what, value, low, high, texts; low and high are None where there is no interval.

    Args:
        report: report.json's content.
        truth: truth.json's content, empty where `path.truth` is not given.
        labeller: who labelled the test set, such as "the large LLM".
    """
    last, claim, people = report["iterations"][-1], report.get("claim"), report.get("truth")
    n = last["test_size"]

    def row(
        what: str, value: float, low: float | None = None, high: float | None = None, texts: int = n
    ) -> dict[str, Any]:
        return {"what": what, "value": value, "low": low, "high": high, "texts": texts}

    rows = [row(f"Same label as {labeller}", last["accuracy"], last["accuracy_low"], last["accuracy_high"])]
    if claim is not None:
        rows.append(row(f"At least this, {_how_sure(claim)}", quotable(claim["lower_bound"])))
    rows.append(row(f"Baseline: always saying “{last['majority_class']}”", last["majority_baseline"]))
    if people is not None:
        what = f"Right by people's labels ({people['m']:,} of the texts checked by hand)"
        rows.append(row(what, people["accuracy"], people["low"], people["high"], people["n"]))
    for name, share in truth.items():
        what = f"{name[0].upper()}{name[1:]} (texts in path.truth)"
        rows.append(row(what, share["share"], share["low"], share["high"], int(share["texts"])))
    return rows


def quotable(bound: float) -> float:
    """A lower bound with three decimals; not rounded, as up it would be more than is sure. Example: 0.8996 -> 0.899."""
    return math.floor(bound * 1000) / 1000


def against_truth(report: Mapping[str, Any], truth: Mapping[str, Mapping[str, float]]) -> dict[str, float] | None:
    """The accuracy by people's labels, from test texts checked at random or from `path.truth`: value, low, high, texts.

    None where people gave no labels that support a claim.
    """
    people, given = report.get("truth"), truth.get(TRUTH_ROW)
    if people is not None:
        return {"value": people["accuracy"], "low": people["low"], "high": people["high"], "texts": people["n"]}
    if given is not None:
        return {"value": given["share"], **{key: given[key] for key in ("low", "high", "texts")}}
    return None


def meaning(report: Mapping[str, Any], truth: Mapping[str, Mapping[str, float]], labeller: str) -> list[str]:
    """What the number means and what it does not, a sentence or two each."""
    last = report["iterations"][-1]
    low, high = (round(100 * last[f"accuracy_{end}"]) for end in ("low", "high"))
    said = [
        f"Of every 100 new texts like these, expect the classifier to give about {round(100 * last['accuracy'])} the "
        f"label that {labeller} would give; in the long run, anything from {low} to {high} is in keeping with the "
        f"{last['test_size']:,} test texts. They were drawn at random and never trained on."
    ]
    known = against_truth(report, truth)
    if known is None:
        said.append(
            f"It does not say how many labels are true. Nobody has checked: where {labeller} is wrong, a classifier "
            "that agrees with it is wrong as well. Labels by people (path.truth, path.human_labels) would tell."
        )
    else:
        ends = f"{percent(known['low'])} to {percent(known['high'])}"
        said.append(
            f"Agreement with {labeller} is not accuracy. By labels of people, {percent(known['value'])} of "
            f"{count(known['texts'], 'text')} are right ({ends}): that is the figure for what is true."
        )
    gain = last["accuracy_low"] - last["majority_baseline"]
    beats = "The whole interval lies above" if gain > 0 else "The interval does not lie above"
    worth = "so it has learned something." if gain > 0 else "so it may be worth no more than that."
    said.append(f"{beats} the baseline, a “classifier” that always says “{last['majority_class']}”, {worth}")
    said.append("It holds for texts from the same sources. For other texts, or once their topics change, test anew.")
    return said


def what_more_brings(outlook: Mapping[str, Any] | None) -> str | None:
    """What another batch of labels is likely to bring and to cost; None where nothing can be said."""
    if outlook is None:
        return None
    gain, margin = (f"{100 * outlook[name]:{form}}" for name, form in (("gain", "+z.1f"), ("margin", ".1f")))
    price = "at an unknown price" if outlook["dollars"] is None else f"for {dollars(outlook['dollars'])}"
    return (
        f"Another {outlook['labels']:,} labels are likely to change the accuracy by {gain} points on average, give or "
        f"take {margin}, {price}. A single training may lie some points above or below."
    )


def sources(counts: Mapping[str, int]) -> str:
    """Who gave how many labels. Example: {"small": 20, "human": 1} -> 20 by the small LLM, 1 by people."""
    names = {"small": "the small LLM", "large": "the large LLM", "human": "people"}
    return ", ".join(f"{n:,} by {names.get(source, source)}" for source, n in counts.items())


def shortened(text: str, most: int) -> str:
    """The text's first `most` characters, up to a space where there is one near, and a sign that there are more."""
    if len(text) <= most:
        return text
    space = text.rfind(" ", max(most - 40, 0), most)
    return f"{text[: space if space > 0 else most].rstrip()} …"


def count(value: float | None, noun: str = "") -> str:
    """Example: 12345 -> 12,345; with a noun: 1 -> 1 file, 2 -> 2 files."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" + (f" {noun}{'' if value == 1 else 's'}" if noun else "")


def percent(value: float | None) -> str:
    """Example: 0.9 -> 90.0 %, which no line end tears apart; a figure without a denominator (None, NaN) is a dash."""
    return "–" if value is None else exact_percent(value).replace(" ", "\N{NO-BREAK SPACE}")


def duration(seconds: float | None) -> str:
    """Example: 0.42 -> 0.4 s, 95 -> 95 s, 600 -> 10 min, 9000 -> 2.5 h."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms" if seconds else "0 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def after(texts: float | None) -> str:
    """When something has paid for itself. Example: 1500 -> after 1,500 texts, infinity -> never."""
    if texts is None:
        return UNKNOWN
    return "never" if math.isinf(texts) else f"after {texts:,.0f} texts"


FILTERS: dict[str, Callable[..., str]] = {
    "count": count,
    "percent": percent,
    "dollars": dollars,
    "duration": duration,
    "after": after,
    "sources": sources,
    "python": json.dumps,
}
