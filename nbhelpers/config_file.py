"""Reads a config, from a YAML or JSON file or from the sections that papermill passes, and changes one value in a file.

Every problem is reported at once, each with its key, its value and the remedy; none shows a secret. A changed value is
put in place of the old one, character by character where YAML says that it stands, so comments, order and whatever
else the file holds stay as they are; what the file then says is read again before it is written. JSON files are YAML,
too, when they are changed.
"""

import difflib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from nbhelpers.config import (
    ENV_REFERENCE,
    SECRET_IN_URL,
    SECTIONS,
    Config,
    Section,
    at_home,
    is_literal_key,
    repository_root,
)
from nbhelpers.errors import ConfigError
from nbhelpers.run_folder import write_text

IGNORED_AT_TOP = {"pipeline"}


def load_config(path: str | Path, *, overrides: Sequence[str] = ()) -> Config:
    """Reads a config file.

    Args:
        path: YAML or JSON; relative to the working directory or, if it is not there, to the repository's root.
        overrides: "section.key=value" each, the value written as in YAML; they win over the file.
    Raises:
        ConfigError: the file is missing or malformed, or its content has problems (all of them are named).
    """
    file = find_file(path)
    try:
        text = file.read_text("utf-8-sig")
        content = _parse_text(text, is_json=file.suffix == ".json")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} could not be read as a config: {_reason(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no sections. Start from params/template.yaml.")
    return parse_config(content, overrides=overrides, name=str(path))


def parse_config(content: Mapping[str, Any], *, overrides: Sequence[str] = (), name: str = "config") -> Config:
    """Checks sections that were read elsewhere, such as papermill's parameters.

    Args:
        content: section name -> its keys and values; `pipeline` at the top is accepted and ignored.
        overrides: as in `load_config`.
        name: what errors call the source of the sections.
    Raises:
        ConfigError: one message with a line for each problem.
    """
    problems: list[str] = []
    sections = {key: value for key, value in content.items() if key not in IGNORED_AT_TOP}
    for item in [overrides] if isinstance(overrides, str) else overrides:
        _override(sections, item, problems)
    for key, value in list(sections.items()):
        if key not in SECTIONS:
            problems.append(f"{key}: {_unknown(str(key), SECTIONS, 'section')}")
            del sections[key]
        elif value is None:
            sections[key] = {}
        elif not isinstance(value, dict):
            shown = "(hidden)" if key == "api" else repr(value)
            problems.append(f"{key}: {shown} is not a section. Indent its keys below it.")
            sections[key] = {}
        else:
            sections[key] = _checked_section(key, value, problems)
    for key in ("api", "classification", "path"):
        sections.setdefault(key, {})
    reported = {problem.split(":")[0] for problem in problems}
    try:
        config = Config.model_validate(sections)
    except ValidationError as error:
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"][:2])
            if key not in reported:
                problems.append(f"{key}: {_explain(problem)}")
                reported.add(key)
    else:
        unknown = [size for size in ("large", "small") if None in config.price_of(size)]
        if config.cost.budget_usd is not None and unknown:
            keys = [f"cost_per_million_{size}_{way}" for size in unknown for way in ("input", "output")]
            problems.append(f"cost.budget_usd: without prices nobody can keep to it. Fill in {', '.join(keys)}")
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{name} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return config


def find_file(path: str | Path) -> Path:
    """A file by its path from the working directory or, if it is not there, from the repository's root.

    Raises:
        ConfigError: it is in neither place.
    """
    try:
        given = at_home(Path(path))
    except ValueError as error:
        raise ConfigError(f"config file not found: {path}: {error}.") from None
    for candidate in (given, repository_root() / given):
        if candidate.is_file():
            return candidate.resolve()
    raise ConfigError(f"config file not found: {path}. Give the path of a YAML file, such as params/demo.yaml.")


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
        before = _parse_text(text.removeprefix("\ufeff"), is_json=is_json)
        if ((before or {}).get(section) or {}).get(key) == value:
            return False
        new = _with_value(text, section, key, value)
        after = _parse_text(new.removeprefix("\ufeff"), is_json=is_json)
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        raise _by_hand(file, section, key, value) from None
    if after != {**before, section: {**(before.get(section) or {}), key: value}}:
        raise _by_hand(file, section, key, value)
    write_text(file, new)
    return True


def _parse_text(text: str, *, is_json: bool) -> Any:
    """The content of a config file, not checked yet; raises what json or yaml raise."""
    return json.loads(text) if is_json else yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `!!PLACEHOLDER!!`, a tag by YAML's rules, is the text people meant; no key counts twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                mark = node.value[i][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", mark)
        return super().construct_mapping(node, deep)


def _construct_placeholder(loader: _Loader, suffix: str, node: yaml.Node) -> str:
    rest = f" {node.value}" if isinstance(node, yaml.ScalarNode) and node.value else ""
    return f"!!{suffix}{rest}"


_Loader.add_multi_constructor("tag:yaml.org,2002:", _construct_placeholder)
_Loader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix}")


def _override(sections: dict[str, Any], item: str, problems: list[str]) -> None:
    matched = re.fullmatch(r"(\w+)\.(\w+)=(.*)", item, re.DOTALL)
    if matched is None:
        name = re.split(r"[=:\s]", item, maxsplit=1)[0]  # without the value, which may be a secret
        problems.append(f"--set {name}: write section.key=value, such as training.max_iters=3")
        return
    section, key, value = matched.groups()
    if key.endswith("api_key") and is_literal_key(value):
        problems.append(f"{section}.{key}: a key on the command line is seen by others. Write '${{NAME}}' in quotes.")
        return
    if key.endswith("base_url") and SECRET_IN_URL.search(value):
        problems.append(
            f"{section}.{key}: an address with a password or a query is seen by others. Write it into the config file."
        )
        return
    try:
        parsed = value if ENV_REFERENCE.fullmatch(value) else yaml.load(value, _Loader)
    except (ValueError, yaml.YAMLError):
        problems.append(f"{section}.{key}: {value!r} is not YAML. Put texts with special characters in quotes.")
        return
    present = sections.get(section)
    sections[section] = {**(present if isinstance(present, dict) else {}), key: parsed}


def _checked_section(section: str, values: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The section without unknown keys and unfilled placeholders (reported) and without nulls (not given)."""
    fields = _section_model(section).model_fields
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            elsewhere = [other for other in SECTIONS if key in _section_model(other).model_fields]
            hint = (
                f"It belongs in the section {elsewhere[0]}." if elsewhere else _unknown(str(key), list(fields), "key")
            )
            problems.append(f"{section}.{key}: {hint}")
        elif any(
            isinstance(v, str) and "!!PLACEHOLDER!!" in v for v in (value if isinstance(value, list) else [value])
        ):
            problems.append(f"{section}.{key}: still holds !!PLACEHOLDER!!. Fill in: {fields[key].description}.")
        elif value is not None:
            kept[key] = value
    return kept


def _section_model(section: str) -> type[Section]:
    model = Config.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, Section)
    return model


def _reason(error: Exception) -> str:
    """What is wrong with a file, and where; not the line itself, since a key may stand in it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})."
    return f"{' '.join(str(error).split())}."


