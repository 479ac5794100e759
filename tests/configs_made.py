"""Configs to read, right but for what a test changes, and what is said of wrong ones."""

from pathlib import Path
from typing import Any

import pytest

from nbhelpers.config_file import load_config, parse_config
from nbhelpers.errors import ConfigError

SECRET = "sk-4f9a1c-not-for-your-eyes"


def content(**changes: Any) -> dict[str, Any]:
    """The sections of a config that is right but for the changes: `system__seed=1` is system.seed."""
    sections: dict[str, Any] = {
        "api": {"large_model": "big", "small_model": "little"},
        "classification": {"classes": ["spam", "not spam"], "desc": "Tell spam from mail."},
        "path": {"input_dir": "texts", "output_dir": "runs/x"},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        sections.setdefault(section, {})[key] = value
    return sections


def error(sections: dict[str, Any], **options: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        parse_config(sections, **options)
    return str(raised.value)


def problems(sections: dict[str, Any], **options: Any) -> list[str]:
    """The problems that are reported, one a line, after the line that counts them."""
    head, *lines = error(sections, **options).splitlines()
    assert ("a problem" if len(lines) == 1 else f"{len(lines)} problems") in head
    return [line.strip() for line in lines]


def write(folder: Path, text: str, name: str = "config.yaml", encoding: str = "utf-8") -> Path:
    file = folder / name
    file.write_text(text, encoding)
    return file


def load_error(file: Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(file, **options)
    return str(raised.value)
