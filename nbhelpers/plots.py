"""Figures: each function takes tables and returns its Axes, or its Figure where there are several Axes.

Classes stand in the config's order and keep one colour everywhere; colour never stands alone: names, hatches or
markers say the same when printed grey. No figure is computed here: shares are counted, but accuracies and intervals
come from evaluation. What a figure is made of, and how it is saved and shown, is in pictures.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator

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
    fill,
    fit_names,
    listed,
    name_rows,
    new_picture,
    percents,
    rows_height,
    separate_rows,
    shares_axis,
    style,
)

MOST_DOTS = 300  # of one class


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
        ax.hist(lengths, bins=40, range=(0, top), color=MIDDLE, edgecolor="white", linewidth=0.4)
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
    fig.alt = _draw_shares(ax, labels, classes, title)
    return ax


@style()
def class_balance(tables: Mapping[str, pd.DataFrame], *, chosen: str) -> Figure:
    """Texts by class in the train set, and how much one text of each class counts under every choice of `balance`.

    Args:
        tables: for "none", "weights" and "auto" what classifier.describe_balance returns: class, texts, share, weight.
        chosen: the config's value, marked in the legend.
    """
    first = next(iter(tables.values()))
    classes, k = first["class"].tolist(), len(first)
    counts = [f"{n:,} ({_percent(share)})" for n, share in zip(first["texts"], first["share"], strict=True)]
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
    axes[1].set_xlabel("weight of one text in training (1 = as it is)")
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
        ax.barh(y - 0.2, high - low, left=low, height=0.28, facecolor="none", edgecolor=INK, linewidth=1)
        ax.plot([middle, middle], [y - 0.38, y - 0.02], color=INK, linewidth=3, clip_on=False)
        few = values if len(values) <= MOST_DOTS else random.choice(values, MOST_DOTS, replace=False)
        heights = y + random.uniform(0.06, 0.4, len(few))
        ax.plot(few, heights, "o", color=colour, ms=3.2, mec=INK, mew=0.3, alpha=0.8, clip_on=False)
        told.append(f"median {_percent(middle)} of {len(values):,}")
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
def confusion_matrix(confusion: pd.DataFrame) -> Axes:
    """How often each class was taken for each other one: counts in the cells, coloured by their share of the row.

    Args:
        confusion: counts; index = the large LLM's label, columns = the classifier's, both in the config's order.
    """
    width, height = _matrix_size(len(confusion))
    fig, (ax,) = new_picture(width, height)
    image, fig.alt = _draw_matrix(ax, confusion)
    bar = fig.colorbar(image, ax=ax, aspect=30, pad=0.03, shrink=min(1.0, 4 / height))
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
            ax.plot([np.nanmin(row), np.nanmax(row)], [y, y], color=colour, linewidth=5, solid_capstyle="butt")
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
    told = [f"precision {_exact(p)}, recall {_exact(r)}, F1 {_exact(f)}" for p, r, f in measures]
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
    fig.alt = _draw_curve(ax, iterations, target, majority_baseline)
    return ax


@style()
def agreement_and_truth(figures: Mapping[str, tuple[float, float, float, int]]) -> Axes:
    """Shares with their intervals one below the other, such as agreement with the LLM and accuracy against the truth.

    Args:
        figures: name -> (value, low, high, n); without any, the picture says so.
    """
    if not figures:
        fig, (ax,) = new_picture(8, 0.8)
        ax.set(xticks=[], yticks=[])
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no labels from a person to compare with (path.truth)", ha="center", va="center")
        fig.alt = "There are no labels from a person to compare with."
        return ax
    k = len(figures)
    fig, (ax,) = new_picture(8, rows_height(k) + 0.4)
    told = []
    for y, (value, low, high, n) in enumerate(figures.values()):
        ax.plot([low, high], [y, y], "|-", color=INK, linewidth=2.4, ms=13, mew=2, clip_on=False)
        ax.plot(value, y, "o", ms=10, mfc="white", mec=INK, mew=2, clip_on=False)
        told.append(f"{_exact(value)} ({_exact(low)} to {_exact(high)}), n = {n:,}")
        beside(ax, 1.03, y, told[-1].replace("), ", ")\n"), k)
    name_rows(ax, list(figures))
    shares_axis(ax, k, "share of texts with the same label (bars: 95 % interval)")
    ax.set_title("Agreement with the LLM is not accuracy")
    fig.alt = "Shares with 95 % intervals. " + listed(zip(figures, told, strict=True))
    return ax


@style()
def summary(report: Mapping[str, Any], predicted: pd.Series[Any]) -> Figure:
    """A whole run in one wide picture: learning curve, confusion matrix of the final classifier, predictions by class.

    Args:
        report: report.json's content, with at least one iteration; the last one is the final classifier's.
        predicted: the predicted class of every input text; missing = none.
    """
    last = report["iterations"][-1]
    classes = [row["class"] for row in last["per_class"]]
    confusion = pd.DataFrame(last["confusion"], index=classes, columns=classes)
    matrix_width, matrix_height = _matrix_size(len(classes))
    widths = (7.0, matrix_width - 0.8, 5.5)  # the counts in the cells need no colour bar
    height = max(4.6, matrix_height, rows_height(len(classes) + 1) + 0.3)
    fig, axes = new_picture(sum(widths), height, columns=3, width_ratios=widths)
    cast(ConstrainedLayoutEngine, fig.get_layout_engine()).set(wspace=0.06)
    curve = _draw_curve(axes[0], report["iterations"], report["target"], report["final"]["majority_baseline"])
    _, matrix = _draw_matrix(axes[1], confusion)
    shares = _draw_shares(axes[2], predicted, classes, f"Predictions for {len(predicted):,} texts")
    fig.alt = f"{curve} {matrix} {shares}"
    return fig


# --------------------------------------------------- panels that `summary` shares; each returns its alt text


def _draw_shares(ax: Axes, labels: pd.Series[Any], classes: Sequence[str], title: str) -> str:
    n, found = len(labels), Counter(labels.dropna())
    counts = {name: found.pop(name, 0) for name in classes}
    others = {"failed": int(labels.isna().sum()), "not a class": found.total()}
    rows = [*counts.items(), *((name, count) for name, count in others.items() if count)]
    told = [f"{count:,} ({_percent(count / n if n else math.nan)})" for _, count in rows]
    class_bars(ax, classes, list(counts.values()))
    for y, (_, count) in enumerate(rows):
        beside(ax, count, y, told[y], len(rows))
        if y >= len(classes):
            ax.barh(y, count, height=0.62, color="white", edgecolor=FAILED, hatch="xxx", linewidth=1)
    name_rows(ax, [name for name, _ in rows])
    counts_axis(ax, [count for _, count in rows], f"texts (share of all {n:,})")
    ax.set_title(textwrap.fill(clean(title), 46))
    return f"{clean(title)}: {n:,} texts by class. {listed(zip([name for name, _ in rows], told, strict=True))}"


def _draw_matrix(ax: Axes, confusion: pd.DataFrame) -> tuple[AxesImage, str]:
    classes, k = confusion.index.tolist(), len(confusion)
    counts = confusion.to_numpy(dtype=float)
    totals = counts.sum(axis=1)
    shares = np.divide(counts, totals[:, None], out=np.full_like(counts, np.nan), where=totals[:, None] > 0)
    colours = mpl.colormaps["Blues"].with_extremes(bad="#f1f1f1")
    image = ax.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="auto")
    cell = _cell(k)
    wide, points = cell >= 0.75, 10 if cell >= 0.38 else 8
    digits = len(f"{counts.max():,.0f}")
    size = min(points + (3 if cell > 0.5 else 1), cell * 72 * 0.8 / (0.62 * digits))
    for (row, column), count in np.ndenumerate(counts):
        if count or (k <= 20 and totals[row]):  # many zeros would hide the rest
            tone = "white" if shares[row, column] > 0.5 else (INK if count else FAILED)
            ax.text(column, row, f"{count:,.0f}", ha="center", va="center", color=tone, fontsize=size, in_layout=False)
    below = fit_names(classes, *((int(cell * 11), 3) if wide else (34, 1)))
    ax.set_xticks(range(k), below, rotation=0 if wide else 90, fontsize=points)
    ax.set_yticks(range(k), fit_names(classes, *((24, 2) if wide else (34, 1))), fontsize=points)
    for y, total in enumerate(totals):
        place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": points}
        ax.annotate(f"n = {total:,.0f}", (k - 0.5, y), (5, 0), **place)
    ax.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5 if wide else 0.8)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("classifier's label")
    ax.set_ylabel("large LLM's label")
    ax.set_title(f"Same label: {counts.trace():,.0f} of {totals.sum():,.0f} texts")
    told = [f"{same:,.0f} of {total:,.0f}" for same, total in zip(counts.diagonal(), totals, strict=True)]
    same_label = listed(zip(classes, told, strict=True))
    return image, f"Confusion matrix, large LLM's label by classifier's label. Same label: {same_label}"


def _cell(classes: int) -> float:
    return max(0.27, min(1.05, 8.4 / classes))


def _matrix_size(classes: int) -> tuple[float, float]:
    side = _cell(classes) * classes
    return side + 4.2, side + (1.5 if _cell(classes) >= 0.75 else 3.1)


def _draw_curve(ax: Axes, iterations: Sequence[Mapping[str, Any]], target: float, baseline: float) -> str:
    table = pd.DataFrame(iterations)
    own = table[table["copy_of"].isna()] if "copy_of" in table else table
    sizes, values, low, high = (
        own[key].to_numpy(dtype=float) for key in ("train_size", "accuracy", "accuracy_low", "accuracy_high")
    )
    ax.axhline(target, color=LIMIT, linestyle="--", linewidth=1.8)
    ax.axhline(baseline, color=MIDDLE, linestyle="-.", linewidth=1.5)
    look: dict[str, Any] = {"color": INK, "marker": "o", "ms": 8, "linewidth": 2, "capsize": 5, "capthick": 1.6}
    ax.errorbar(sizes, values, np.maximum([values - low, high - values], 0), **look)
    span, free = max(float(np.ptp(sizes)), 1.0), math.inf
    box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    place: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 10, "bbox": box}
    for x, value, bottom, top in reversed(list(zip(sizes, values, low, high, strict=True))):
        if free - x > 0.13 * span:  # close ones would cover each other; the last one stays
            free = x
            words = _exact(value) if len(sizes) > 1 else f"{_exact(value)} ({_exact(bottom)} to {_exact(top)})"
            ax.annotate(words, (x, top), (0, 5), **place)
    lines = [f"{'Accuracy' if len(sizes) > 1 else 'One iteration: accuracy'}, with its 95 % interval"]
    for copy in (row for row in iterations if row.get("copy_of") is not None):
        ax.plot(copy["train_size"], copy["accuracy"], "o", ms=17, mfc="none", mec=LIMIT, mew=2)
        lines.append(f"ringed: iteration {copy['copy_of']}, kept as classifier {copy['iteration']}")
    ax.set_title("\n".join(lines))
    bottom = math.floor(max(min(*low, baseline, target) - 0.06, 0.0) * 10) / 10
    ticks = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(bottom, 1.0)
    ax.set_yticks([tick for tick in ticks if bottom <= tick <= 1.0 + 1e-9])
    room = 0.09 * (1 - bottom) if max(*high, baseline, target) > 0.93 else 0.0  # for the last point's value
    ax.set_ylim(bottom, 1.0 + room)
    percents(ax.yaxis)
    known = np.unique(sizes)
    pad = 0.12 * span if len(known) > 1 else 0.5 * max(known[0], 1.0)
    ax.set_xlim(max(known[0] - pad, 0), known[-1] + pad)
    apart = len(known) <= 6 and (np.diff(known) > 0.09 * span).all()
    ax.xaxis.set_major_locator(FixedLocator(known.tolist()) if apart else MaxNLocator(integer=True, nbins=6))
    ax.grid(axis="y")
    ax.set_xlabel("train set (texts labelled by the small LLM)")
    ax.set_ylabel("accuracy against the\nlarge LLM's labels")
    give = max(0.09 * (1.0 + room - bottom) - abs(target - baseline), 0) / 2  # where the two names would touch
    give = give if target >= baseline else -give
    beyond: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center", "weight": "bold", "size": 10}
    ax.text(1.015, target + give, f"target {_exact(target)}", color=LIMIT, **beyond)
    always = f"always the most\nfrequent class {_exact(baseline)}"
    ax.text(1.015, baseline - give, always, color=MIDDLE, **beyond)
    told = [
        f"{row['train_size']:,} labels: {_exact(row['accuracy'])} "
        f"({_exact(row['accuracy_low'])} to {_exact(row['accuracy_high'])})"
        for row in iterations
    ]
    levels = f"Target {_exact(target)}, always the most frequent class {_exact(baseline)}."
    return f"Learning curve: accuracy against the large LLM's labels. {'; '.join(told)}. {levels}"


def _percent(share: float) -> str:
    if math.isnan(share):
        return "–"
    return "< 1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"


def _exact(share: float) -> str:
    return "–" if math.isnan(share) else f"{share * 100:.1f} %"
