"""Writes one value back into a person's config file, and touches nothing else in it.

The value is put in place of the old one, character by character where YAML says that it stands, so comments, order and
whatever else the file holds stay as they are. What the file then says is read again before it is written. JSON files
are YAML, too.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from nbhelpers.config import parse_text
from nbhelpers.errors import ConfigError
from nbhelpers.run_folder import write_text


def save_value(file: Path, section: str, key: str, value: str) -> bool:
    """Sets `section.key` in a config file, in its own place or as the first key of its section.

    Args:
        file: YAML or JSON, as it was read.
        section, key: such as "training" and "balance".
        value: a plain word.
    Returns:
        Whether the file had to be changed.
    Raises:
        ConfigError: it cannot be read or written, or not be changed without changing something else.
    """
    is_json = file.suffix == ".json"
    try:
        text = file.read_bytes().decode("utf-8")
        before = parse_text(text.removeprefix("\ufeff"), is_json=is_json)
        if ((before or {}).get(section) or {}).get(key) == value:
            return False
        new = _with_value(text, section, key, value)
        after = parse_text(new.removeprefix("\ufeff"), is_json=is_json)
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        raise _by_hand(file, section, key, value) from None
    if after != {**before, section: {**(before.get(section) or {}), key: value}}:
        raise _by_hand(file, section, key, value)
    write_text(file, new)
    return True


def _with_value(text: str, section: str, key: str, value: str) -> str:
    root: Any = yaml.compose(text, yaml.SafeLoader)
    found = _find(root, section)
    if found is None:
        return _with_section(text, root, section, key, value)
    name, content = found
    if isinstance(content, yaml.ScalarNode):  # an empty section
        end = name.end_mark.index + text[name.end_mark.index :].index(":") + 1
        return f"{text[:end]} {{{key}: {value}}}{text[content.end_mark.index if content.value else end :]}"
    old = _find(content, key)
    if old is not None:
        start, end = old[1].start_mark.index, old[1].end_mark.index
        quote = text[start] if text[start] in "\"'" else ""
        return f"{text[:start]}{quote}{value}{quote}{text[end:]}"
    return _with_first(text, content, f"{key}: {value}", f"{json.dumps(key)}: {json.dumps(value)}")


def _with_first(text: str, mapping: Any, block: str, flow: str) -> str:
    """With an entry before a mapping's first one."""
    start = mapping.start_mark.index
    if mapping.flow_style:
        return f"{text[: start + 1]}{flow}{', ' if mapping.value else ''}{text[start + 1 :]}"
    newline = "\r\n" if "\r\n" in text else "\n"
    return f"{text[:start]}{block}{newline}{' ' * mapping.start_mark.column}{text[start:]}"


def _with_section(text: str, root: Any, section: str, key: str, value: str) -> str:
    if root.flow_style:
        return _with_first(text, root, "", json.dumps({section: {key: value}})[1:-1])
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if text.endswith("\n") else newline
    return f"{text}{gap}{section}:{newline}  {key}: {value}{newline}"


def _find(mapping: Any, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """The nodes of a key and of its value; an alias stands elsewhere, and the check of the result refuses it."""
    return next(((key, value) for key, value in mapping.value if key.value == name), None)


def _by_hand(file: Path, section: str, key: str, value: str) -> ConfigError:
    return ConfigError(f"{file.name} could not be changed. Write {key}: {value} under {section}: in it yourself.")
