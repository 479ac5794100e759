"""One value in a person's config, and not a character more."""

from pathlib import Path

import pytest

from nbhelpers.config_file import save_value
from nbhelpers.errors import ConfigError


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "# me\napi:\n  large_api_key: ${KEY}  # secret\ntraining:\n    max_iters: 4\n    balance: auto  # why\n",
            "# me\napi:\n  large_api_key: ${KEY}  # secret\ntraining:\n    max_iters: 4\n    balance: weights  # why\n",
        ),
        ("training:\n  balance: 'auto'\nx: 1\n", "training:\n  balance: 'weights'\nx: 1\n"),
        ("training:\n  # few\n  max_iters: 4\n", "training:\n  # few\n  balance: weights\n  max_iters: 4\n"),
        ("api: {a: 1}\r\n", "api: {a: 1}\r\ntraining:\r\n  balance: weights\r\n"),
        ("api: {a: 1}", "api: {a: 1}\ntraining:\n  balance: weights\n"),
        ("training: # nothing yet\napi: 1\n", "training: {balance: weights} # nothing yet\napi: 1\n"),
        ("training: {max_iters: 4} # x\n", 'training: {"balance": "weights", max_iters: 4} # x\n'),
        ("classes: [!!ATTENTION!! x]\ntraining:\n  balance: none\n", None),
        ('{"training": {"max_iters": 4, "balance": "none"}}', '{"training": {"max_iters": 4, "balance": "weights"}}'),
        ('{"api": {}}', '{"training": {"balance": "weights"}, "api": {}}'),
    ],
)
def test_the_value_changes_and_nothing_else_does(tmp_path: Path, before: str, after: str | None) -> None:
    file = tmp_path / ("config.json" if before.startswith("{") else "config.yaml")
    file.write_bytes(before.encode())
    assert save_value(file, "training", "balance", "weights")
    assert file.read_bytes().decode() == (after or before.replace("none", "weights"))
    assert not save_value(file, "training", "balance", "weights")


@pytest.mark.parametrize(
    "text",
    [
        "base: &b {balance: auto}\ntraining: *b\n",  # what stands elsewhere means something there, too
        "training:\n  balance: &x auto\nother: *x\n",
        "just a text\n",
        "training: [1, 2]\n",
        "training: {balance: auto\n",
        "",
    ],
)
def test_what_cannot_be_changed_alone_stays_as_it_is(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="Write balance: weights under training: in it yourself"):
        save_value(file, "training", "balance", "weights")
    assert file.read_text("utf-8") == text


def test_a_file_that_is_its_owners_alone_stays_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("api:\n  small_api_key: secret\ntraining:\n  balance: auto\n", "utf-8")
    file.chmod(0o600)
    save_value(file, "training", "balance", "weights")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml could not be changed"):
        save_value(tmp_path / "gone.yaml", "training", "balance", "weights")
