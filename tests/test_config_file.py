"""Reading a config: Augmentoolkit's as it is, every problem at once; and changing one value, not a character more."""

import json
import unicodedata
from pathlib import Path

import pytest
import yaml
from configs_made import content, error, load_error, problems, write
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers import config as config_module
from nbhelpers.config import COHERE_URL, repository_root
from nbhelpers.config_file import find_file, load_config, parse_config, save_value
from nbhelpers.errors import ConfigError

AUGMENTOOLKIT = Path(__file__).parent / "data" / "augmentoolkit.yaml"
ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "params"


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


# One value changed


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
