"""Leave the unsure ones undecided: how many texts are decided at a confidence, and how many of these are right.

Pure, but for the figure. Source: risk and coverage of a classifier that may abstain, El-Yaniv and Wiener 2010.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nbhelpers.evaluation import accuracy_interval
from nbhelpers.pictures import INK, LIMIT, MIDDLE, new_picture, percents, rounded_percent, style

STEP = 0.01


def coverage_table(tested: pd.DataFrame) -> pd.DataFrame:
    """What each confidence below which a text is left undecided does to the test texts.

    Args:
        tested: probability (of the predicted class) and right, a row a test text with a label.
    Returns:
        A row for each threshold 0.00, 0.01, ... 0.99: threshold, n (texts decided), coverage (their share), accuracy
        (missing where none is decided), low and high (its exact 95 % interval). Example: probabilities 0.9 and 0.5, of
        which the first is right, at 0.6: 1 text, coverage 0.5, accuracy 1.0.
    """
    probability, right = tested["probability"].to_numpy(float), tested["right"].to_numpy(bool)
    rows = []
    for threshold in np.arange(0, 1, STEP).round(2):
        decided = probability >= threshold
        n, correct = int(decided.sum()), int(right[decided].sum())
        low, high = accuracy_interval(correct, n) if n else (np.nan, np.nan)
        rows.append((threshold, n, n / max(len(tested), 1), correct / n if n else np.nan, low, high))
    return pd.DataFrame(rows, columns=["threshold", "n", "coverage", "accuracy", "low", "high"])


def at_threshold(table: pd.DataFrame, threshold: float) -> str:
    """One row of the table in a sentence."""
    row = table.iloc[round(threshold / STEP)]
    total = round(table["n"].iloc[0])
    if row["n"] == 0:
        return f"Below {threshold:.0%} all {total:,} test texts are left undecided."
    return (
        f"Left undecided below {threshold:.0%}: {row['coverage']:.0%} of the test texts are decided "
        f"({row['n']:,.0f} of {total:,}), and of these {row['accuracy']:.1%} have the LLM's label "
        f"(95 % interval {row['low']:.1%} to {row['high']:.1%})."
    )


@style()
def coverage_figure(table: pd.DataFrame, *, threshold: float | None = None) -> Figure:
    """Coverage and accuracy at every threshold.

    Args:
        table: from `coverage_table`.
        threshold: marked, where it is given.
    """
    fig, (ax,) = new_picture(9, 4.2)
    x, known = table["threshold"], table["accuracy"].notna()
    ax.fill_between(x[known], table["low"][known], table["high"][known], color=MIDDLE, alpha=0.18, linewidth=0)
    ax.plot(x[known], table["accuracy"][known], color=INK, linewidth=2.4, label="accuracy of those decided (95 %)")
    ax.plot(x, table["coverage"], color="#0072B2", linewidth=2.4, linestyle="--", label="share of texts decided")
    if threshold is not None:
        ax.axvline(threshold, color=LIMIT, linewidth=1.6)
        ax.annotate(rounded_percent(threshold), (threshold, 0.02), (5, 0), textcoords="offset points", color=LIMIT)
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="confidence below which a text is left undecided")
    percents(ax.xaxis)
    percents(ax.yaxis)
    ax.grid()
    ax.set_title("Coverage and accuracy at each confidence")
    fig.legend(loc="outside lower center", ncols=2)
    steps = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
    fig.alt = "Coverage and accuracy. " + " ".join(at_threshold(table, step) for step in steps)
    return fig
