"""An edit of the rules: its diff, what it makes stale, a try on texts that are no test texts, and keeping it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from chat_server import ChatServer
from runs_made import WORDS, WordFits, prepare, texts_of, write_rows

from nbhelpers.config import Config
from nbhelpers.errors import ConfigError
from nbhelpers.ingest import ingest
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks, read_test_labels
from nbhelpers.rounds import Rounds
from nbhelpers.rules import edit_rules, make_rules, read_rules
from nbhelpers.rules_edit import RulesEdit
from nbhelpers.rules_widget import rules_widget
from nbhelpers.run_folder import RunFolder
from nbhelpers.stages import STAGES, begin, finish
from nbhelpers.test_set import open_test_set

MakeConfig = Callable[..., Config]
OLD = "1. Go by the keywords."
NEW = "1. Go by the first word.\n2. Else sports."


@pytest.fixture
def config(make_config: MakeConfig, server: ChatServer) -> Config:
    price = {f"cost_per_million_{size}_{way}": 1000.0 for size in ("small", "large") for way in ("input", "output")}
    made = make_config(
        server.url, cost=price, training={"test_set_size": 40, "train_set_size": 20, "train_set_increment": 10}
    )
    write_rows(made.path.input_dir, texts_of(dict.fromkeys(WORDS, 50)))
    return made


@pytest.fixture
def edit(config: Config, run: RunFolder, store: LabelStore) -> RulesEdit:
    """After 01 to 03, with 100 labels asked for."""
    prepare(config, run, store)
    return RulesEdit(config, run, store)


def test_the_diff_says_which_lines_go_and_come(edit: RulesEdit) -> None:
    assert edit.kept == OLD
    assert edit.diff(f"{OLD}\n") == []
    assert edit.diff(NEW)[1:] == [f"-{OLD}", "+1. Go by the first word.", "+2. Else sports."]


def test_steps_that_are_up_to_date_and_read_the_rules_become_stale(edit: RulesEdit) -> None:
    assert edit.stale() == []
    for stage in (STAGES[0], STAGES[2]):
        finish(stage, edit.run, begin(stage, edit.config, edit.run))
    assert edit.stale() == ["03_test_labels"]  # 01 reads no rules
    edit.keep(NEW)
    assert edit.stale() == []


def test_an_edit_tells_how_many_labels_become_stale_and_a_persons_never_do(edit: RulesEdit, fits: WordFits) -> None:
    assert edit.stale_labels() == {}
    stamps = [begin(stage, edit.config, edit.run) for stage in STAGES[2:4]]
    rounds = Rounds(edit.config, edit.run, edit.store)
    first = rounds.step().labels["chunk_id"].iloc[0]
    edit.store.set_human_label(first, "weather", note="review")
    rounds.step()
    finish(STAGES[2], edit.run, stamps[0])
    assert edit.stale_labels() == {"test labels": 40}
    finish(STAGES[3], edit.run, begin(STAGES[3], edit.config, edit.run))
    assert edit.stale_labels() == {"test labels": 40, "labels to train on": 29}
    area, *_, said, _ = parts(rules_widget(edit.config, edit.run, edit.store))
    area.value = NEW
    assert (
        "To be done anew with these rules: 03_test_labels, 04_train; "
        "40 test labels and 29 labels to train on are then stale."
    ) in said.value


def test_a_try_asks_both_llms_once_and_leaves_the_rules_as_they_are(edit: RulesEdit, server: ChatServer) -> None:
    server.reset()
    calls, price = edit.cost(NEW)
    assert calls == 10
    assert price == pytest.approx(10 * 0.1 * 1.5, rel=0.6)  # some 100 tokens sent and received, a dollar a thousand
    table = edit.try_on(NEW)
    assert list(table) == ["text", "before", "small", "large"]
    assert table["small"].tolist() == table["large"].tolist() == [WORDS[text.split()[0]] for text in table["text"]]
    assert table["before"].isna().all()
    assert (server.calls, read_rules(edit.run)) == (10, OLD)
    assert edit.cost(NEW) == (0, 0.0)
    edit.try_on(NEW)
    assert server.calls == 10
    edit.try_on(OLD)
    assert edit.try_on(NEW)["before"].tolist() == table["small"].tolist()  # known now, for nothing
    assert server.calls == 20


def test_known_labels_of_a_local_model_are_those_that_all_its_texts_gave(
    make_config: MakeConfig, run: RunFolder, store: LabelStore, server: ChatServer, tiny_llm: Path
) -> None:
    config = make_config(server.url, api={"small_mode": "local", "small_model": str(tiny_llm)})
    write_rows(config.path.input_dir, texts_of(dict.fromkeys(WORDS, 10)))
    ingest(config, run)
    make_rules(config, run, store)
    edit = RulesEdit(config, run, store)
    chunks = run.read_table(run.chunks, made_by="01_ingest")
    labels = label_chunks(chunks, size="small", rules=edit.kept, config=config, store=store)
    given, known, alone = dict(zip(labels["chunk_id"], labels["label"], strict=True)), [], []
    for page in range(6):
        five = edit.texts(page)
        known += edit.try_on(edit.kept, page)["before"].tolist()
        alone += label_chunks(five, size="small", rules=edit.kept, config=config, store=store)["label"].tolist()
        assert known[-5:] == five["chunk_id"].map(given).tolist()
    assert known != alone  # five texts are too few to compare
    tried = edit.try_on(NEW)
    more = label_chunks(edit.texts(n=40), size="small", rules=NEW, config=config, store=store)
    assert tried["small"].tolist() == more["label"].tolist()[:5]


def test_no_test_text_is_tried_whether_it_is_drawn_yet_or_not(
    config: Config, run: RunFolder, store: LabelStore
) -> None:
    ingest(config, run)
    make_rules(config, run, store)
    edit = RulesEdit(config, run, store)
    before = [set(edit.texts(page)["chunk_id"]) for page in (0, 1)]
    assert len(before[0] | before[1]) == 10
    test, _ = open_test_set(config, run)
    assert not (before[0] | before[1]) & set(test["chunk_id"])
    assert [set(edit.texts(page)["chunk_id"]) for page in (0, 1)] == before
    assert len(edit.texts(10_000)) == 5


def test_an_edit_that_is_kept_is_a_persons(edit: RulesEdit) -> None:
    edit.keep(f"  {NEW}\n")
    assert read_rules(edit.run) == NEW
    assert make_rules(edit.config, edit.run, edit.store).written_by == "person"
    assert edit.diff(NEW) == []
    with pytest.raises(ConfigError, match="There are no rules"):
        edit.keep(" \n")
    assert read_rules(edit.run) == NEW
    edit_rules(edit.run, OLD)  # in the file, beside the widget
    with pytest.raises(ConfigError, match="The rules in the file have changed meanwhile"):
        edit.keep(f"{NEW} And more.")
    assert read_rules(edit.run) == OLD


def parts(widget):
    """The text, its changes, the four buttons, what is said, and the table."""
    _, area, changes, buttons, said, tried = widget.children
    return area, changes, *buttons.children, said, tried


def test_the_buttons_do_what_they_say(edit: RulesEdit, server: ChatServer) -> None:
    area, changes, keep, discard, attempt, others, said, tried = parts(rules_widget(edit.config, edit.run, edit.store))
    keep.click()
    assert "Nothing was changed." in said.value
    area.value = "1. <b>Go</b>"
    assert "+1. &lt;b&gt;Go&lt;/b&gt;" in changes.value
    assert "10 calls, about $" in said.value
    server.reset()
    attempt.click()
    assert server.calls == 10
    assert tried.value.count("<tr") == 6
    assert "Trying costs nothing" in said.value
    others.click()
    assert tried.value == ""
    assert "10 calls" in said.value
    discard.click()
    assert area.value == OLD
    area.value = NEW
    keep.click()
    assert read_rules(edit.run) == NEW
    assert "Kept." in said.value
    keep.click()
    assert "Nothing was changed." in said.value


def test_an_error_is_said_in_the_widget(edit: RulesEdit, server: ChatServer) -> None:
    area, _, keep, _, attempt, _, said, _ = parts(rules_widget(edit.config, edit.run, edit.store))
    area.value = " "
    keep.click()
    assert "There are no rules. Write some" in said.value
    server.__exit__()
    area.value = NEW
    attempt.click()
    assert "jp-error-color" in said.value
    assert len(read_test_labels(edit.run)) == 40
