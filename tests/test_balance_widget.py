"""Choosing a balance and a selection: what is shown, what the next iteration does, what is written to the config."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runs_made import WORDS, WordFits

from nbhelpers.balance_widget import balance_widget, class_overview
from nbhelpers.rounds import Rounds

Open = Callable[..., Rounds]


@pytest.fixture
def rounds(open_rounds: Open, fits: WordFits) -> Rounds:
    """One iteration done, whose classifier calls sports something else."""
    fits.blind = [{"goal"}, set(WORDS), set(WORDS)]
    opened = open_rounds(selection="auto")
    opened.begin()
    return opened


def parts(widget):
    """Both rows of buttons, the table, the save button and what is said."""
    _, balance, _, selection, _, table, last = widget.children
    return balance, selection, table, *last.children


def test_each_class_has_its_texts_its_share_of_the_pool_and_its_recall(rounds: Rounds) -> None:
    shown = class_overview(rounds)
    counts = rounds.class_counts()
    support = {row["class"]: row["support"] for row in rounds.final.row["per_class"]}
    lines = shown.plain.splitlines()
    assert lines[0].split()[-4:] == ["recall,", "iteration", "1", "(auto)"]
    for line, (name, n) in zip(lines[1:4], counts.items(), strict=True):
        assert line.split()[:2] == [name, str(n)]
        assert line.endswith(f"{'0' if name == 'sports' else '100'} % of {support[name]}")
    assert "Last batch: 11 typical of many texts, 5 near a class's description, 4 random." in shown.plain
    shares = rounds.pool_shares()
    assert 4 <= shares["n"].sum() < 20
    assert f"({shares['low'][0]:.0%}".replace("%", " %") in lines[1]


def test_a_last_batch_that_is_shorter_counts_its_own_texts(open_rounds: Open, fits: WordFits) -> None:
    fits.blind = [set(WORDS)] * 3
    opened = open_rounds(selection="random", train_set_increment=80, max_iters=3)
    opened.run_until_done()
    assert [len(made.labels) for made in opened.done[:3]] == [20, 100, 110]
    assert "Last batch: 10 random." in class_overview(opened).plain


def test_while_another_run_holds_the_folder_the_choice_is_not_kept(rounds: Rounds) -> None:
    balance, *_, said = parts(balance_widget(rounds, None))
    report = rounds.run.report.read_bytes()
    code = (
        "import sys, pathlib; from nbhelpers.lock import one_run\n"
        "with one_run(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, rounds.run.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        balance.value = "weights"
        assert "Another run works on" in said.value
        assert "Your choice holds in this notebook alone" in said.value
        assert rounds.run.report.read_bytes() == report
        other.communicate(b"\n")
    assert rounds.balance == "weights"


def test_the_next_iteration_uses_what_is_chosen(rounds: Rounds, fits: WordFits) -> None:
    balance, selection, table, _, said = parts(balance_widget(rounds, None))
    assert list(balance.options) == ["auto", "none", "weights"]
    assert "As the config says" in said.value
    balance.value, selection.value = "weights", "random"
    assert "balance: weights and selection: random, unlike the config" in said.value
    rounds.step()
    assert fits.made[-1]["settings"].balance == "weights"
    assert (rounds.final.row["balance"], rounds.final.row["selection"]) == ("weights", "random")
    assert "recall, iteration 2 (weights)" in table.value  # and what it did is shown at once
    assert "10 random" in table.value


def test_saving_writes_both_into_the_config_and_nothing_else(rounds: Rounds, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("api:\n  small_api_key: ${KEY}\ntraining:\n  balance: auto  # as ever\n", "utf-8")
    balance, _, _, save, said = parts(balance_widget(rounds, file))
    balance.value = "none"
    save.click()
    assert file.read_text("utf-8") == (
        "api:\n  small_api_key: ${KEY}\ntraining:\n  selection: auto\n  balance: none  # as ever\n"
    )
    assert "Saved." in said.value
    file.write_text("training: [1]\n", "utf-8")
    save.click()
    assert "could not be changed" in said.value


def test_without_a_config_file_nothing_can_be_saved(rounds: Rounds) -> None:
    *_, save, _ = parts(balance_widget(rounds, None))
    assert save.disabled


def test_shown_again_the_old_one_is_told_no_more(rounds: Rounds) -> None:
    (*_,) = parts(balance_widget(rounds, None))
    before = len(rounds.watchers)
    balance_widget(rounds, None)
    assert len(rounds.watchers) == before
