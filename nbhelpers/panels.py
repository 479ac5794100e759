"""The panels that stand alone in one figure and side by side in another: shares by class, matrix, learning curve.

Each draws on the Axes that it is given and returns the alt text. The figures are in plots.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, MaxNLocator

from nbhelpers.pictures import (
    FAILED,
    INK,
    LIMIT,
    MIDDLE,
    beside,
    class_bars,
    clean,
    counts_axis,
    exact_percent,
    fit_names,
    listed,
    name_rows,
    percents,
    rounded_percent,
)

MOST_PAIRS = 10  # of classes that were mixed up


def draw_shares(ax: Axes, labels: pd.Series[Any], classes: Sequence[str], title: str) -> str:
    n, found = len(labels), Counter(labels.dropna())
    counts = {name: found.pop(name, 0) for name in classes}
    others = {"failed": int(labels.isna().sum()), "not a class": found.total()}
    rows = [*counts.items(), *((name, count) for name, count in others.items() if count)]
    told = [f"{count:,} ({rounded_percent(count / n if n else math.nan)})" for _, count in rows]
    class_bars(ax, classes, list(counts.values()))
    for y, (_, count) in enumerate(rows):
        beside(ax, count, y, told[y], len(rows))
        if y >= len(classes):
            ax.barh(y, count, height=0.62, color="white", edgecolor=FAILED, hatch="xxx", linewidth=1)
    name_rows(ax, [name for name, _ in rows])
    counts_axis(ax, [count for _, count in rows], f"texts (share of all {n:,})")
    ax.set_title(textwrap.fill(clean(title), 46))
    return f"{clean(title)}: {n:,} texts by class. {listed(zip([name for name, _ in rows], told, strict=True))}"


def draw_matrix(
    ax: Axes, confusion: pd.DataFrame, *, rows: str = "LLM's label", columns: str = "classifier's label"
) -> tuple[AxesImage, str]:
    classes, k = confusion.index.tolist(), len(confusion)
    counts = confusion.to_numpy(dtype=float)
    totals = counts.sum(axis=1)
    shares = np.divide(counts, totals[:, None], out=np.full_like(counts, np.nan), where=totals[:, None] > 0)
    colours = mpl.colormaps["Blues"].with_extremes(bad="#f1f1f1")
    tones = PowerNorm(0.5, vmin=0, vmax=1)  # an error in 30 texts is to be seen beside a full diagonal
    image = ax.imshow(shares, cmap=colours, norm=tones, aspect="auto")
    cell = _cell(k)
    wide, points = cell >= 0.75, 10 if cell >= 0.38 else 8
    digits = len(f"{counts.max():,.0f}")
    size = min(points + (3 if cell > 0.5 else 1), cell * 72 * 0.8 / (0.62 * digits))
    for (row, column), count in np.ndenumerate(counts):
        if count or (k <= 20 and totals[row]):  # many zeros would hide the rest
            tone = "white" if tones(shares[row, column]) > 0.55 else (INK if count else FAILED)
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
    ax.set_xlabel(columns)
    ax.set_ylabel(rows)
    ax.set_title(f"Same label: {counts.trace():,.0f} of {totals.sum():,.0f} texts")
    told = [f"{same:,.0f} of {total:,.0f}" for same, total in zip(counts.diagonal(), totals, strict=True)]
    same_label = listed(zip(classes, told, strict=True))
    return image, f"Confusion matrix, {rows} by {columns}. Same label: {same_label}"


def draw_mixed_up(ax: Axes, confusion: pd.DataFrame) -> str:
    """The pairs of classes that were mixed up most, with how many texts of the first were taken for the second."""
    counts = confusion.to_numpy()
    classes, totals = confusion.index.tolist(), counts.sum(axis=1)
    off = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(place), len(counts)) for place in order if off.flat[place] > 0]
    names = [f"{classes[row]} taken for {classes[column]}" for row, column in pairs]
    short = fit_names(classes, 34, 1)
    told = [f"{off[pair]:,.0f} of {totals[pair[0]]:,.0f}" for pair in pairs]
    for y, (pair, text) in enumerate(zip(pairs, told, strict=True)):
        ax.barh(y, off[pair], height=0.62, color=MIDDLE)
        beside(ax, off[pair], y, text, len(pairs))
    name_rows(ax, names)
    ax.set_yticks(range(len(pairs)), [f"{short[row]}\n→ {short[column]}" for row, column in pairs])
    counts_axis(
        ax,
        [off[pair] for pair in pairs],
        "texts (LLM's label → classifier's label)",
    )
    if not pairs:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "No two classes were mixed up", ha="center", color=MIDDLE, transform=ax.transAxes)
    same = f"Same label: {counts.trace():,.0f} of {counts.sum():,.0f} texts, {len(classes)} classes"
    ax.set_title(f"{same}\nMixed up most" if pairs else same)
    return f"{same}. Mixed up most: {listed(zip(names, told, strict=True)) if pairs else 'none.'}"


def _cell(classes: int) -> float:
    return max(0.27, min(1.05, 8.4 / classes))


def matrix_size(classes: int) -> tuple[float, float]:
    side = _cell(classes) * classes
    return side + 4.2, side + (1.5 if _cell(classes) >= 0.75 else 3.1)


def draw_curve(ax: Axes, iterations: Sequence[Mapping[str, Any]], target: float, baseline: float) -> str:
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
            ends = "" if len(sizes) > 1 else f" ({exact_percent(bottom)} to {exact_percent(top)})"
            words = f"{exact_percent(value)}{ends}"
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
    ax.set_xlabel("train set (labelled texts)")
    ax.set_ylabel("accuracy against the\nLLM's labels")
    give = max(0.09 * (1.0 + room - bottom) - abs(target - baseline), 0) / 2  # where the two names would touch
    give = give if target >= baseline else -give
    beyond: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center", "weight": "bold", "size": 10}
    ax.text(1.015, target + give, f"target {exact_percent(target)}", color=LIMIT, **beyond)
    always = f"always the most\nfrequent class {exact_percent(baseline)}"
    ax.text(1.015, baseline - give, always, color=MIDDLE, **beyond)
    told = [
        f"{row['train_size']:,} labels: {exact_percent(row['accuracy'])} "
        f"({exact_percent(row['accuracy_low'])} to {exact_percent(row['accuracy_high'])})"
        for row in iterations
    ]
    levels = f"Target {exact_percent(target)}, always the most frequent class {exact_percent(baseline)}."
    return f"Learning curve: accuracy against the LLM's labels. {'; '.join(told)}. {levels}"
