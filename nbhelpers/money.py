"""Dollars as people write them. Pure; a small amount is never written as 0, and an unknown one never as a number."""

import math


def dollars(amount: float | None) -> str:
    """Dollars and cents; less than ten cents with two figures.

    Args:
        amount: at least 0; None where a price is not known.
    Example: 0 -> $0, 0.00123 -> $0.0012, 1234.5 -> $1,234.50, None -> price unknown.
    """
    if amount is None:
        return "price unknown"
    if amount == 0:
        return "$0"
    return f"${amount:,.2f}" if amount >= 0.1 else f"${amount:.{1 - math.floor(math.log10(amount))}f}"
