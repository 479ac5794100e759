"""Progress: plain text where nobody sits, and what a bar says."""

import sys
import types
from typing import Any

import pytest

from nbhelpers.progress import counter, interactive, progress_bar, progress_told


def kernel_that_says(**content: Any) -> types.ModuleType:
    """IPython as a kernel's process has it, in the middle of a cell that came with this content."""
    module = types.ModuleType("IPython")
    kernel = types.SimpleNamespace(get_parent=lambda channel: {"content": content} if channel == "shell" else {})
    module.get_ipython = lambda: types.SimpleNamespace(kernel=kernel)  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("content", "person"), [({"allow_stdin": True}, True), ({"allow_stdin": False}, False), ({}, False)]
)
def test_a_person_is_where_a_question_could_be_answered(
    content: dict[str, bool], person: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", kernel_that_says(**content))
    assert interactive() is person


def test_a_script_and_a_terminal_ipython_are_not_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert interactive() is False
    module = types.ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", module)
    for shell in (None, types.SimpleNamespace()):
        module.get_ipython = lambda shell=shell: shell  # type: ignore[attr-defined]
        assert interactive() is False


def test_a_headless_bar_is_a_printed_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(40, desc="labelling", unit="text") as bar:
        start = bar.start_t
        shown = []
        for seconds, more in ((2, 1), (25, 9), (26, 1), (50, 29)):
            bar._time = lambda at=start + seconds: at
            bar.update(more)
            shown.append(capsys.readouterr().out)
    # 10 texts in 25 s are 2.5 s a text, and 30 more take 75 s; between the lines nothing is printed.
    assert shown[:3] == ["", "labelling: 10 of 40 (00:25, 01:15 left,  2.50s/text)\n", ""]
    assert shown[3].startswith("labelling: 40 of 40 (00:50, 00:00 left,")
    assert shown[3].count("\n") == 1


def test_a_short_loop_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(3, desc="labelling", unit="text") as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")


def test_counter_moves_a_bar_to_a_total_that_was_unknown() -> None:
    with progress_bar(None, desc="training", unit="step") as bar:
        move = counter(bar)
        for done in (1, 5, 5, 8):
            move(done, 8)
            assert (bar.n, bar.total) == (done, 8)


def test_a_bar_that_is_told_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[str, int, int | None]] = []
    with progress_told(lambda *what: told.append(what)), progress_bar(3, desc="labelling", unit="text") as bar:
        bar.update(3)
    assert told[0] == ("labelling", 0, 3)
    assert told[-1] == ("labelling", 3, 3)
    assert capsys.readouterr() == ("", "")
    with progress_bar(1, desc="after", unit="text") as bar:
        bar.update(1)
    assert len(told) == len([what for what in told if what[0] == "labelling"])
