"""Figures: each function takes tables and returns its Axes, or its Figure where there are several Axes.

Classes stand in the config's order and keep one colour everywhere; colour never stands alone: names, hatches or
markers say the same when printed grey. No figure is computed here: shares are counted, but accuracies and intervals
come from evaluation. What a figure is made of, and how it is saved and shown, is in pictures.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from nbhelpers.panels import draw_curve, draw_matrix, draw_mixed_up, draw_shares, matrix_size
from nbhelpers.pictures import (
    FAILED,
    INK,
    LIMIT,
    MIDDLE,
    PALE,
    ROOMY,
    beside,
    class_bars,
    class_looks,
    clean,
    counts_axis,
    exact_percent,
    fill,
    listed,
    name_rows,
    new_picture,
    percents,
    rounded_percent,
    rows_height,
    separate_rows,
    shares_axis,
    style,
)
from nbhelpers.reliability import calibration_error

MOST_DOTS = 300  # of one class
MOST_IN_SUMMARY = 20  # classes


# ---------------------------------------------------------------------------------------------------- texts (01)


@style()
def file_fates(documents: pd.DataFrame) -> Axes:
    """How many files of each format were read, partly read or skipped.

    Args:
        documents: columns format and status; one row a file.
    """
    fates = {"read": (MIDDLE, ""), "partly read": (PALE, "///"), "skipped": ("white", "xxx")}
    formats = documents["format"].map(lambda name: f".{clean(name)}" if name else "(no suffix)")
    table = pd.crosstab(formats, documents["status"]).reindex(columns=list(fates), fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    k = len(table)
    fig, (ax,) = new_picture(8, rows_height(k) + 0.4)
    left, handles = np.zeros(k), []
    for fate, (colour, hatch) in fates.items():
        look: dict[str, Any] = {"facecolor": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.8}
        ax.barh(range(k), table[fate], left=left, height=0.62, **look)
        handles.append(Patch(label=fate, **look))
        left += table[fate].to_numpy()
    told = [", ".join(f"{n} {fate}" for fate, n in row.items() if n) for _, row in table.iterrows()]
    name_rows(ax, list(table.index))
    for y, (end, text) in enumerate(zip(left, told, strict=True)):
        beside(ax, end, y, text, k)
    counts_axis(ax, left, "files")
    counts = [f"{len(documents):,} files", *(f"{table[fate].sum():,} {fate}" for fate in fates)]
    ax.set_title(textwrap.fill(f"{counts[0]}: {', '.join(counts[1:])}", 46))
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    fig.alt = f"Bars of files by format. {'; '.join(counts)}. " + listed(zip(table.index, told, strict=True))
    return ax


@style()
def chunk_lengths(chunks: pd.DataFrame, *, max_chars: int, token_limit: int) -> Figure:
    """Lengths of the texts in characters and in tokens, with both limits and how many texts each one cuts.

    Args:
        chunks: columns text, truncated, tokens.
        max_chars: `system.chunk_size`.
        token_limit: the classifier's longest input, in tokens.
    """
    n = len(chunks)
    fig, axes = new_picture(10, 3.8, columns=2)
    told = []
    for ax, lengths, unit, limit, cut in (
        (axes[0], chunks["text"].str.len(), "characters", max_chars, chunks["truncated"].sum()),
        (axes[1], chunks["tokens"], "tokens", token_limit, (chunks["tokens"] > token_limit).sum()),
    ):
        top = max([1.0, *lengths])
        ax.hist(lengths, bins=40, range=(0, top), color=PALE, edgecolor=MIDDLE, linewidth=0.8)
        near = limit <= 1.6 * top  # a limit far from every text would squeeze the picture; the title still tells it
        if near:
            ax.axvline(limit, color=LIMIT, linestyle="--", linewidth=2)
        ax.set_xlim(0, max(top, limit if near else 0) * 1.03)
        ax.set_title(f"Limit {limit:,} {unit}{'' if near else ' (further right)'}:\n{cut:,.0f} of {n:,} texts cut")
        ax.set_xlabel(f"length of a text ({unit})")
        ax.set_ylabel("texts")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.grid(axis="y")
        middle = f"median {lengths.median():,.0f}, longest {lengths.max():,.0f}" if n else "no text"
        told.append(f"{unit}: {middle}, limit {limit:,}, {cut:,.0f} of {n:,} cut")
    fig.alt = "Histograms of the texts' lengths. " + "; ".join(told) + "."
    return fig


# ------------------------------------------------------------------------------------------------- labels (03 - 05)


@style()
def class_shares(labels: pd.Series[Any], classes: Sequence[str], *, title: str) -> Axes:
    """Texts by class, with the failed ones apart; every share is of all texts, so that they add up to 100 %.

    Args:
        labels: class names; missing = failed.
        classes: the config's classes, in order; one without a text is shown as 0.
        title: what was labelled, and by whom.
    """
    fig, (ax,) = new_picture(8, rows_height(len(classes) + 1) + 0.3)
    fig.alt = draw_shares(ax, labels, classes, title)
    return ax


@style()
def class_balance(tables: Mapping[str, pd.DataFrame], *, chosen: str) -> Figure:
    """Texts by class in the train set, and how much one text of each class counts under every choice of `balance`.

    Args:
        tables: for "none", "weights" and "auto" what training.describe_balance returns: class, texts, share, weight.
        chosen: the config's value, marked in the legend.
    """
    first = next(iter(tables.values()))
    classes, k = first["class"].tolist(), len(first)
    counts = [f"{n:,} ({rounded_percent(share)})" for n, share in zip(first["texts"], first["share"], strict=True)]
    fig, axes = new_picture(11, rows_height(k) + 0.7, columns=2, sharey=True)
    class_bars(axes[0], classes, first["texts"].tolist())
    for y, (n, text) in enumerate(zip(first["texts"], counts, strict=True)):
        beside(axes[0], n, y, text, k)
    name_rows(axes[0], classes)
    counts_axis(axes[0], first["texts"], "texts in the train set")
    axes[0].set_title("What there is")
    looks = {"none": ("o", "white", -0.24), "weights": ("s", INK, 0.0), "auto": ("^", PALE, 0.24)}
    extremes, heaviest = [], 1.0
    for choice, table in tables.items():
        marker, inside, shift = looks[choice]
        name, size = (f"{choice} (chosen)", 7) if choice == chosen else (choice, 6)
        dots: dict[str, Any] = {
            "ms": size,
            "mfc": inside,
            "mec": INK,
            "linestyle": "none",
            "clip_on": False,
            "zorder": 3,
        }
        axes[1].plot(table["weight"], np.arange(k) + shift, marker, label=name, **dots)
        known = sorted(table[["weight", "class"]].dropna().itertuples(index=False, name=None), key=lambda pair: pair[0])
        lightest_heaviest = dict.fromkeys([*known[:1], *known[-1:]])
        extremes += [f"{choice} weighs {clean(name)} {weight:.2f}" for weight, name in lightest_heaviest]
        heaviest = max([heaviest, *(weight for weight, _ in known)])
    axes[1].set_xlim(0, max(heaviest * 1.08, 1.2))
    axes[1].axvline(1, color=MIDDLE, linewidth=1, linestyle=":")
    separate_rows(axes[1], k)
    axes[1].tick_params(axis="y", length=0)
    axes[1].set_xlabel("weight of one text (1 = as it is)")
    axes[1].set_title("What each choice of balance does")
    fig.legend(loc="outside lower center", ncols=3)
    weights = ", ".join(extremes) or "none"
    fig.alt = f"Class balance. {listed(zip(classes, counts, strict=True))} Weights: {weights}."
    return fig


@style()
def confidence_by_class(predictions: pd.DataFrame, classes: Sequence[str]) -> Axes:
    """The probability of the predicted class, by class: box = middle half, line = median, dots = texts.

    Args:
        predictions: columns label (predicted class) and probability, 0 to 1.
        classes: the config's classes, in order.
    """
    k = len(classes)
    fig, (ax,) = new_picture(8, rows_height(k) + 0.4 + (0.2 * k if k < ROOMY else 0))
    usable = predictions[predictions["label"].isin(list(classes)) & predictions["probability"].notna()]
    random = np.random.default_rng(0)
    told = []
    for y, (name, (colour, hatch)) in enumerate(class_looks(classes).items()):
        values = usable.loc[usable["label"] == name, "probability"].to_numpy(dtype=float)
        beside(ax, 1.0, y, f"n = {len(values):,}", k)
        if not len(values):
            told.append("no text")
            continue
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))  # the box stands above its dots, so neither hides
        ax.barh(y - 0.2, high - low, left=low, height=0.28, **fill(colour, hatch))
        for colour_of_line, points in (("white", 6), (INK, 3)):  # ink alone would not show on a dark class
            ax.plot([middle, middle], [y - 0.38, y - 0.02], color=colour_of_line, linewidth=points, clip_on=False)
        few = values if len(values) <= MOST_DOTS else random.choice(values, MOST_DOTS, replace=False)
        heights = y + random.uniform(0.06, 0.4, len(few))
        ax.plot(few, heights, "o", color=colour, ms=3.2, mec=INK, mew=0.3, alpha=0.8, clip_on=False)
        told.append(f"median {rounded_percent(middle)} of {len(values):,}")
    name_rows(ax, classes)
    lowest = float(usable["probability"].min()) if len(usable) else 0.0
    ax.set_xlim(math.floor(max(lowest - 0.02, 0) * 10) / 10, 1.0)
    percents(ax.xaxis)
    ax.grid(axis="x")
    most = usable["label"].value_counts().max() if len(usable) else 0
    dots = "texts" if most <= MOST_DOTS else f"texts, at most {MOST_DOTS} of a class"
    ax.set_xlabel(f"probability of the predicted class\n(box: middle half; thick line: median; dots: {dots})")
    n = len(predictions)
    shown = f"{n:,}" if len(usable) == n else f"{len(usable):,} of {n:,}"
    ax.set_title(f"Confidence of {shown} predictions")
    fig.alt = "Probability of the predicted class. " + listed(zip(classes, told, strict=True))
    return ax


# --------------------------------------------------------------------------------------------- how good it is (04)


@style()
def confusion_matrix(
    confusion: pd.DataFrame, *, rows: str = "LLM's label", columns: str = "classifier's label"
) -> Axes:
    """How often each class was taken for each other one: counts in the cells, coloured by their share of the row.

    Args:
        confusion: counts, rows and columns in the config's order.
        rows, columns: whose labels stand down and across.
    """
    width, height = matrix_size(len(confusion))
    fig, (ax,) = new_picture(width, height)
    image, fig.alt = draw_matrix(ax, confusion, rows=rows, columns=columns)
    bar = fig.colorbar(image, ax=ax, aspect=30, pad=0.03, shrink=min(1.0, 4 / height))
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1])
    percents(bar.ax.yaxis)
    bar.set_label("share of the row")
    bar.outline.set_visible(False)
    return ax


@style()
def per_class(per_class: pd.DataFrame) -> Axes:
    """Precision, recall and F1 of each class.

    Args:
        per_class: columns class, precision, recall, f1, support; a figure that cannot be computed is NaN.
    """
    classes, k = per_class["class"].tolist(), len(per_class)
    fig, (ax,) = new_picture(8, rows_height(k) + 0.6)
    measures = per_class[["precision", "recall", "f1"]].to_numpy(dtype=float)
    for y, (row, (colour, _)) in enumerate(zip(measures, class_looks(classes).values(), strict=True)):
        if np.isfinite(row).any():
            low, high = np.nanmin(row), np.nanmax(row)
            ax.barh(y, high - low, left=low, height=0.16, **fill(colour, ""))
    dots: dict[str, Any] = {"linestyle": "none", "clip_on": False, "zorder": 3}
    undefined = []
    looks = (("precision", "s", "white", -0.24), ("recall", "o", PALE, 0.24), ("F1", "D", INK, 0.0))
    for (name, marker, inside, shift), column in zip(looks, measures.T, strict=True):
        ax.plot(column, np.arange(k) + shift, marker, ms=6.5, mfc=inside, mec=INK, label=name, **dots)
        undefined += (np.flatnonzero(np.isnan(column)) + shift).tolist()
    if undefined:
        ax.plot(np.zeros(len(undefined)), undefined, "x", color=FAILED, ms=6, label="undefined", **dots)
    for y, support in enumerate(per_class["support"]):
        beside(ax, 1.03, y, f"n = {support:,.0f}", k)
    name_rows(ax, classes)
    shares_axis(ax, k, "precision, recall, F1 (n = test texts of the class)")
    ax.set_title("Each class by itself")
    fig.legend(loc="outside lower center", ncols=4)
    told = [f"precision {exact_percent(p)}, recall {exact_percent(r)}, F1 {exact_percent(f)}" for p, r, f in measures]
    fig.alt = "Precision, recall and F1 by class. " + listed(zip(classes, told, strict=True))
    return ax


@style()
def learning_curve(iterations: Sequence[Mapping[str, Any]], *, target: float, majority_baseline: float) -> Axes:
    """Accuracy after each iteration with its exact 95 % interval, the target, and the majority class's share.

    Args:
        iterations: report.json's, at least one: iteration, train_size, accuracy, accuracy_low, accuracy_high; one with
            `copy_of` is no point of its own, the point that it copies is ringed.
        target: `system.required_accuracy`.
        majority_baseline: accuracy of always saying the test set's most frequent class.
    """
    alone = len({row["train_size"] for row in iterations}) == 1
    fig, (ax,) = new_picture(7 if alone else 9, 4.6)  # one point in a wide picture looks lost
    fig.alt = draw_curve(ax, iterations, target, majority_baseline)
    return ax


@style()
def reliability(table: pd.DataFrame, *, title: str, right: str) -> Axes:
    """How often labels are right that were given with so much confidence; on the diagonal it means what it says.

    Args:
        table: as reliability.reliability_table gives it; without a row, the picture says so.
        title: whose confidence, such as "The classifier's confidence".
        right: what counts as right, such as "has the large LLM's label".
    """
    if table.empty:
        return _nothing("no confidences to compare with")
    fig, (ax,) = new_picture(6.6, 5.4)
    confidence, share = table["confidence"].to_numpy(), table["right"].to_numpy()
    ax.plot([0, 1], [0, 1], color=MIDDLE, linestyle="--", linewidth=1.5)
    bars: dict[str, Any] = {"color": INK, "marker": "o", "ms": 8, "linewidth": 2, "capsize": 4, "clip_on": False}
    ends = np.maximum([share - table["low"], table["high"] - share], 0)
    ax.errorbar(confidence, share, ends, **bars)
    room = confidence.min() - 0.17 * (1 - confidence.min())  # for the number beside the first point
    left, bottom = (min(max(0, math.floor(lowest * 10) / 10), 0.8) for lowest in (room, table["low"].min()))
    ax.set(xlim=(left, 1), ylim=(bottom, 1))
    outline = [withStroke(linewidth=3, foreground=ax.get_facecolor())]  # where a line runs behind a number
    if np.diff(confidence).min(initial=1) > 0.12 * (1 - left):  # else the numbers would cover each other
        for x, y, texts in zip(confidence, share, table["texts"], strict=True):
            above = y < 0.93  # there the title begins
            at: dict[str, Any] = {"xytext": (-6, 6 if above else -14), "textcoords": "offset points", "ha": "right"}
            ax.annotate(f"n = {texts:,}", (x, y), fontsize=9, path_effects=outline, **at)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        percents(axis)
    ax.grid()
    ax.annotate("right as often\nas it says", (1, 1), (10, 0), textcoords="offset points", va="center", color=MIDDLE)
    n, bins = int(table["texts"].sum()), len(table)
    points = f"{bins} points" if bins > 1 else "one point"
    ax.set_xlabel(f"confidence (mean of a point; {n:,} texts in {points})")
    ax.set_ylabel(textwrap.fill(f"share that {clean(right)} (bars: 95 % interval)", 38))
    off = exact_percent(calibration_error(table))
    ax.set_title(f"{textwrap.fill(clean(title), 46)}\nis off by {off} on average")
    columns = table[["confidence", "right", "low", "high", "texts"]].itertuples(index=False, name=None)
    told = [
        f"at {exact_percent(said)} {exact_percent(share)} ({exact_percent(low)} to {exact_percent(high)}, n = {n:,})"
        for said, share, low, high, n in columns
    ]
    fig.alt = f"{clean(title)}, and the share that {clean(right)}: {'; '.join(told)}. Off by {off} on average."
    return ax


@style()
def agreement_and_truth(figures: Mapping[str, tuple[float, float, float, int]]) -> Axes:
    """Shares with their intervals one below the other, such as agreement with the LLM and accuracy against the truth.

    Args:
        figures: name -> (value, low, high, n); without any, the picture says so.
    """
    if not figures:
        return _nothing("no labels from a person to compare with (path.truth)")
    k = len(figures)
    fig, (ax,) = new_picture(8, rows_height(k) + 0.4)
    told = []
    for y, (value, low, high, n) in enumerate(figures.values()):
        ax.plot([low, high], [y, y], "|-", color=INK, linewidth=2.4, ms=13, mew=2, clip_on=False)
        ax.plot(value, y, "o", ms=10, mfc="white", mec=INK, mew=2, clip_on=False)
        told.append(f"{exact_percent(value)} ({exact_percent(low)} to {exact_percent(high)}), n = {n:,}")
        beside(ax, 1.03, y, told[-1].replace("), ", ")\n"), k)
    name_rows(ax, list(figures))
    shares_axis(ax, k, "share of texts with the same label (bars: 95 % interval)")
    ax.set_title("Agreement with the LLM is not accuracy")
    fig.alt = "Shares with 95 % intervals. " + listed(zip(figures, told, strict=True))
    return ax


@style()
def summary(report: Mapping[str, Any], predicted: pd.Series[Any]) -> Figure:
    """A whole run in one wide picture: learning curve, confusion matrix of the final classifier, predictions by class.

    With more than MOST_IN_SUMMARY classes, no letter of matrix and bars would be legible on a slide; in their place
    stand the classes mixed up most, and the other figures show each class.

    Args:
        report: report.json's content, with at least one iteration; the last one is the final classifier's.
        predicted: the predicted class of every input text; missing = none.
    """
    last = report["iterations"][-1]
    classes = [row["class"] for row in last["per_class"]]
    confusion = pd.DataFrame(last["confusion"], index=classes, columns=classes)
    if len(classes) > MOST_IN_SUMMARY:
        fig, axes = new_picture(16, 5.6, columns=2)
        curve = draw_curve(axes[0], report["iterations"], report["target"], report["final"]["majority_baseline"])
        fig.alt = f"{curve} {draw_mixed_up(axes[1], confusion)} {len(predicted):,} texts are predicted."
        return fig
    matrix_width, matrix_height = matrix_size(len(classes))
    widths = (7.0, matrix_width - 0.8, 5.5)  # the counts in the cells need no colour bar
    height = max(4.6, matrix_height, rows_height(len(classes) + 1) + 0.3)
    fig, axes = new_picture(sum(widths), height, columns=3, width_ratios=widths)
    cast(ConstrainedLayoutEngine, fig.get_layout_engine()).set(wspace=0.06)
    curve = draw_curve(axes[0], report["iterations"], report["target"], report["final"]["majority_baseline"])
    if height > 6:  # a curve as tall as twenty classes would look steeper than it is
        axes[0].set_box_aspect(1)
        axes[0].set_anchor("N")
    _, matrix = draw_matrix(axes[1], confusion)
    shares = draw_shares(axes[2], predicted, classes, f"Predictions for {len(predicted):,} texts")
    fig.alt = f"{curve} {matrix} {shares}"
    return fig


def _nothing(why: str) -> Axes:
    """A picture that says why there is none."""
    fig, (ax,) = new_picture(8, 0.8)
    ax.set(xticks=[], yticks=[])
    ax.set_axis_off()
    ax.text(0.5, 0.5, why, ha="center", va="center")
    fig.alt = f"Nothing to show: {why}."
    return ax
