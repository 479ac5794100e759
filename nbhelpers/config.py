"""The config: a YAML or JSON file, or the sections that papermill passes, as typed and frozen settings.

Sections and names are those of Augmentoolkit's classifier_creator, so its config runs as it is; new keys have
defaults. Every problem is reported at once, each with its key, its value and the remedy. A secret is only ever a
reference such as ``${OPENAI_API_KEY}``, read when it is used; a key written out in a config file works, but is shown
nowhere. This module reads one file and, in `secret`, the environment; it creates nothing.
"""

import difflib
import json
import os
import re
import types
import typing
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from nbhelpers.errors import ConfigError

_PACKAGE_PARENT = Path(__file__).resolve().parent.parent
ENV_REFERENCE = re.compile(r"\$\{(\w+)\}")
SECRET_IN_URL = re.compile(r"//\S*@|\?")  # a password, or a query, which may hold a key
# What people write where a server wants no key. Anything else that is not ${NAME} counts as a secret.
NO_KEYS = {"", "none", "null", "no", "na", "n/a", "-", "x", "empty", "local", "ollama", "not-needed", "dummy", "test"}
COHERE_URL = "https://api.cohere.ai/compatibility/v1"
IGNORED_AT_TOP = {"pipeline"}
CASCADE = 0.1  # `labeling.cascade: auto`; what it brings stands in tests/benchmarks/few_labels.py