def _unknown(name: str, known: Sequence[str], kind: str) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"no such {kind}. " + (f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}.")


def _explain(problem: Any) -> str:
    """One line for one of pydantic's errors: the value and the remedy."""
    section, *rest = [str(part) for part in problem["loc"]]
    field = _section_model(section).model_fields.get(rest[0]) if rest and section in SECTIONS else None
    meaning = field.description if field is not None else ""
    if problem["type"] == "missing":
        return f"missing. Give {meaning}." if rest else "missing. Start from params/template.yaml."
    value = repr(problem["input"])
    if rest and rest[0].endswith("api_key"):
        value = "(hidden)"
    elif rest and rest[0].endswith("base_url"):
        value = re.sub(r"[^\s/'\"]*@", "", value)
    if problem["type"] == "value_error":
        return f"{value}: {problem['ctx']['error']}."
    choices = _choices(field.annotation) if field is not None else ()
    wanted = (
        f"Write one of: {', '.join(choices)}"
        if choices
        else re.sub("^(Input|String) should", "It must", problem["msg"])
    )
    return f"{value} is not possible. {wanted}. (Meaning: {meaning}.)"


def _choices(annotation: Any) -> tuple[str, ...]:
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        return tuple(choice for part in typing.get_args(annotation) for choice in _choices(part))
    return ()


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
