"""Rules: written once by the large LLM, or by a person whose words are never overwritten."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_server import ChatServer, Said
from tiny_models import tiny_llama

from nbhelpers import rules
from nbhelpers.config import Config
from nbhelpers.errors import ChatError, ChatRefusedError, ConfigError, RunFolderError
from nbhelpers.label_store import LabelStore
from nbhelpers.rules import make_rules, read_rules, rules_prompt
from nbhelpers.run_folder import RunFolder

RULES = "1. Matches are sports.\n2. Votes are politics.\n3. Anything else is weather."
MINE = "1. Everything is weather."
MakeConfig = Callable[..., Config]

pytestmark = pytest.mark.usefixtures("quick_retries")


def writer(*replies: str | Said | None) -> ChatServer:
    """Says these one after another, the last one for ever."""
    left = list(replies)
    return ChatServer(lambda model, messages: left.pop(0) if len(left) > 1 else left[0])


def edit(run: RunFolder, **changes: object) -> str:
    """What a person does to the file; returns its new content."""
    content = {**yaml.safe_load(run.rules.read_text("utf-8")), **changes}
    run.rules.write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")
    return run.rules.read_text("utf-8")


def test_the_large_llm_is_asked_once(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    with writer(RULES, "other rules") as server:
        config = make_config(server.url)
        made = make_rules(config, run, store)
        assert (made.text, made.written_by, made.model_rules, made.notices) == (RULES, "model", RULES, [])
        assert [request["model"] for request in server.requests] == ["big"]
        assert server.requests[0]["messages"] == made.asked == rules_prompt(config)[0]
        asked = made.asked[-1]["content"]
        assert "0. sports\n1. politics\n2. weather" in asked
        assert config.classification.desc in asked
        assert read_rules(run) == RULES
        assert make_rules(config, run, store) == made
        assert server.calls == 1
        assert [(a.kind, a.size, a.reply) for a in store.answers("rules").itertuples()] == [("rules", "large", RULES)]


def test_the_file_says_how_the_rules_were_asked_for(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    with writer(RULES) as server:
        made = make_rules(make_config(server.url), run, store)
    content = yaml.safe_load(run.rules.read_text("utf-8"))
    assert (content["rules"], content["written_by"], content["model"]) == (RULES, "model", "big")
    assert content["asked"] == made.asked
    assert "rules: |" in run.rules.read_text("utf-8")  # lines that a person can edit


@pytest.mark.parametrize(
    "changes",
    [
        {"classification": {"desc": "Another task."}},
        {"classification": {"classes": ["sports", "weather"]}},
        {"api": {"large_model": "bigger"}},
    ],
)
def test_another_task_or_model_is_asked_for_other_rules(
    changes: dict[str, Any], make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(RULES, "other rules") as server:
        make_rules(make_config(server.url), run, store)
        made = make_rules(make_config(server.url, **changes), run, store)
        assert (made.text, made.written_by, made.notices) == ("other rules", "model", [])
        assert (server.calls, read_rules(run)) == (2, "other rules")


def test_another_endpoint_for_the_same_model_is_not_asked(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(RULES) as first, writer("other rules") as second:
        make_rules(make_config(first.url), run, store)
        assert make_rules(make_config(second.url), run, store).text == RULES
        assert second.calls == 0


def test_edited_rules_are_used_and_noticed_and_never_overwritten(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(RULES, "other rules") as server:
        make_rules(make_config(server.url), run, store)
        content = edit(run, rules=MINE + "\n")
        for config in (
            make_config(server.url),
            make_config(server.url, classification={"desc": "Another task."}, api={"large_model": "bigger"}),
        ):
            made = make_rules(config, run, store)
            assert (made.text, made.written_by, made.model_rules) == (MINE, "person", RULES)
            assert "edited by hand" in made.notices[-1]
            assert str(run.rules) in made.notices[-1]
            assert run.rules.read_text("utf-8") == content
        assert (read_rules(run), server.calls) == (MINE, 1)


def test_a_file_that_a_person_wrote_from_nothing_is_used(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(RULES) as server:
        run.rules.parent.mkdir(parents=True)
        run.rules.write_text(f"rules: |\n  {MINE}\n", "utf-8")
        made = make_rules(make_config(server.url), run, store)
        assert (made.text, made.written_by, made.model_rules, server.calls) == (MINE, "person", None, 0)


def test_deleting_the_edited_file_brings_the_models_rules_back_without_a_call(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(RULES, "other rules") as server:
        make_rules(make_config(server.url), run, store)
        edit(run, rules=MINE)
        run.rules.unlink()
        made = make_rules(make_config(server.url), run, store)
        assert (made.text, made.written_by, server.calls) == (RULES, "model", 1)


@pytest.mark.parametrize("blank", [None, "", "  \n", ["1. A list.", "2. Not a text."], 5])
def test_an_edit_that_leaves_no_rules_is_an_error(
    blank: object, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(RULES) as server:
        make_rules(make_config(server.url), run, store)
        content = edit(run, rules=blank)
        with pytest.raises(ConfigError, match=r"holds no text under rules:.*delete the file"):
            make_rules(make_config(server.url), run, store)
        assert run.rules.read_text("utf-8") == content


def test_an_edit_that_breaks_the_file_is_an_error(make_config: MakeConfig, run: RunFolder, store: LabelStore) -> None:
    with writer(RULES) as server:
        make_rules(make_config(server.url), run, store)
        run.rules.write_text("rules: 'open quote\nwritten: x", "utf-8")
        with pytest.raises(RunFolderError, match=r"rules_creation_generation\.yaml cannot be read .*Mend it"):
            make_rules(make_config(server.url), run, store)


def test_without_a_file_the_error_names_the_notebook(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"rules_creation_generation\.yaml not found.*Run 02_rules first"):
        read_rules(run)


@pytest.mark.parametrize(
    "text",
    [
        "1. Line \n2. with a space at its end",
        "- a: b\n- 'c' \"d\" #e\n---\n...",
        "\tTabbed\n  indented",
        "Größe → “quoted” 日本語 🌧\nsecond",
        "A\x85B\nC",
        "A\u2028B\u2029C",
        "A\x85B",
        "bell \x07 and \ufeff mark",
        "crlf\r\nline\rend",
        "yes",
        "123",
        "x" * 300 + "\n" + "word " * 100,
    ],
)
def test_any_rules_survive_the_file_and_are_not_taken_for_an_edit(
    text: str, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(text) as server:
        made = make_rules(make_config(server.url), run, store)
        again = make_rules(make_config(server.url), run, store)
    assert made.text == again.text == read_rules(run) == text.strip()
    assert (again.written_by, again.notices) == ("model", [])


# A person's own rules


def rules_file(tmp_path: Path, content: bytes = MINE.encode()) -> dict[str, str]:
    (tmp_path / "rules.md").write_bytes(content)
    return {"rules_file": str(tmp_path / "rules.md")}


def test_a_rules_file_is_used_in_place_of_asking(
    tmp_path: Path, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(RULES) as server:
        config = make_config(server.url, classification=rules_file(tmp_path, b"\xef\xbb\xbf" + MINE.encode() + b"\n\n"))
        made = make_rules(config, run, store)
        assert (made.text, made.written_by, made.model_rules, made.notices) == (MINE, "file", None, [])
        assert [turn["content"] for turn in made.shown()] == [MINE]
        assert read_rules(run) == MINE
        assert make_rules(config, run, store) == made
        rules_file(tmp_path, "1. Alles ist Größe.".encode())
        assert make_rules(config, run, store).text == read_rules(run) == "1. Alles ist Größe."
        assert server.calls == 0


def test_an_edit_in_the_run_folder_outranks_the_rules_file(
    tmp_path: Path, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    config = make_config(classification=rules_file(tmp_path))
    make_rules(config, run, store)
    edit(run, rules="edited")
    made = make_rules(config, run, store)
    assert (made.text, made.written_by, read_rules(run)) == ("edited", "person", "edited")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "could not be read"), (b" \n", "is empty"), (b"\xff\xfe\x00\xd8", "could not be read")],
)
def test_a_rules_file_without_rules_is_an_error_and_nothing_is_asked(
    content: bytes | None, message: str, tmp_path: Path, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    section = rules_file(tmp_path, content or b"")
    if content is None:
        (tmp_path / "rules.md").unlink()
    with writer(RULES) as server:
        with pytest.raises(ConfigError, match=rf"classification\.rules_file: .*rules\.md {message}"):
            make_rules(make_config(server.url, classification=section), run, store)
        assert server.calls == 0


def test_a_local_model_is_asked_as_well_and_shown_beside_the_rules_file(
    tmp_path: Path,
    make_config: MakeConfig,
    run: RunFolder,
    store: LabelStore,
    tiny_llm: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "BESIDE_MAX_TOKENS", 12)
    model = tmp_path / "model"
    shutil.copytree(tiny_llm, model)
    local = {"large_mode": "local", "large_model": str(model)}
    config = make_config(api=local, classification=rules_file(tmp_path))
    made = make_rules(config, run, store)
    assert (made.text, made.written_by, read_rules(run)) == (MINE, "file", MINE)
    assert made.model_rules is not None
    assert made.model_rules not in ("", MINE)
    assert made.model_rules.endswith(" …")  # it was cut off, and says so
    in_use, beside = made.shown()
    assert (in_use["content"], beside["content"]) == (MINE, made.model_rules)
    assert "file" in in_use["role"]
    assert store.answers("rules")["reply"].tolist() == [made.model_rules]
    assert store.usage()["completion_tokens"].tolist() == [12]  # this model knows no end
    shutil.rmtree(model)  # so that it could not be asked again
    assert make_rules(config, run, store) == made


def test_rules_of_a_local_model_that_come_to_no_end_are_not_taken(
    make_config: MakeConfig, run: RunFolder, store: LabelStore, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "LOCAL_MAX_TOKENS", 3)
    config = make_config(api={"large_mode": "local", "large_model": str(tiny_llm)})
    with pytest.raises(ChatError, match=r"wrote no rules in 1 try \(cut off after 3 tokens\)"):
        make_rules(config, run, store)
    assert not run.rules.exists()
    assert store.answers("rules").empty


def test_rules_that_a_person_gave_do_not_wait_for_a_local_model_that_cannot_write_any(
    tmp_path: Path, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    model = tiny_llama(tmp_path / "short", max_tokens=16)  # its context is shorter than the prompt
    local = {"large_mode": "local", "large_model": str(model)}
    made = make_rules(make_config(api=local, classification=rules_file(tmp_path)), run, store)
    assert (made.text, made.written_by, made.model_rules) == (MINE, "file", None)
    assert "shorten the rules" in made.notices[0]
    with pytest.raises(ChatRefusedError, match="takes 16"):
        make_rules(make_config(api=local), RunFolder(tmp_path / "other"), store)


# What a model writes


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (f"<think>Let me see.\n1. No.</think>\n\n{RULES}\n", RULES),
        (f"Let me see.</think>{RULES}", RULES),
        (f"\n\n  {RULES}  \n", RULES),
    ],
)
def test_only_the_rules_are_kept_of_a_reply(
    reply: str, kept: str, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(reply) as server:
        assert make_rules(make_config(server.url), run, store).text == kept
        assert server.calls == 1


@pytest.mark.parametrize("nothing", ["", " \n", None, "<think>What now?</think>", "<think>What now? Maybe 1."])
def test_a_reply_without_rules_is_asked_again(
    nothing: str | None, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(Said(nothing), Said(nothing), RULES) as server:
        assert make_rules(make_config(server.url), run, store).text == RULES
        assert server.calls == 3
    assert store.usage()[["calls", "failed"]].to_numpy().tolist() == [[3, 2]]
    assert store.usage()["completion_tokens"].item() == server.completion_tokens or nothing is None


def test_rules_that_were_cut_off_are_asked_for_again_with_more_room(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(Said("1. The first half of", finish_reason="length"), RULES) as server:
        assert make_rules(make_config(server.url), run, store).text == RULES
        assert [request["max_tokens"] for request in server.requests] == [4000, 8000]


def test_a_model_that_never_writes_rules_is_an_error(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer("") as server:
        with pytest.raises(ChatError, match=r"big wrote no rules in 3 tries \(empty reply\)\. Try another api"):
            make_rules(make_config(server.url), run, store)
        assert server.calls == 3
    assert not run.rules.exists()
    with writer(RULES) as server:  # a failure is not kept as an answer
        assert make_rules(make_config(server.url), run, store).text == RULES


# Prompts


def test_a_missing_prompt_folder_is_noticed_and_ours_is_used(
    tmp_path: Path, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(RULES) as server:
        config = make_config(server.url, path={"prompts": str(tmp_path / "nowhere")})
        made = make_rules(config, run, store)
    assert made.text == RULES
    assert made.notices == [
        f"prompt folder {tmp_path / 'nowhere'} not found: our own create_rules_for_desc.yaml is used"
    ]
    assert made.asked == rules_prompt(make_config())[0]


@pytest.mark.parametrize("key", ["prompts", "default_prompts"])
def test_a_persons_own_prompt_is_asked(
    key: str, tmp_path: Path, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    prompt: Sequence[dict[str, str]] = [
        {"role": "user", "content": "Rules for {class_list} by {classes_desc}, {please}!"}
    ]
    (tmp_path / "create_rules_for_desc.yaml").write_text(yaml.safe_dump(prompt), "utf-8")
    with writer(RULES) as server:
        config = make_config(server.url, path={key: str(tmp_path)}, classification={"desc": "topic"})
        make_rules(config, run, store)
        content = "Rules for 0. sports\n1. politics\n2. weather by topic, {please}!"
        assert server.requests[0]["messages"] == [{"role": "user", "content": content}]


def test_completion_mode_asks_for_the_rules_as_one_text(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with writer(RULES) as server:
        made = make_rules(make_config(server.url, system={"completion_mode": True}), run, store)
        assert (made.text, server.paths) == (RULES, ["/v1/completions"])
