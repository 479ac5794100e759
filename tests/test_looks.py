"""A classifier is looked at once, however often it is met."""

from pathlib import Path

import pytest

from nbhelpers.errors import RunFolderError
from nbhelpers.looks import looks_taken, take_look
from nbhelpers.run_folder import RunFolder


def test_each_classifier_keeps_the_number_of_its_first_look(tmp_path: Path) -> None:
    assert looks_taken(RunFolder(tmp_path)) == []
    assert [take_look(RunFolder(tmp_path), name) for name in ("a", "b", "a", "c", "b")] == [1, 2, 1, 3, 2]
    assert looks_taken(RunFolder(tmp_path)) == ["a", "b", "c"]


def test_a_damaged_list_of_looks_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    take_look(run, "a")
    run.looks.write_text("{", "utf-8")
    with pytest.raises(RunFolderError, match=r"looks\.json cannot be read, .* another system\.seed, "):
        take_look(run, "b")
