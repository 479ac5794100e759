"""Dollars as people write them."""

import pytest

from nbhelpers.money import dollars


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        (None, "price unknown"),
        (0, "$0"),
        (0.000004, "$0.0000040"),
        (0.00123, "$0.0012"),
        (0.0999, "$0.100"),
        (0.312, "$0.31"),
        (1234.5, "$1,234.50"),
    ],
)
def test_small_amounts_are_never_0_and_unknown_ones_are_called_so(amount: float | None, written: str) -> None:
    assert dollars(amount) == written
