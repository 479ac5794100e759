"""The config: Augmentoolkit's as it is, every problem at once, and no secret in anything that is shown."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nbhelpers import config as config_module
from nbhelpers.config import (
    COHERE_URL,
    SECTIONS,
    Config,
    find_file,
    is_literal_key,
    load_config,
    parse_config,
    refuse_literal_keys,
    repository_root,
    secret,
)
from nbhelpers.errors import ConfigError

AUGMENTOOLKIT = Path(__file__).parent / "data" / "augmentoolkit.yaml"
ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "params"
SECRET = "sk-4f9a1c-not-for-your-eyes"
FIELDS = {section: Config.model_fields[section].annotation.model_fields for section in SECTIONS}  # type: ignore[union-attr]


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


# Augmentoolkit's own config


def test_augmentoolkits_config_lacks_only_its_placeholders_and_names_each() -> None:
    lines = load_error(AUGMENTOOLKIT).splitlines()
    assert len(lines) == 3
    for line, key in zip(lines[1:], ["api.large_api_key", "api.small_api_key"], strict=True):
        assert line.strip().startswith(f"{key}: still holds !!PLACEHOLDER!!. Fill in: write ${{NAME}}")


def test_augmentoolkits_config_runs_unchanged_once_filled_in(tmp_path: Path) -> None:
    text = AUGMENTOOLKIT.read_text("utf-8").replace("!!PLACEHOLDER!!", "${LLM_KEY}")
    config = load_config(write(tmp_path, text))
    assert config.api_of("large") == ("meta-llama/Llama-3.3-70B-Instruct", "api", *REMOTE)
    assert config.api_of("small") == ("meta-llama/Llama-3.2-3B-Instruct", "api", *REMOTE)
    assert config.classification.classes == ["recipe", "not a recipe"]
    assert config.classification.desc.startswith('Decide whether a page of a cookery magazine is 0. "recipe" a dish')
    assert config.classification.desc.endswith("anything else the magazine prints.")
    assert config.classification.predict_on_whole_set_at_the_end is True
    assert config.path.input_dir == ROOT / "inputs" / "magazine"
    assert config.path.output_dir == ROOT / "outputs" / "recipes"
    assert config.path.prompts == config.path.default_prompts == ROOT / "prompts_classifier"
    assert not config.path.prompts.exists()  # no error: whoever reads prompts falls back to ours
    system, training = config.system, config.training
    assert (system.chunk_size, system.concurrency_limit, system.required_accuracy) == (900, 50, 0.85)
    assert (system.completion_mode, system.use_stop) == (False, True)
    assert system.stop_rule == "accuracy"  # what the original stops at; our own files say lower_bound
    assert (training.model_path, training.truncation_type) == ("distilbert-base-uncased", "head-tail")
    assert (training.max_iters, training.test_set_size) == (4, 10)
    assert (training.train_set_size, training.train_set_increment) == (50, 30)
    assert config.meta_datagen.do_meta_datagen is False
    assert config.meta_datagen.meta_datagen_keys == ["label_details", "rules_creation_details"]
    assert config.meta_datagen.meta_datagen_extras == []


REMOTE = ("https://llm.example.org/v1/openai", "${LLM_KEY}")


def test_a_placeholder_is_found_in_any_section_in_quotes_and_in_lists() -> None:
    found = problems(content(path__input_dir="!!PLACEHOLDER!!", classification__classes=["a", "!!PLACEHOLDER!!"]))
    assert [line.split(":")[0] for line in found] == ["classification.classes", "path.input_dir"]
    assert all("!!PLACEHOLDER!!. Fill in: " in line for line in found)


def test_null_is_as_good_as_not_given() -> None:
    sections = content(meta_datagen__meta_datagen_keys=None, meta_datagen__meta_datagen_extras=None, system__seed=None)
    config = parse_config({**sections, "cost": None, "training": None, "pipeline": "anything"})
    assert config == parse_config(content())
    assert (config.meta_datagen.meta_datagen_keys, config.meta_datagen.meta_datagen_extras) == ([], [])
    assert (config.system.seed, config.cost.cost_per_million_large_input) == (0, None)


@pytest.mark.parametrize("mode", ["cohere", "Cohere"])
def test_cohere_as_a_mode_names_its_compatible_endpoint(mode: str) -> None:
    assert COHERE_URL == "https://api.cohere.ai/compatibility/v1"
    [line] = problems(content(api__small_mode=mode))
    assert line.startswith(f"api.small_mode: '{mode}': write mode: api with base_url: {COHERE_URL}")


# Problems: the key, the value and the remedy


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("training__max_iter", 3, "no such key. Did you mean max_iters?"),
        ("api__large_modell", "x", "no such key. Did you mean large_model?"),
        ("cost__dollars", 1, "no such key. Known: cost_per_million_large_input, cost_per_million_large_output,"),
        ("system__max_iters", 3, "It belongs in the section training."),
        ("training__chunk_size", 900, "It belongs in the section system."),
        ("classification__do_meta_datagen", True, "It belongs in the section meta_datagen."),
        ("training__max_iters", 0, "0 is not possible. It must be greater than or equal to 1."),
        ("training__max_iters", "3", "'3' is not possible. It must be a valid integer."),
        ("training__test_set_size", 10.5, "10.5 is not possible. It must be a valid integer"),
        ("training__train_set_size", True, "True is not possible. It must be a valid integer."),
        ("training__truncation_type", "tail", "'tail' is not possible. Write one of: head-tail, head."),
        ("training__test_labeler", "human", "'human' is not possible. Write one of: large, small."),
        ("system__stop_rule", "best", "'best' is not possible. Write one of: accuracy, lower_bound."),
        ("system__required_accuracy", 90, "90 is not possible. It must be less than or equal to 1."),
        ("system__required_accuracy", float("nan"), "nan is not possible. It must be a finite number."),
        ("system__use_stop", "True", "'True' is not possible. It must be a valid boolean."),
        ("system__seed", -1, "-1 is not possible. It must be greater than or equal to 0."),
        ("cost__cost_per_million_small_input", float("inf"), "inf is not possible. It must be a finite number."),
        ("cost__cost_per_million_small_input", -0.1, "-0.1 is not possible. It must be greater than or equal to 0."),
        ("api__large_mode", "aphrodite", "'aphrodite' is not possible. Write one of: api, local."),
        ("api__large_base_url", "api.example.org/v1", "'api.example.org/v1': write a full address, such as https://"),
        ("api__large_base_url", "http://[::1/v1", "'http://[::1/v1': write a full address, such as https://"),
        (
            "path__output_dir",
            "~nobody_here/runs",
            "'~nobody_here/runs': ~nobody_here is no home folder here: write ~/ ",
        ),
        ("api__large_model", None, "missing. Give name of the LLM that writes the rules and labels the test set."),
        ("classification__desc", "", "'' is not possible. It must have at least 1 character."),
        ("path__input_dir", None, "missing. Give folder of texts"),
        ("path__output_dir", " ", "' ': write a path, in quotes."),
        ("path__prompts", 2024, "2024: write a path, in quotes."),
        (
            "meta_datagen__meta_datagen_keys",
            ["labels"],
            "'labels' is not possible. Write one of: label_details, rules_",
        ),
        ("classification__classes", "spam", "'spam': write a list of class names, such as ['spam', 'not spam']."),
        ("classification__classes", [], "[]: a classifier needs at least two classes"),
        ("classification__classes", ["spam"], "['spam']: a classifier needs at least two classes: add a second one"),
        ("classification__classes", ["Spam", "ham", "SPAM "], "classes that differ only in case or spaces: spam; name"),
        ("classification__classes", ["Straße", "STRASSE"], "classes that differ only in case or spaces: strasse; name"),
        (
            "classification__classes",
            [True, False],
            "[True, False]: YAML reads yes, no, on and off as true or false: put",
        ),
        ("classification__classes", [1, 2], "[1, 2]: the class 1 is not a text: put class names in quotes."),
        ("classification__classes", ["a", None], "the class None is not a text: put class names in quotes."),
        ("classification__classes", ["a", " "], "the class ' ' is blank or spans lines: give it a name on one line."),
        ("classification__classes", ["a", "b\nc"], "the class 'b\\nc' is blank or spans lines"),
    ],
)
def test_a_problem_names_its_key_its_value_and_the_remedy(key: str, value: object, said: str) -> None:
    [line] = problems(content(**{key: value}))
    name = key.replace("__", ".")
    assert line.startswith(f"{name}: ")
    assert said in line


@pytest.mark.parametrize("words", ["yes, no", "on, off", "Yes, No"])
def test_classes_that_yaml_reads_as_booleans_must_be_quoted(tmp_path: Path, words: str) -> None:
    text = yaml.safe_dump({**content(), "classification": {"desc": "d"}})
    assert "put class names in quotes" in load_error(write(tmp_path, text.replace("desc: d", f"classes: [{words}]")))
    first, second = words.split(", ")
    quoted = text.replace("desc: d", f"desc: d\n  classes: ['{first}', \"{second}\"]")
    assert load_config(write(tmp_path, quoted)).classification.classes == [first, second]


def test_all_problems_are_reported_at_once() -> None:
    sections = content(
        api__large_mode="cohere",
        classification__classes=["one"],
        path__input_dir=None,
        system__chunk_sise=900,
        system__seed="x",
        training__max_iters=0,
        cost__budget=3,
    )
    sections["extra"] = {}
    sections["meta_datagen"] = True
    found = problems(sections, overrides=["nonsense"], name="my.yaml")
    assert [line.split(":")[0] for line in found] == [
        "--set nonsense",
        "system.chunk_sise",
        "cost.budget",
        "extra",
        "meta_datagen",
        "api.large_mode",
        "classification.classes",
        "path.input_dir",
        "system.seed",
        "training.max_iters",
    ]
    assert error(sections, name="my.yaml").startswith("my.yaml has 9 problems:\n")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("trainning", "no such section. Did you mean training?"),
        ("API", "no such section. Did you mean api?"),
        (
            "xyzzy",
            "no such section. Known: api, classification, path, system, training, labeling, rules, cost, meta_datagen.",
        ),
        (1, "no such section. Known: api,"),
        (None, "no such section. Known: api,"),
    ],
)
def test_an_unknown_section_names_the_nearest(section: object, said: str) -> None:
    [line] = problems({**content(), section: {}})  # type: ignore[dict-item]
    assert line.startswith(f"{section}: {said}")


def test_a_section_that_is_no_mapping_is_named_with_its_value() -> None:
    assert "system: [900] is not a section. Indent its keys below it." in problems({**content(), "system": [900]})


def test_missing_sections_are_reported_by_their_required_keys() -> None:
    assert [line.split(":")[0] for line in problems({})] == [
        "api.large_model",
        "api.small_model",
        "classification.classes",
        "classification.desc",
        "path.input_dir",
        "path.output_dir",
    ]


names = st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), min_size=1, max_size=12).map(str.strip)


@given(
    st.lists(
        names.filter(bool),
        min_size=2,
        max_size=25,
        unique_by=lambda n: unicodedata.normalize("NFKC", n).casefold().strip(),
    )
)
def test_class_names_of_any_kind_are_kept_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, classes: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("classes")
    sections = content(classification__classes=classes)
    as_yaml = write(folder, yaml.safe_dump(sections, allow_unicode=True))
    as_json = write(folder, json.dumps(sections), "config.json")
    assert load_config(as_yaml).classification.classes == load_config(as_json).classification.classes == classes


# Files


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    sections = content(system__required_accuracy=1, system__seed=7, cost__cost_per_million_large_input=0)
    as_json = load_config(write(tmp_path, json.dumps(sections), "c.json"))
    assert as_json == load_config(write(tmp_path, yaml.safe_dump(sections))) == parse_config(sections)
    assert (as_json.system.required_accuracy, as_json.system.seed) == (1.0, 7)


@pytest.mark.parametrize("name", ["c.yaml", "c.json"])
def test_a_byte_order_mark_is_no_part_of_the_config(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, json.dumps(content(system__seed=3)), name, "utf-8-sig")
    assert load_config(file).system.seed == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("system:\n  seed: 1\n  chunk_size: 900\n  seed: 2\n", "the key seed stands twice (line 4, column 3)."),
        ("system: {}\npath: {}\nsystem: {}\n", "the key system stands twice (line 3, column 1)."),
        ("system:\n  seed: [1\n", "expected ',' or ']', but got '<stream end>' (line 3, column 1)."),
        ("system:\n\tseed: 1\n", "(line 2, column 1)."),
        ("system:\n  seed: 2026-13-01\n", "month must be in 1..12."),
        ("seed: " + "[" * 5000, "recursion"),
    ],
)
def test_malformed_yaml_says_what_is_wrong_and_where(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text)
    message = load_error(file)
    assert message.startswith(f"{file} could not be read as a config: ")
    assert said in message
    assert "\n" not in message


def test_malformed_json_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    assert "line 2 column 1" in load_error(write(tmp_path, '{"system": {},\n}', "c.json"))


def test_a_file_in_another_encoding_is_an_error_of_its_own(tmp_path: Path) -> None:
    assert "could not be read as a config" in load_error(write(tmp_path, "system: {}", encoding="utf-16"))


@pytest.mark.parametrize("text", ["", "\n# nothing but a comment\n", "- a\n- list\n", "just a sentence"])
def test_a_file_without_sections_names_the_template(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    assert load_error(file) == f"{file} holds no sections. Start from params/template.yaml."


def test_a_missing_file_and_a_folder_are_no_config(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        assert load_error(path).startswith(f"config file not found: {path}. Give the path of a YAML file")


def test_a_file_is_sought_from_the_working_directory_then_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file("params/demo.yaml") == PARAMS / "demo.yaml"
    (tmp_path / "params").mkdir()
    own = write(tmp_path / "params", "x: 1", "demo.yaml")
    assert find_file("params/demo.yaml") == own.resolve()


def test_relative_paths_start_at_the_repositorys_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse_config(
        content(path__input_dir="./a/b", path__output_dir=str(tmp_path / "out"), classification__rules_file="r.md")
    )
    assert repository_root() == ROOT
    assert config.path.input_dir == ROOT / "a" / "b"
    assert config.path.output_dir == tmp_path / "out"
    assert config.classification.rules_file == ROOT / "r.md"
    assert config.path.truth is None


def test_without_a_checkout_relative_paths_start_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, "_PACKAGE_PARENT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert parse_config(content()).path.input_dir == tmp_path / "texts"


# Overrides


def test_overrides_win_over_the_file_and_leave_it_alone(tmp_path: Path) -> None:
    sections = content(training__max_iters=4, training__train_set_size=50)
    overrides = [
        "training.max_iters=2",
        "system.required_accuracy=0.7",
        "classification.classes=['a, b', 'c=d']",
        "path.output_dir=runs/try",
        "classification.desc=x=y",
        "api.large_api_key=${OTHER_KEY}",
        "cost.cost_per_million_large_input=null",
        "training.max_iters=3",
    ]
    config = load_config(write(tmp_path, yaml.safe_dump(sections)), overrides=overrides)
    assert config == parse_config(sections, overrides=overrides)
    assert (config.training.max_iters, config.training.train_set_size) == (3, 50)
    assert config.system.required_accuracy == 0.7
    assert config.classification.classes == ["a, b", "c=d"]
    assert config.classification.desc == "x=y"
    assert config.path.output_dir == ROOT / "runs" / "try"
    assert config.api.large_api_key == "${OTHER_KEY}"
    assert sections == content(training__max_iters=4, training__train_set_size=50)


def test_one_override_need_not_be_a_list() -> None:
    assert parse_config(content(), overrides="training.max_iters=3").training.max_iters == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("max_iters=3", "--set max_iters: write section.key=value, such as training.max_iters=3"),
        ("training.max_iters 3", "--set training.max_iters: write section.key=value"),
        ("training.max_iters: 3", "--set training.max_iters: write section.key=value"),
        ("", "--set : write section.key=value"),
        ("training.max_iters=[", "training.max_iters: '[' is not YAML. Put texts with special characters in quotes."),
        ("system.seed=2026-13-01", "system.seed: '2026-13-01' is not YAML."),
        ("training.max_iter=3", "training.max_iter: no such key. Did you mean max_iters?"),
        ("trainings.max_iters=3", "trainings: no such section. Did you mean training?"),
        ("training.max_iters=three", "training.max_iters: 'three' is not possible. It must be a valid integer."),
        ("classification.classes=yes", "classification.classes: True: write a list of class names"),
    ],
)
def test_a_bad_override_is_a_problem_like_any_other(override: str, said: str) -> None:
    [line] = problems(content(), overrides=[override])
    assert line.startswith(said)


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
