"""The config as typed and frozen settings, no secret in anything that is shown, and the files in params."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from configs_made import SECRET, content, error, load_error, problems, write
from pydantic import ValidationError

from nbhelpers.config import (
    SECTIONS,
    Config,
    is_literal_key,
    refuse_literal_keys,
    secret,
)
from nbhelpers.config_file import find_file, load_config, parse_config
from nbhelpers.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "params"
FIELDS = {section: Config.model_fields[section].annotation.model_fields for section in SECTIONS}  # type: ignore[union-attr]


# Secrets


@pytest.mark.parametrize(
    "override",
    [
        f"api.large_api_key={SECRET}",
        f"api.small_api_key='{SECRET}'",
        f"large_api_key={SECRET}",
        f"api.large_api_key: {SECRET}",
        f"api.large_api_key {SECRET}",
        f"apis.large_api_key={SECRET}",
        f"api.large_api_keys={SECRET}",
        f"api.large_base_url=https://me:{SECRET}@example.org/v1",
        f"api.small_base_url='https://{SECRET}@example.org/v1'",
        f"api.small_base_url=https://me:p/{SECRET}@example.org/v1",
        f"api.small_base_url=https://example.org/v1?key={SECRET}",
        f"apis.large_base_url=https://me:{SECRET}@example.org/v1",
    ],
)
def test_a_key_on_the_command_line_is_refused_and_not_echoed(override: str) -> None:
    assert SECRET not in error(content(), overrides=[override])


def test_a_refused_key_names_the_remedy() -> None:
    [line] = problems(content(), overrides=[f"api.large_api_key={SECRET}"])
    assert line.startswith("api.large_api_key: a key on the command line is seen by others. Write '${NAME}' in quotes.")


def test_a_refused_address_names_the_remedy() -> None:
    [line] = problems(content(), overrides=["api.large_base_url=https://me:pw@example.org/v1"])
    assert line.startswith("api.large_base_url: an address with a password or a query is seen by others. Write it into")
    plain = "http://localhost:11434/v1"
    assert parse_config(content(), overrides=[f"api.large_base_url={plain}"]).api.large_base_url == plain


@pytest.mark.parametrize(
    "text",
    [
        f"api:\n  large_api_key: {SECRET}: x\n",  # YAML's own message would quote the line
        f"api:\n  large_api_key: [{SECRET}\n",
        f"api:\n  large_api_key: {SECRET}\n  large_api_key: {SECRET}\n",
        f"api:\n  large_api_key: '{SECRET}\n",
        f"api: {SECRET}\n",
        f"api: [large_api_key: {SECRET}]\n",
        f"api:\n  large_api_key: [{SECRET}]\n",
        f"api:\n  large_api_key: {{key: {SECRET}}}\n",
        f"api:\n  large_apikey: {SECRET}\n",
        f"system:\n  large_api_key: {SECRET}\n",
        f"api:\n  large_base_url: 'ftp://me:{SECRET}@example.org'\n",
        f"api:\n  large_base_url: 'me:{SECRET}@example.org/v1'\n",
        f"api:\n  large_api_key: {SECRET}\n  large_model: 3\n",
    ],
)
def test_no_message_holds_a_key(tmp_path: Path, text: str) -> None:
    assert SECRET not in load_error(write(tmp_path, text))


def test_a_key_in_the_file_works_but_is_shown_nowhere(tmp_path: Path) -> None:
    sections = content(
        api__large_api_key=SECRET,
        api__small_api_key="${SMALL_KEY}",
        api__small_base_url=f"https://me:{SECRET}@example.org/v1?key={SECRET}",
    )
    config = load_config(write(tmp_path, yaml.safe_dump(sections)))
    for shown in (config, config.api, config.api_of("large"), config.api_of("small"), config.public()):
        assert SECRET not in repr(shown)
        assert SECRET not in f"{shown}"
    assert config.public()["api"]["large_api_key"] == "(hidden)"
    assert config.public()["api"]["small_api_key"] == "${SMALL_KEY}"
    assert config.public()["api"]["small_base_url"] == "https://example.org/v1"
    assert secret(config.api_of("large").api_key, key="api.large_api_key") == SECRET
    assert SECRET in config.api_of("small").base_url  # it is used, if not shown


def test_the_public_config_is_plain_values_and_complete() -> None:
    config = parse_config(content(path__truth="t.csv"))
    public = json.loads(json.dumps(config.public(), allow_nan=False))
    assert {section: set(values) for section, values in public.items()} == {s: set(FIELDS[s]) for s in SECTIONS}
    assert public["path"]["truth"] == str(ROOT / "t.csv")
    assert public["training"]["max_iters"] == 5
    assert public["api"]["large_api_key"] == ""


def test_a_reference_is_read_from_the_environment_when_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBHELPERS_TEST_KEY", raising=False)
    config = parse_config(content(api__large_api_key="${NBHELPERS_TEST_KEY}"))
    with pytest.raises(ConfigError) as raised:
        secret(config.api.large_api_key, key="api.large_api_key")
    assert str(raised.value) == (
        "api.large_api_key is ${NBHELPERS_TEST_KEY}, but the environment variable NBHELPERS_TEST_KEY is not set. "
        "Set it (export NBHELPERS_TEST_KEY=...) and start again."
    )
    monkeypatch.setenv("NBHELPERS_TEST_KEY", f" {SECRET}\n")
    assert secret(config.api.large_api_key, key="api.large_api_key") == SECRET
    assert SECRET not in f"{config!r} {config.public()}"
    monkeypatch.setenv("NBHELPERS_TEST_KEY", " ")
    with pytest.raises(ConfigError, match="is not set"):
        secret(config.api.large_api_key, key="api.large_api_key")


@pytest.mark.parametrize(
    "value",
    [
        "$MY_KEY",
        "${MY_KEY:-x}",
        "${env:MY_KEY}",
        "$(cat key)",
        "{{MY_KEY}}",
        "%MY_KEY%",
        "OPENAI_API_KEY",
        {"MY_KEY": None},
    ],
)
def test_what_is_nearly_a_reference_is_not_taken_for_a_key(value: object) -> None:
    [line] = problems(content(api__small_api_key=value))
    assert line.startswith("api.small_api_key: (hidden): write ${NAME}, where NAME is the environment variable")


@pytest.mark.parametrize("value", ["sk-abc_KEY", "YOUR_API_KEY", "EMPTY", "a$b", "", "${MY_KEY}"])
def test_what_may_be_a_key_is_one(value: str) -> None:
    assert parse_config(content(api__small_api_key=value)).api.small_api_key == value


@pytest.mark.parametrize("value", ["", " ", "none", "NULL", "not-needed", "ollama", "EMPTY"])
def test_words_for_no_key_are_no_key(value: str) -> None:
    assert not is_literal_key(value)
    assert secret(value, key="api.large_api_key") == ""
    refuse_literal_keys({"api": {"large_api_key": value}})


@pytest.mark.parametrize("name", ["large_api_key", "small_api_key"])
@pytest.mark.parametrize("value", [SECRET, f"Bearer {SECRET}", "${NAME} ", "$NAME", "${NAME}x", f"${{NAME}}{SECRET}"])
def test_only_references_may_be_passed_as_parameters(name: str, value: str) -> None:
    if value.strip() == "${NAME}":
        refuse_literal_keys({"api": {name: value}})
        return
    with pytest.raises(ConfigError) as raised:
        refuse_literal_keys({"api": {name: value}, "system": {}})
    assert str(raised.value).startswith(f"api.{name} is written out, ")
    assert "Write ${NAME}" in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("name", ["large_base_url", "small_base_url"])
@pytest.mark.parametrize("url", [f"https://me:{SECRET}@example.org/v1", f"https://example.org/v1?key={SECRET}"])
def test_no_address_with_a_secret_may_be_passed_as_a_parameter(name: str, url: str) -> None:
    with pytest.raises(ConfigError, match=rf"^api\.{name} holds a password or a query, .* config_path") as raised:
        refuse_literal_keys({"api": {name: url}})
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"api": None},
        {"api": {}},
        {"api": {"large_model": SECRET}},
        {"api": {"large_base_url": "https://example.org:443/v1", "small_base_url": None}},
        {"api": "x"},
    ],
)
def test_parameters_without_keys_hold_nothing_to_refuse(sections: dict[str, Any]) -> None:
    refuse_literal_keys(sections)


# The typed config


def test_the_config_is_frozen() -> None:
    config = parse_config(content())
    with pytest.raises(ValidationError, match="frozen"):
        config.system.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.system = config.system


def test_a_price_that_is_not_given_is_unknown_and_a_local_model_is_free() -> None:
    config = parse_config(content(cost__cost_per_million_large_input=2.5, api__small_mode="local"))
    assert config.price_of("large") == (2.5, None)
    assert config.price_of("small") == (0.0, 0.0)


def test_a_base_url_loses_its_last_slash() -> None:
    assert (
        parse_config(content(api__large_base_url="http://localhost:1/v1/")).api.large_base_url
        == "http://localhost:1/v1"
    )


# The files in params


def test_a_config_in_no_ones_home_folder_is_one_sentence() -> None:
    with pytest.raises(
        ConfigError, match=r"config file not found: ~nobody_here/x\.yaml: ~nobody_here is no home folder"
    ):
        find_file("~nobody_here/x.yaml")


def template_keys() -> dict[tuple[str, str], str]:
    """(section, key) -> the comment above it, of params/template.yaml, in its order."""
    found: dict[tuple[str, str], str] = {}
    section, comment = "", ""
    for line in (PARAMS / "template.yaml").read_text("utf-8").splitlines():
        if match := re.match(r"(\w+):", line):
            section = match[1]
        elif match := re.match(r"  # (.*)", line):
            comment = match[1]
        elif match := re.match(r"  (\w+):", line):
            found[section, match[1]] = comment
            comment = ""
    return found


def test_the_template_explains_every_key_of_every_section_in_the_models_words() -> None:
    known = {(section, key): field for section in SECTIONS for key, field in FIELDS[section].items()}
    comments = template_keys()
    assert list(comments) == sorted(comments, key=lambda place: SECTIONS.index(place[0]))
    assert set(comments) == set(known)
    for place, comment in comments.items():
        plain = re.sub(r" \(required\)$| \(the default is \w+\)|; the default is \w+", "", comment)
        assert plain == known[place].description, place
        assert comment.endswith("(required)") == known[place].is_required(), place


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 0.1),
        ({"api__small_model": "big"}, 0),
        ({"api__small_model": "big", "api__small_mode": "local"}, 0.1),
        ({"training__test_labeler": "small"}, 0),
        ({"labeling__cascade": 0}, 0),
        ({"labeling__cascade": 0.25, "training__test_labeler": "small"}, 0.25),
    ],
)
def test_the_cascade_is_on_where_the_large_llm_is_another_and_labels_the_test_set(
    changes: dict[str, Any], share: float
) -> None:
    config = parse_config(content(**changes))
    assert config.cascade_share == share
    assert ("large" in config.train_labelers) == (share > 0)


@pytest.mark.parametrize("value", ["0.3", "always", -0.1, 1.5, True, [0.1]])
def test_a_cascade_that_is_no_share_is_an_error(value: object) -> None:
    with pytest.raises(ConfigError, match=r"labeling.cascade: .*write auto, or a share from 0 to 1, such as 0.25"):
        parse_config(content(labeling__cascade=value))


def test_the_templates_values_are_the_defaults_unless_its_comment_says_otherwise() -> None:
    values = load_config(PARAMS / "template.yaml").model_dump()
    for (section, key), comment in template_keys().items():
        default = FIELDS[section][key].get_default(call_default_factory=True)
        if other := re.search(r"the default is (\w+)", comment):
            assert values[section][key] != default
            assert other[1] == (default or "empty")
        elif not comment.endswith("(required)"):
            assert values[section][key] == default, (section, key)


@pytest.mark.parametrize("name", ["demo", "openai", "ollama"])
def test_our_own_configs_load_and_stop_at_the_lower_bound(name: str) -> None:
    config = load_config(PARAMS / f"{name}.yaml")
    assert config.system.stop_rule == "lower_bound"
    assert config.path.input_dir.is_dir()
    assert config.path.truth is not None
    assert config.path.truth.is_file()
    assert config.path.output_dir == ROOT / "runs" / name
    assert config.classification.classes == ["food", "sport", "technology", "health"]
    assert not any(is_literal_key(config.api_of(size).api_key) for size in ("large", "small"))


def test_the_demo_needs_no_endpoint_and_brings_its_rules() -> None:
    config = load_config(PARAMS / "demo.yaml")
    assert (config.api.large_mode, config.api.small_mode) == ("local", "local")
    assert config.classification.rules_file is not None
    assert config.classification.rules_file.is_file()