Mode = Literal["api", "local"]
Size = Literal["large", "small"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def _to_path(value: object) -> object:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError("write a path, in quotes")
    path = _at_home(Path(value))
    return path if path.is_absolute() else repository_root() / path


def _at_home(path: Path) -> Path:
    """The path with "~" as the home folder it stands for."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path.parts[0]} is no home folder here: write ~/ or a whole path") from None


FilePath = Annotated[Path, BeforeValidator(_to_path)]


class Api(Section):
    large_model: str = Field(description="name of the LLM that writes the rules and labels the test set")
    large_mode: Mode = Field("api", description="api (any OpenAI-compatible endpoint) or local (in this process)")
    large_base_url: str = Field(
        "https://api.openai.com/v1", repr=False, description="endpoint of the large LLM, ends in /v1"
    )
    large_api_key: str = Field(
        "", repr=False, description="write ${NAME}: the key is read from that environment variable"
    )
    small_model: str = Field(description="name of the LLM that labels the batches for training")
    small_mode: Mode = Field("api", description="api (any OpenAI-compatible endpoint) or local (in this process)")
    small_base_url: str = Field(
        "https://api.openai.com/v1", repr=False, description="endpoint of the small LLM, ends in /v1"
    )
    small_api_key: str = Field(
        "", repr=False, description="write ${NAME}: the key is read from that environment variable"
    )

    @field_validator("large_mode", "small_mode", mode="before")
    @classmethod
    def _explain_cohere(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() == "cohere":
            raise ValueError(f"write mode: api with base_url: {COHERE_URL} (Cohere's OpenAI-compatible endpoint)")
        return value

    @field_validator("large_base_url", "small_base_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            host = urlsplit(value).hostname
        except ValueError:  # half an IPv6 address
            host = None
        if not host or not re.match(r"https?://[^/\s]+", value):
            raise ValueError("write a full address, such as https://api.openai.com/v1 or http://localhost:11434/v1")
        return value.rstrip("/")


class Classification(Section):
    classes: list[str] = Field(description="the class names, at least two, each in quotes")
    desc: str = Field(min_length=1, description="one or more sentences that say what to tell apart")
    predict_on_whole_set_at_the_end: bool = Field(True, description="predict a class for every input text (05)")
    rules_file: FilePath | None = Field(None, description="rules you already have (text file): used in place of asking")

    @field_validator("desc")
    @classmethod
    def _check_desc(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("say in a sentence what to tell apart")
        return value

    @field_validator("classes", mode="before")
    @classmethod
    def _check_classes(cls, value: object) -> object:
        if not isinstance(value, list):
            raise ValueError("write a list of class names, such as ['spam', 'not spam']")
        for name in value:
            if isinstance(name, bool):
                raise ValueError("YAML reads yes, no, on and off as true or false: put class names in quotes")
            if not isinstance(name, str):
                raise ValueError(f"the class {name!r} is not a text: put class names in quotes")
            if not name.strip() or "\n" in name:
                raise ValueError(f"the class {name!r} is blank or spans lines: give it a name on one line")
        folded = [unicodedata.normalize("NFKC", name).casefold().strip() for name in value]
        double = sorted({name for name in folded if folded.count(name) > 1})
        if double:
            raise ValueError(f"classes that differ only in case or spaces: {', '.join(double)}; name each one once")
        if len(value) < 2:
            raise ValueError("a classifier needs at least two classes: add a second one, such as 'other'")
        return [name.strip() for name in value]


class Paths(Section):
    input_dir: FilePath = Field(description="folder of texts (.txt .md .pdf .docx .jsonl .csv .html), may be nested")
    output_dir: FilePath = Field(description="folder for everything that is made; a run resumes from it")
    prompts: FilePath | None = Field(
        None, description="folder with your own prompts; what is missing is taken from ours"
    )
    default_prompts: FilePath | None = Field(None, description="a second folder to look for prompts in")
    text_column: str = Field("text", min_length=1, description="key (.jsonl) or column (.csv) that holds the text")
    human_labels: FilePath | None = Field(
        None,
        description="labels you own (.csv: label, and text or source and position; drawn: random or chosen), which "
        "outrank an LLM's",
    )
    truth: FilePath | None = Field(
        None, description="labels you trust (.csv: source, position, label), only ever used to check the result"
    )


class System(Section):
    chunk_size: int = Field(900, ge=20, description="most characters in a chunk")
    concurrency_limit: int = Field(16, ge=1, description="LLM calls at once")
    required_accuracy: float = Field(0.9, gt=0, le=1, description="the target: a share, such as 0.9")
    stop_rule: Literal["accuracy", "lower_bound"] = Field(
        "accuracy", description="what must reach the target: accuracy, or lower_bound, its 95 % lower bound (safer)"
    )
    completion_mode: bool = Field(False, description="ask /completions in place of /chat/completions")
    use_stop: bool = Field(True, description="send stop strings with each call")
    use_subset: bool = Field(False, description="work on a random part of the chunks only")
    subset_size: int = Field(100, ge=1, description="how many chunks, if use_subset")
    seed: int = Field(0, ge=0, description="fixes every random choice")
    engine: Literal["local"] = Field("local", description="where the predictions are made")


class Training(Section):
    model_path: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        min_length=1,
        description="transformer to fine-tune: a Hugging Face id or a folder",
    )
    max_iters: int = Field(5, ge=1, description="most iterations (label, train, evaluate)")
    train_set_size: int = Field(40, ge=2, description="texts labelled for the first iteration")
    train_set_increment: int = Field(40, ge=1, description="texts added by each further iteration")
    test_set_size: int = Field(200, ge=2, description="texts in the sealed test set")
    truncation_type: Literal["head-tail", "head"] = Field(
        "head-tail",
        description="what is kept of a text that cannot be cut: head-tail (both ends) or head (the beginning)",
    )
    selection: Literal["auto", "random"] = Field(
        "auto",
        description="which texts to label next: auto (varied, unsure and rare ones, a fifth at random) or random",
    )
    balance: Literal["auto", "none", "weights"] = Field(
        "auto",
        description="rare classes weigh more: auto (where needed), none (nor are probabilities fitted to the pool) or "
        "weights (always)",
    )
    test_labeler: Size = Field("large", description="the LLM that labels the test set: large or small")


class Labeling(Section):
    answer_form: Literal["auto", "plain"] = Field(
        "auto", description="auto (JSON and log-probabilities where the endpoint takes them) or plain (text only)"
    )
    label_samples: int = Field(
        1,
        ge=1,
        le=50,
        description="answers of the small LLM to each text if it gives no log-probabilities, to see how sure it is",
    )
    cascade: float | Literal["auto"] = Field(
        "auto",
        description="share of the labels, the most doubtful, given by the large LLM; "
        "auto: 0.1 where it differs and labels the test set",
    )
    compare: int = Field(
        40, ge=0, description="test texts that the small LLM labels too, to see how far the two LLMs agree"
    )
    timeout_seconds: float = Field(120, gt=0, description="longest wait for one reply; raise it for slow models")
    patience_seconds: float = Field(
        300, gt=0, description="an endpoint that stops answering is tried for so long, then the run stops (resumable)"
    )

    @field_validator("cascade", mode="before")
    @classmethod
    def _check_cascade(cls, value: object) -> object:
        share = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        if value != "auto" and not share:
            raise ValueError("write auto, or a share from 0 to 1, such as 0.25")
        return value


class RulesSection(Section):
    refine: int = Field(
        0,
        ge=0,
        description="texts, 20 or more, on which to compare the two LLMs' reading of the rules and mend them; 0 is off",
    )

    @field_validator("refine")
    @classmethod
    def _check_refine(cls, value: int) -> int:
        if 0 < value < 20:
            raise ValueError("write 0 (off) or at least 20, as fewer texts show nothing")
        return value


class Cost(Section):
    cost_per_million_large_input: float | None = Field(None, ge=0, description="dollars per million tokens sent")
    cost_per_million_large_output: float | None = Field(None, ge=0, description="dollars per million tokens received")
    cost_per_million_small_input: float | None = Field(None, ge=0, description="dollars per million tokens sent")
    cost_per_million_small_output: float | None = Field(None, ge=0, description="dollars per million tokens received")
    budget_usd: float | None = Field(
        None, ge=0, description="never spend more than this on one output folder, over all its runs; needs the prices"
    )


class MetaDatagen(Section):
    do_meta_datagen: bool = Field(False, description="save the LLM calls as training conversations")
    meta_datagen_keys: list[Literal["label_details", "rules_creation_details"]] = Field(
        default_factory=list, description="which calls: label_details, rules_creation_details"
    )
    meta_datagen_extras: list[str] = Field(
        default_factory=list, description="prompt files (YAML) filled in with each labelled text"
    )


class ApiSettings(typing.NamedTuple):
    """One of the two LLMs."""

    model: str
    mode: str
    base_url: str
    api_key: str

    def __repr__(self) -> str:
        return f"ApiSettings(model={self.model!r}, mode={self.mode!r})"  # no key, no password in an address


class Config(Section):
    api: Api
    classification: Classification
    path: Paths
    system: System = Field(default_factory=lambda: System.model_validate({}))
    training: Training = Field(default_factory=lambda: Training.model_validate({}))
    labeling: Labeling = Field(default_factory=lambda: Labeling.model_validate({}))
    rules: RulesSection = Field(default_factory=lambda: RulesSection.model_validate({}))
    cost: Cost = Field(default_factory=lambda: Cost.model_validate({}))
    meta_datagen: MetaDatagen = Field(default_factory=lambda: MetaDatagen.model_validate({}))

    def api_of(self, size: Size) -> ApiSettings:
        """The model, mode, address and (unresolved) key of the "large" or the "small" LLM."""
        return ApiSettings(*(getattr(self.api, f"{size}_{name}") for name in ApiSettings._fields))

    @property
    def same_llm(self) -> bool:
        """Whether the large and the small LLM are one model, wherever it is asked: its answers are the same."""
        large, small = self.api_of("large"), self.api_of("small")
        return (large.model, large.mode) == (small.model, small.mode)

    def price_of(self, size: Size) -> tuple[float | None, float | None]:
        """Dollars per million tokens (sent, received); None where the price is unknown, 0 for a local model."""
        if self.api_of(size).mode == "local":
            return 0.0, 0.0
        return (
            getattr(self.cost, f"cost_per_million_{size}_input"),
            getattr(self.cost, f"cost_per_million_{size}_output"),
        )

    @property
    def cascade_share(self) -> float:
        """The share of the labels that the large LLM gives in place of the small one, 0 to 1.

        `labeling.cascade: auto` is 0 where the small LLM is the same model, or labels the test set.
        """
        if self.labeling.cascade != "auto":
            return self.labeling.cascade
        better = not self.same_llm and self.training.test_labeler == "large"
        return CASCADE if better else 0.0

    @property
    def train_labelers(self) -> tuple[Size, ...]:
        """The LLMs that label what is trained on."""
        return ("small", "large") if self.cascade_share > 0 else ("small",)

    def public(self) -> dict[str, Any]:
        """The config as plain values, for reports: keys and addresses without their secrets."""
        values: dict[str, Any] = self.model_dump(mode="json")
        for size in ("large", "small"):
            key = values["api"][f"{size}_api_key"]
            values["api"][f"{size}_api_key"] = "(hidden)" if is_literal_key(key) else key
            values["api"][f"{size}_base_url"] = _without_credentials(values["api"][f"{size}_base_url"])
        return values


SECTIONS: tuple[str, ...] = tuple(Config.model_fields)


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
        content = parse_text(text, is_json=file.suffix == ".json")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} could not be read as a config: {_reason(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no sections. Start from params/template.yaml.")
    return parse_config(content, overrides=overrides, name=str(path))


def parse_text(text: str, *, is_json: bool) -> Any:
    """The content of a config file, not checked yet; raises what json or yaml raise."""
    return json.loads(text) if is_json else yaml.load(text, _Loader)


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


def secret(value: str, *, key: str) -> str:
    """Resolves an api_key: `${NAME}` is read from the environment now, a literal key is itself.

    Raises:
        ConfigError: the environment variable is not set.
    """
    reference = ENV_REFERENCE.fullmatch(value.strip())
    if reference is None:
        return "" if value.strip().lower() in NO_KEYS else value.strip()
    found = os.environ.get(reference[1], "").strip()
    if not found:
        raise ConfigError(
            f"{key} is ${{{reference[1]}}}, but the environment variable {reference[1]} is not set. "
            f"Set it (export {reference[1]}=...) and start again."
        )
    return found


def is_literal_key(value: str) -> bool:
    """Whether an api_key is written out, where `${NAME}` belongs."""
    return ENV_REFERENCE.fullmatch(value.strip()) is None and value.strip().lower() not in NO_KEYS


def refuse_literal_keys(sections: Mapping[str, Any]) -> None:
    """Raises a ConfigError where a key is written out in parameters that papermill stores in its output."""
    api = sections.get("api") or {}
    for name in ("large_api_key", "small_api_key"):
        if isinstance(api, Mapping) and isinstance(api.get(name), str) and is_literal_key(api[name]):
            raise ConfigError(
                f"api.{name} is written out, and what is passed as a parameter is stored in the output notebook: "
                "delete that. Write ${NAME}, and put the key into the environment variable NAME."
            )
    for name in ("large_base_url", "small_base_url"):
        if isinstance(api, Mapping) and SECRET_IN_URL.search(str(api.get(name))):
            raise ConfigError(
                f"api.{name} holds a password or a query, and what is passed as a parameter is stored in the output "
                "notebook. Write the address into a config file and pass its config_path instead."
            )


def repository_root() -> Path:
    """Where relative paths start: the checkout that holds the notebooks, else the working directory."""
    return _PACKAGE_PARENT if (_PACKAGE_PARENT / "notebooks").is_dir() else Path.cwd()


def find_file(path: str | Path) -> Path:
    """A file by its path from the working directory or, if it is not there, from the repository's root.

    Raises:
        ConfigError: it is in neither place.
    """
    try:
        given = _at_home(Path(path))
    except ValueError as error:
        raise ConfigError(f"config file not found: {path}: {error}.") from None
    for candidate in (given, repository_root() / given):
        if candidate.is_file():
            return candidate.resolve()
    raise ConfigError(f"config file not found: {path}. Give the path of a YAML file, such as params/demo.yaml.")


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


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
