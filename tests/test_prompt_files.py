"""Prompt files: found, read, checked and filled in, ours as well as people's own."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers.errors import PromptError
from nbhelpers.prompt_files import (
    LABEL_PROMPT,
    RULES_PROMPT,
    Message,
    as_completion,
    check_label_prompt,
    load_prompt,
    render,
)

CLASSES = ["ham", "spam"]
OWN = """
- role: system
  content: |
    You are a classification AI.
- role: user
  content: | # a comment, as in the original's prompts
    Classes to choose from:
    {classes}

    Rules:
    {rules}

    Input Text:
    \"\"\"
    {paragraph}
    \"\"\"
"""


def user(content: str) -> list[Message]:
    return [{"role": "user", "content": content}]


def fill(content: str, text: str | None = "the text") -> str:
    return render(user(content), classes=CLASSES, desc="mail", rules="1. Rule.", text=text)[0]["content"]


@pytest.mark.parametrize(
    ("content", "filled"),
    [
        ("{classes}", "0. ham\n1. spam"),
        ("{class_list}", "0. ham\n1. spam"),
        ("{classes_list}", "0. ham\n1. spam"),
        ("{desc}|{classes_desc}", "mail|mail"),
        ("{rules}", "1. Rule."),
        ("{text}|{paragraph}", "the text|the text"),
        ("{{ text }}|{{text}}|{{  paragraph }}", "the text|the text|the text"),
        ('{"text": "{text}", "n": {"a": 1}}', '{"text": "the text", "n": {"a": 1}}'),
        ("{} {0} {unknown} {{ unknown }} {text!r} { text } {Text} %s $text", None),
        ("{{{text}}}", "{the text}"),
    ],
)
def test_placeholders_are_filled_in_and_other_braces_stay(content: str, filled: str | None) -> None:
    assert fill(content) == (content if filled is None else filled)


def test_without_a_text_its_place_stays_open() -> None:
    assert fill("{rules} {text} {{ paragraph }}", text=None) == "1. Rule. {text} {{ paragraph }}"


@given(text=st.text() | st.sampled_from(["{rules}", "{{ desc }}", "{text}", "\\1 \\g<0>", "{", "}}"]))
def test_what_is_filled_in_is_never_filled_in_again(text: str) -> None:
    assert fill("<{text}>{rules}", text=text) == f"<{text}>1. Rule."


def test_rules_and_class_names_may_hold_placeholders_too() -> None:
    turns = render(user("{classes} {rules} {text}"), classes=["{text}", "b"], desc="", rules="{desc}", text="x")
    assert turns[0]["content"] == "0. {text}\n1. b {desc} x"


def test_rendering_leaves_the_prompt_as_it_was() -> None:
    prompt = user("{text}")
    assert render(prompt, classes=CLASSES, desc="", text="x") == user("x")
    assert prompt == user("{text}")


def test_a_prompt_of_the_person_wins_over_ours(tmp_path: Path) -> None:
    (tmp_path / f"{LABEL_PROMPT}.yaml").write_text(OWN, "utf-8")
    prompt, notices = load_prompt(LABEL_PROMPT, [tmp_path])
    assert notices == []
    assert [turn["role"] for turn in prompt] == ["system", "user"]
    assert prompt[1]["content"].startswith("Classes to choose from:\n{classes}\n")
    check_label_prompt(prompt)


def test_folders_are_searched_in_order_and_what_is_missing_is_said(tmp_path: Path) -> None:
    empty, full, nowhere = tmp_path / "empty", tmp_path / "full", tmp_path / "nowhere"
    empty.mkdir()
    full.mkdir()
    (full / f"{LABEL_PROMPT}.yaml").write_text(OWN, "utf-8")
    prompt, notices = load_prompt(LABEL_PROMPT, [None, nowhere, empty, full])
    assert prompt[0]["content"] == "You are a classification AI.\n"
    assert notices == [
        f"prompt folder {nowhere} not found: {full / LABEL_PROMPT}.yaml is used",
        f"{empty} has no {LABEL_PROMPT}.yaml: {full / LABEL_PROMPT}.yaml is used",
    ]


@pytest.mark.parametrize("name", [RULES_PROMPT, LABEL_PROMPT])
def test_ours_is_the_last_resort(tmp_path: Path, name: str) -> None:
    prompt, notices = load_prompt(name, [tmp_path / "gone", None])
    assert notices == [f"prompt folder {tmp_path / 'gone'} not found: our own {name}.yaml is used"]
    assert prompt == load_prompt(name, [])[0]
    assert load_prompt(name, [])[1] == []


def test_a_text_file_is_one_user_message_and_goes_first_in_completion_mode(tmp_path: Path) -> None:
    (tmp_path / f"{LABEL_PROMPT}.txt").write_text("Label {text}:", "utf-8")
    assert load_prompt(LABEL_PROMPT, [tmp_path])[0] == user("Label {text}:")
    (tmp_path / f"{LABEL_PROMPT}.yaml").write_text(OWN, "utf-8")
    assert len(load_prompt(LABEL_PROMPT, [tmp_path])[0]) == 2
    assert load_prompt(LABEL_PROMPT, [tmp_path], completion_mode=True)[0] == user("Label {text}:")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("- role: user\n  content: 'open", "not valid YAML"),
        ("role: user\ncontent: hello", "not a list of messages"),
        ("", "not a list of messages"),
        ("[]", "not a list of messages"),
        ("- hello", "message 1 .* has no role or no content"),
        ("- role: user\n  content: a\n- role: user", "message 2 .* has no role or no content"),
        ("- role: human\n  content: a", "unknown role 'human'"),
        ("- role: user\n  content: {text}", "which is no text"),
        ("- role: user\n  content:", "which is no text"),
    ],
)
def test_a_malformed_prompt_names_the_file_and_the_problem(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "mine.yaml").write_text(content, "utf-8")
    with pytest.raises(PromptError, match=problem) as raised:
        load_prompt("mine", [tmp_path])
    assert str(tmp_path / "mine.yaml") in str(raised.value)


def test_a_prompt_that_is_not_utf8_or_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"- role: user\n  content: caf\xe9")
    with pytest.raises(PromptError, match="Save it as UTF-8"):
        load_prompt("mine", [tmp_path])
    (tmp_path / "blank.txt").write_text(" \n", "utf-8")
    with pytest.raises(PromptError, match="is empty"):
        load_prompt("blank", [tmp_path])
    with pytest.raises(PromptError, match="no prompt named nothing"):
        load_prompt("nothing", [tmp_path])


@pytest.mark.parametrize("content", ["{text}", "{paragraph}", "{{ text }}"])
def test_a_label_prompt_shows_the_text_last(content: str) -> None:
    check_label_prompt([*user("intro"), *user(content)])


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (user("{classes} {rules}"), "never shows the text"),
        ([], "never shows the text"),
        ([*user("{text}"), *user("Now label it.")], "before its last message"),
    ],
)
def test_a_label_prompt_without_the_text_at_its_end_is_an_error(prompt: list[Message], problem: str) -> None:
    with pytest.raises(PromptError, match=problem):
        check_label_prompt(prompt)


def test_a_conversation_as_one_text() -> None:
    turns: list[Message] = [
        {"role": "system", "content": "Sort.\n"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "two"},
    ]
    assert as_completion(turns) == (
        "Sort.\n\n### Instruction\none\n\n### Response\na\n\n### Instruction\ntwo\n\n### Response\n"
    )
    assert as_completion(user(" as it is\n")) == " as it is\n"
    assert as_completion([*user("q"), {"role": "assistant", "content": "Label:"}]).endswith("### Response\nLabel:")


def test_our_label_prompt_holds_everything_that_does_not_change_before_the_text() -> None:
    prompt, _ = load_prompt(LABEL_PROMPT, [])
    check_label_prompt(prompt)
    one, two = (render(prompt, classes=CLASSES, desc="DESC", rules="RULES", text=text) for text in ("one", "two"))
    assert one[:-1] == two[:-1]
    assert one[-1]["content"] == "<text>\none\n</text>\n"
    before = one[0]["content"]
    assert all(part in before for part in ("0. ham\n1. spam", "DESC", "RULES", "Final label: NAME", "never count"))


def test_our_rules_prompt_shows_the_task() -> None:
    prompt, _ = load_prompt(RULES_PROMPT, [])
    shown = "".join(turn["content"] for turn in render(prompt, classes=CLASSES, desc="DESC"))
    assert "0. ham\n1. spam" in shown
    assert "DESC" in shown
    assert "{" not in shown
