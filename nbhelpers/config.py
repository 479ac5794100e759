"""The config as typed and frozen settings. Files and other sources are read by `config_file`.

Sections and names are those of Augmentoolkit's classifier_creator; new keys have defaults. A secret is only ever a
reference such as ``${OPENAI_API_KEY}``, read when it is used; a key written out in a config file works, but is shown
nowhere. Pure, but for the environment in `secret` and home folders in paths.
"""

import os
import re
import typing
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from nbhelpers.errors import ConfigError

_PACKAGE_PARENT = Path(__file__).resolve().parent.parent
ENV_REFERENCE = re.compile(r"\$\{(\w+)\}")
SECRET_IN_URL = re.compile(r"//\S*@|\?")  # a password, or a query, which may hold a key
NEARLY_A_REFERENCE = re.compile(r"\$.*|\{.*\}|%\w+%|(?!YOUR)[A-Z][A-Z0-9_]*_KEY")
# What people write where a server wants no key. Anything else that is not ${NAME} counts as a secret.
NO_KEYS = {"", "none", "null", "no", "na", "n/a", "-", "x", "empty", "local", "ollama", "not-needed", "dummy", "test"}
COHERE_URL = "https://api.cohere.ai/compatibility/v1"
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
    path = at_home(Path(value))
    return path if path.is_absolute() else repository_root() / path


def at_home(path: Path) -> Path:
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

    @field_validator("large_api_key", "small_api_key", mode="before")
    @classmethod
    def _check_key(cls, value: object) -> object:
        key = value.strip() if isinstance(value, str) else ""
        is_nearly = NEARLY_A_REFERENCE.fullmatch(key) and not ENV_REFERENCE.fullmatch(key)
        if is_nearly or isinstance(value, dict):  # {NAME} in YAML, without quotes
            raise ValueError("write ${NAME}, where NAME is the environment variable that holds the key")
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


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
