"""When the loop has reached its target. Pure: it is given an iteration's figures."""

from collections.abc import Mapping
from typing import Any


def target_reached(row: Mapping[str, Any], *, target: float, rule: str) -> bool:
    """Whether an iteration's figures meet the target, and lie above the baseline beyond chance.

    Args:
        row: the iteration's entry in report.json.
        target: the required accuracy.
        rule: what must reach it, "accuracy" or "lower_bound".
    """
    return bool(row[rule] >= target and row["accuracy_low"] > row["majority_baseline"])
