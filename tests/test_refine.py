"""Rules that learn: an edit is kept only if the two LLMs agree more often on texts it was not made from."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from chat_server import ChatServer, Fault, Said, shown_text
from runs_made import WORDS, texts_of, word_of

from nbhelpers import refine
from nbhelpers.config import Config
from nbhelpers.errors import ConfigError, EndpointError, NotEnoughChunksError, PromptError
from nbhelpers.label_store import LabelStore
from nbhelpers.refine import Agreed, Refinement, refine_prompt, refine_rules
from nbhelpers.rules import make_rules, read_rules
from nbhelpers.run_folder import RunFolder, write_table
from nbhelpers.stages import begin, find_stage, finish, what_changed
from nbhelpers.test_set import open_pilot, open_test_set
from nbhelpers.widgets import show_messages, show_texts

RULES = "1. Matches are sports.\n2. Votes are politics.\n3. Anything else is weather."
MENDED = f"{RULES}\nExample: ballots are counted: politics."
TEXTS = texts_of(dict.fromkeys(WORDS, 25))
MakeConfig = Callable[..., Config]
Reply = str | Said | Fault | None

pytestmark = pytest.mark.usefixtures("quick_retries")


class Readers:
    """The large LLM reads well, the small one takes votes for weather until the rules speak of ballots.

    `labels` (model, word, rules) -> a label, or None for how it would be read; `proposal` is said when asked to edit.
    """

    def __init__(
        self,
        proposal: Reply = f"<rules>\n{MENDED}\n</rules>",
        labels: Callable[[str, str, str], str | None] = lambda model, word, rules: None,
    ) -> None:
        self.proposal, self.labels = proposal, labels
        self.edits: list[str] = []  # the questions for an edit
        self.on_edit: Callable[[], object] = lambda: None

    def __call__(self, model: str, messages: list[dict[str, Any]]) -> Reply:
        last = messages[-1]["content"]
        if "THE NEW RULES" in last:
            self.edits.append(last)
            self.on_edit()
            return self.proposal
        text = shown_text(messages)
        if text is None:
            return RULES
        rules, word = messages[0]["content"], word_of(text)
        misread = model == "little" and word == "vote" and "ballots" not in rules
        label = self.labels(model, word, rules) or ("weather" if misread else WORDS[word])
        return f"It begins with {word}.\nFinal label: {label}"


def config_of(make_config: MakeConfig, server: ChatServer, n: int = 20, **changes: dict[str, Any]) -> Config:
    training = {"test_set_size": 20, "train_set_size": 10, "max_iters": 1}
    return make_config(server.url, **{"training": training, "rules": {"refine": n}, **changes})


def write_chunks(run: RunFolder, texts: Sequence[str]) -> None:
    """What 01 leaves, as far as it counts here: texts that are their own documents, and no near-duplicates."""
    ids = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    write_table(run.chunks, pd.DataFrame({"chunk_id": ids, "text": texts, "near_group": range(len(texts))}))
    places = pd.DataFrame({"chunk_id": ids, "source": "rows.jsonl", "position": range(len(texts))})
    write_table(run.occurrences, places.assign(document=places["position"].astype(str)))


def learn(config: Config, run: RunFolder, store: LabelStore) -> Refinement:
    """02."""
    if not run.chunks.exists():
        write_chunks(run, TEXTS)
    return refine_rules(config, run, store, make_rules(config, run, store))


def halves(config: Config, run: RunFolder) -> tuple[list[str], list[str]]:
    """The texts to learn from, and those held out."""
    texts = open_pilot(config, run)["text"].tolist()
    return texts[::2], texts[1::2]


def votes(texts: list[str]) -> int:
    return sum(word_of(text) == "vote" for text in texts)


def untouched(learned: Refinement, run: RunFolder) -> bool:
    return learned.rules == read_rules(run) == RULES and not learned.kept


# Off, or not to be changed


def test_it_is_off_by_default(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    assert make_config().rules.refine == 0
    with ChatServer(Readers()) as server:
        learned = learn(config_of(make_config, server, rules={}), run, store)
        assert server.calls == 1  # for the rules
        assert untouched(learned, run)
        assert not run.pilot.exists()
        assert str(learned).startswith("Off: rules.refine is 0")
        assert "Off" in show_messages(learned.shown()).plain  # the notebook's cells have something to show
        assert "0 of 0 rows" in show_texts(learned.disagreements, ["text", "large", "small", "why"]).plain


@pytest.mark.parametrize(("n", "taken"), [(0, True), (20, True), (200, True), (19, False), (1, False), (-1, False)])
def test_a_pilot_has_twenty_texts_or_more(n: int, taken: bool, make_config: MakeConfig) -> None:
    if taken:
        assert make_config(rules={"refine": n}).rules.refine == n
        return
    with pytest.raises(ConfigError, match=rf"rules\.refine: {n}"):
        make_config(rules={"refine": n})


def test_rules_that_a_person_edited_are_not_changed(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    with ChatServer(Readers()) as server:
        config = config_of(make_config, server)
        learned = learn(config, run, store)
        assert learned.kept
        content = yaml.safe_load(run.rules.read_text("utf-8"))
        run.rules.write_text(yaml.safe_dump({**content, "rules": "Mine."}), "utf-8")
        calls = server.calls
        again = learn(config, run, store)
        assert (again.rules, again.kept, read_rules(run)) == ("Mine.", False, "Mine.")
        assert "by the person" in again.why
        assert server.calls == calls


def test_rules_that_a_person_edits_meanwhile_are_not_overwritten(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    readers = Readers()
    readers.on_edit = lambda: run.rules.write_text("rules: Mine.\n", "utf-8")
    with ChatServer(readers) as server:
        learned = learn(config_of(make_config, server), run, store)
    assert (learned.kept, read_rules(run)) == (False, "Mine.")
    assert "edited by hand meanwhile" in learned.why


@pytest.mark.parametrize("why", ["by the file", "large_mode is local", "both the large and the small"])
def test_where_it_cannot_work_it_says_so_and_asks_nothing(
    why: str,
    tmp_path: Path,
    make_config: MakeConfig,
    run: RunFolder,
    store: LabelStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "rules.md").write_text("Mine.", "utf-8")
    with ChatServer(Readers()) as server:
        changes: dict[str, Any] = {
            "by the file": {"classification": {"rules_file": str(tmp_path / "rules.md")}},
            "large_mode is local": {},
            "both the large and the small": {"api": {"small_model": "big"}},
        }[why]
        config = config_of(make_config, server, **changes)
        write_chunks(run, TEXTS)
        made = make_rules(config, run, store)
        calls = server.calls
        if "local" in why:
            config = config_of(make_config, server, api={"large_mode": "local"})
        learned = refine_rules(config, run, store, made)
        assert why in learned.why
        assert (learned.rules, learned.kept, server.calls) == (made.text, False, calls)
        assert not run.pilot.exists()


# Kept or not


def test_an_edit_is_kept_where_the_two_agree_more_often_by_it(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    readers = Readers()
    with ChatServer(readers) as server:
        config = config_of(make_config, server)
        learned = learn(config, run, store)
        learnt_from, held_out = halves(config, run)
        assert (len(learnt_from), len(held_out)) == (10, 10)
        assert votes(learnt_from) >= 1 <= votes(held_out)
        assert (learned.before, learned.after) == (Agreed(10 - votes(held_out), 10), Agreed(10, 10))
        assert (learned.kept, learned.moved, learned.rules, read_rules(run)) == (True, 0, MENDED, MENDED)
        assert "+Example: ballots are counted: politics." in learned.diff.splitlines()
        assert "-1. Matches are sports." not in learned.diff
        assert learned.shown()[0]["role"] == "changes to the rules (kept)"
        said = str(learned)
        assert f"the same class for {10 - votes(held_out)} of 10" in said
        assert "10 of 10 (1.00, 95 % interval 0.69 to 1.00)" in said
        # 20 + 20 labels, the edit, 10 + 10 labels, and the rules themselves
        questions = {json.dumps([request["model"], request["messages"]]) for request in server.requests}
        assert (server.calls, len(questions)) == (62, 62)
    content = yaml.safe_load(run.rules.read_text("utf-8"))
    assert (content["written_by"], content["model_rules"]) == ("model", RULES)
    assert content["refined"]["from"] == RULES


def test_the_large_model_sees_the_disagreements_to_learn_from_and_no_text_that_is_held_out(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    readers = Readers()
    with ChatServer(readers) as server:
        config = config_of(make_config, server)
        learned = learn(config, run, store)
    learnt_from, held_out = halves(config, run)
    [asked] = readers.edits
    assert re.findall(r"<text>\n(.*?)\n</text>\n", asked) == [text for text in learnt_from if word_of(text) == "vote"]
    assert not [text for text in held_out if text in asked]
    assert asked.count("Your label: politics (It begins with vote.)\nThe reader's: weather") == votes(learnt_from)
    assert RULES in asked
    assert learned.disagreements["text"].tolist() == [text for text in learnt_from if word_of(text) == "vote"]
    assert set(learned.disagreements["large"]) == {"politics"}
    assert set(learned.disagreements["small"]) == {"weather"}


def test_of_long_texts_the_large_model_sees_the_beginning(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    readers = Readers()
    with ChatServer(readers) as server:
        write_chunks(run, [f"{text} {'and so on ' * 300}" for text in TEXTS])
        learn(config_of(make_config, server), run, store)
    [asked] = readers.edits
    shown = re.findall(r"<text>\n(.*?)\n</text>\n", asked)
    assert shown
    assert {len(text) for text in shown} == {2000}


def test_the_same_again_asks_nothing_and_ends_the_same(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    for proposal in (f"<rules>{MENDED}</rules>", "<rules>1. Another.</rules>", "They are fine."):
        folder = RunFolder(run.root / str(len(proposal)))
        with LabelStore(folder.labels) as mine, ChatServer(Readers(proposal)) as server:
            config = config_of(make_config, server, path={"output_dir": str(folder.root)})
            first = learn(config, folder, mine)
            content, calls = folder.rules.read_text("utf-8"), server.calls
            second = learn(config, folder, mine)
            assert (server.calls, folder.rules.read_text("utf-8")) == (calls, content)
            assert (str(second), second.diff, second.kept) == (str(first), first.diff, first.kept)


def test_turned_off_again_the_first_rules_are_back(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    with ChatServer(Readers()) as server:
        assert learn(config_of(make_config, server), run, store).kept
        assert untouched(learn(config_of(make_config, server, rules={}), run, store), run)


@pytest.mark.parametrize("worse", [False, True])
def test_an_edit_that_brings_no_more_agreement_is_not_kept(
    worse: bool, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    def labels(model: str, word: str, rules: str) -> str | None:
        return "politics" if worse and model == "little" and word == "rain" and "Otherwise" in rules else None

    with ChatServer(Readers("<rules>1. Otherwise put.</rules>", labels)) as server:
        learned = learn(config_of(make_config, server), run, store)
    assert learned.before is not None
    assert learned.after is not None
    assert learned.after < learned.before if worse else learned.after == learned.before
    assert untouched(learned, run)
    assert "do not agree more often" in learned.why
    assert learned.shown()[0]["role"] == "changes to the rules (not kept)"
    assert "+1. Otherwise put." in learned.shown()[0]["content"]


def test_labels_of_the_large_model_are_those_by_the_same_rules_and_what_moved_is_said(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    def labels(model: str, word: str, rules: str) -> str | None:
        turned = {"goal": "politics", "vote": "weather", "rain": "sports"}
        return turned[word] if "Turn" in rules else None

    with ChatServer(Readers("<rules>Turn them.</rules>", labels)) as server:
        learned = learn(config_of(make_config, server), run, store)
    assert (learned.kept, learned.after, learned.moved) == (True, Agreed(10, 10), 10)  # its old labels would differ


@pytest.mark.parametrize("by_both", [True, False])
def test_an_edit_that_gives_a_class_up_is_not_kept_though_the_two_agree_more_often(
    by_both: bool, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    """Votes, which the two differ on, are weather to both; or sports, which they agree on, to none any more."""

    def labels(model: str, word: str, rules: str) -> str | None:
        if "Give up" not in rules:
            return "politics" if by_both and word == "rain" and model == "little" else None
        if by_both:
            return "politics" if word == "goal" and model == "little" else WORDS[word]
        return "weather" if word == "vote" else None

    with ChatServer(Readers("<rules>Give up.</rules>", labels)) as server:
        config = config_of(make_config, server, n=40)
        learned = learn(config, run, store)
    assert learned.before is not None
    assert learned.after is not None
    assert learned.after.same > learned.before.same
    assert untouched(learned, run)
    assert f"but on no held-out text of {'sports' if by_both else 'politics'}." in learned.why
    assert "+Give up." in learned.diff


@pytest.mark.parametrize(
    ("reply", "rules"),
    [
        (f"<rules>\n{MENDED}\n</rules>", MENDED),
        (f"Here they are: <rules>{MENDED}</rules> Enjoy!", MENDED),
        ("The rules are fine.", None),
        ("<rules></rules>", None),
        ("<rules> \n </rules>", None),
        (f"<rules>{MENDED}", None),
        (f"{MENDED}</rules>", None),
        (f"</rules>{MENDED}<rules>", None),
        (f"<rules>{MENDED}</rules> or <rules>others</rules>", None),
        (f"<rules><rules>{MENDED}</rules>", None),
    ],
)
def test_a_proposal_is_what_stands_between_one_pair_of_tags(reply: str, rules: str | None) -> None:
    assert refine._rules_in(reply) == rules


@pytest.mark.parametrize("proposal", [MENDED, f"<think><rules>{MENDED}</rules></think>No."])
def test_a_reply_without_rules_between_the_tags_is_no_proposal(
    proposal: str, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(Readers(proposal)) as server:
        learned = learn(config_of(make_config, server, 20), run, store)
        assert server.calls == 42
    assert untouched(learned, run)
    assert learned.why == "The rules stay: big proposed no rules between <rules> and </rules>."
    assert learned.shown()[0]["role"] == "no changes proposed"


@pytest.mark.parametrize("proposal", [None, "", Said(f"<rules>{MENDED}", finish_reason="length")])
def test_a_reply_that_is_empty_or_cut_off_is_asked_for_again_and_then_no_proposal(
    proposal: Reply, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    readers = Readers(proposal)
    with ChatServer(readers) as server:
        learned = learn(config_of(make_config, server, 20), run, store)
    assert len(readers.edits) == 3
    assert untouched(learned, run)
    assert "wrote no rules in 3 tries" in learned.why


def test_the_same_rules_again_are_no_proposal(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    with ChatServer(Readers(f"<rules>\n{RULES}\n</rules>")) as server:
        learned = learn(config_of(make_config, server, 20), run, store)
    assert untouched(learned, run)
    assert "proposed no change" in learned.why


@pytest.mark.parametrize(("half", "where"), [(0, "held-out texts"), (1, "texts to learn from"), (None, "texts to")])
def test_where_nothing_can_be_learned_or_gained_nothing_is_asked(
    half: int | None, where: str, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    """The small model misreads only texts of this half."""
    readers = Readers()
    with ChatServer(readers) as server:
        config = config_of(make_config, server)
        write_chunks(run, TEXTS)
        misread = set() if half is None else set(halves(config, run)[half])

        def answer(model: str, messages: list[dict[str, Any]]) -> Reply:
            text = shown_text(messages)
            known = model == "little" and text is not None and text not in misread
            return f"Final label: {WORDS[word_of(str(text))]}" if known else readers(model, messages)

        server.answer = answer  # type: ignore[assignment]
        learned = learn(config, run, store)
        assert (readers.edits, server.calls) == ([], 41)
    assert untouched(learned, run)
    assert f"differ on none of the {where}" in learned.why


def test_a_text_without_a_label_counts_as_differing_and_is_not_learned_from(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    def labels(model: str, word: str, rules: str) -> str | None:
        return "chess" if model == "little" and word == "rain" else None

    with ChatServer(Readers(labels=labels)) as server:
        config = config_of(make_config, server)
        learned = learn(config, run, store)
    held_out = halves(config, run)[1]
    rain = sum(word_of(text) == "rain" for text in held_out)
    assert rain > 0
    assert learned.before == Agreed(10 - rain - votes(held_out), 10)
    assert learned.after == Agreed(10 - rain, 10)
    assert {word_of(text) for text in learned.disagreements["text"]} == {"vote"}


def test_near_duplicates_of_texts_to_learn_from_are_not_held_out(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(Readers()) as server:
        config = config_of(make_config, server)
        write_chunks(run, TEXTS)
        chunks = pd.read_parquet(run.chunks)
        pilot = open_pilot(config, run)
        alike = set(pilot["chunk_id"].iloc[[0, 1, 3]])
        chunks.loc[chunks["chunk_id"].isin(alike), "near_group"] = -1
        chunks.to_parquet(run.chunks)
        learned = refine_rules(config, run, store, make_rules(config, run, store))
        assert learned.before is not None
        assert learned.before.n == 8
        chunks["near_group"] = 0
        chunks.to_parquet(run.chunks)
        server.reset()
        learned = refine_rules(config, run, store, make_rules(config, run, store))
        assert (server.calls, learned.before) == (0, None)
        assert "all pilot texts are near-duplicates" in learned.why


# Budget and faults


@pytest.mark.parametrize("size", ["small", "large"])  # whose calls cannot be paid: its labels; the edit
def test_where_the_budget_does_not_suffice_the_rules_stay(
    size: str, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    readers = Readers(None)
    free = {f"cost_per_million_{size}_{way}": 0.0 for size in ("large", "small") for way in ("input", "output")}
    dear = {**free, f"cost_per_million_{size}_output": 1e6, "budget_usd": 1.0}
    with ChatServer(readers) as server:
        config = config_of(make_config, server, cost=dear)
        write_chunks(run, TEXTS)
        made = make_rules(config_of(make_config, server), run, store)
        if size == "large":  # its labels are there already, and no edit
            refine_rules(config_of(make_config, server), run, store, made)
        server.reset()
        learned = refine_rules(config, run, store, made)
        assert server.calls == (10 if size == "small" else 0)  # the large model's labels of one half cost nothing
    assert untouched(learned, run)
    assert "cost.budget_usd" in learned.why
    assert (learned.before is None) == (size == "small")


def test_a_dead_endpoint_stops_the_run(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    with ChatServer(Readers()) as server:
        config = config_of(make_config, server, labeling={"patience_seconds": 0.2})
        write_chunks(run, TEXTS)
        made = make_rules(config, run, store)
    with pytest.raises(EndpointError):
        refine_rules(config, run, store, made)
    assert read_rules(run) == RULES


# The pilot and the test set


def test_no_pilot_text_is_in_the_test_set_but_all_may_be_trained_on(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(Readers()) as server:
        config = config_of(make_config, server, training={"test_set_size": 40, "train_set_size": 10, "max_iters": 1})
        learn(config, run, store)
        pilot = set(open_pilot(config, run)["chunk_id"])
        test, pool = open_test_set(config, run)
        assert (len(pilot), len(test)) == (20, 40)
        assert not pilot & set(test["chunk_id"])
        assert pilot <= set(pool.chunks["chunk_id"])
        calls = server.calls
        write_chunks(run, [*texts_of({"goal": 40}, seed=5), *TEXTS])
        assert learn(config, run, store).kept  # more texts make no other pilot
        assert server.calls == calls
        assert set(open_pilot(config, run)["chunk_id"]) == pilot
        assert open_test_set(config, run)[0]["chunk_id"].tolist() == test["chunk_id"].tolist()


def test_a_test_set_that_was_drawn_stays_out_of_the_pilot(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(Readers()) as server:
        learn(config_of(make_config, server, rules={}), run, store)
        test = open_test_set(config_of(make_config, server), run)[0]["chunk_id"].tolist()
        learn(config_of(make_config, server, 50), run, store)
        assert not set(open_pilot(config_of(make_config, server, 50), run)["chunk_id"]) & set(test)
        assert open_test_set(config_of(make_config, server), run)[0]["chunk_id"].tolist() == test


def test_a_pilot_that_leaves_too_few_texts_is_an_error_before_it_is_paid_for(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(Readers()) as server:
        with pytest.raises(NotEnoughChunksError, match=r"75 chunks: a pilot of 56 .* leaves 19 for a test set of 20"):
            learn(config_of(make_config, server, 56), run, store)
        assert server.calls == 1


# Prompt and steps


def test_a_persons_own_prompt_is_asked(
    tmp_path: Path, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    own = [{"role": "user", "content": "THE NEW RULES for {desc}, please: {text}"}]
    (tmp_path / "refine_rules.yaml").write_text(yaml.safe_dump(own), "utf-8")
    readers = Readers()
    with ChatServer(readers) as server:
        learned = learn(config_of(make_config, server, path={"prompts": str(tmp_path)}), run, store)
    assert learned.kept
    assert readers.edits[0].startswith("THE NEW RULES for Sort the news by what they are about., please: <text>\nvote")
    own[0]["content"] = "Write better rules."
    (tmp_path / "refine_rules.yaml").write_text(yaml.safe_dump(own), "utf-8")
    with pytest.raises(PromptError, match=r"refine_rules never shows the text"):
        refine_prompt(config_of(make_config, server, path={"prompts": str(tmp_path)}))


def test_what_the_pilot_depends_on_makes_the_rules_stale_only_where_there_is_one(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    stage = find_stage("2")
    with ChatServer(Readers()) as server:
        for n in (0, 30):
            config = config_of(make_config, server, n)
            learn(config, run, store)
            finish(stage, run, begin(stage, config, run))
            assert what_changed(stage, config, run) == []
            less = config_of(make_config, server, n, api={"small_model": "less"})
            assert what_changed(stage, less, run) == (["pilot"] if n else [])
            assert what_changed(stage, config_of(make_config, server, 40), run)[:1] == (["config"] if n else ["chunks"])
