"""A classifier is looked at once, however often it is met."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nbhelpers.errors import RunFolderError
from nbhelpers.looks import is_worth_a_look, looks_taken, take_look
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


def test_a_look_is_judged_by_its_own_number_and_the_configs_target(make_config, run: RunFolder) -> None:
    row = {"validation_correct": 40, "validation_size": 40, "test_size": 36}
    iteration: Any = SimpleNamespace(row=row, fingerprint="a")

    def worth(target: float) -> bool:
        system = {"stop_rule": "lower_bound", "required_accuracy": target}
        return is_worth_a_look(iteration, config=make_config(system=system), run=run)

    assert (worth(0.9), worth(0.95)) == (True, False)  # 0.9 ** 36 <= 0.025 < 0.95 ** 36
    take_look(run, "b")
    assert (worth(0.9), worth(0.8)) == (False, True)  # a second look cannot show 0.9 any more
    take_look(run, "a")
    assert worth(0.9)  # costs nothing more
