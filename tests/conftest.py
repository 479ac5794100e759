"""Fixtures that several test modules use: a config, its run folder and label store, tiny models, quick retries."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from key_words import VOCABULARY
from runs_made import LABELLER, WORDS, WordFits, prepare, texts_of, write_rows
from tiny_models import tiny_bert, tiny_llama

from nbhelpers import chat
from nbhelpers.config import Config
from nbhelpers.config_file import parse_config
from nbhelpers.label_store import LabelStore
from nbhelpers.prompt_files import LABEL_PROMPT, RULES_PROMPT, load_prompt
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder

NO_SERVER = "http://127.0.0.1:9/v1"  # the discard port: nobody answers there
CLASSES = ["sports", "politics", "weather"]
MakeConfig = Callable[..., Config]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow tests first: one worker takes them, the other all the rest."""
    items.sort(key=lambda item: item.path.name != "test_suite.py")


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """`make_config(server.url, system={"seed": 1})`: a config on `tmp_path`, with changes by section."""

    def make(url: str = NO_SERVER, **changes: dict[str, Any]) -> Config:
        sections: dict[str, dict[str, Any]] = {
            "api": {"large_model": "big", "large_base_url": url, "small_model": "little", "small_base_url": url},
            "classification": {"classes": CLASSES, "desc": "Sort the news by what they are about."},
            "path": {"input_dir": str(tmp_path / "texts"), "output_dir": str(tmp_path / "out")},
            "labeling": {"cascade": 0},  # calls are counted
        }
        for section, values in changes.items():
            sections[section] = {**sections.get(section, {}), **values}
        return parse_config(sections)

    return make


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """The run folder of `make_config`'s configs."""
    return RunFolder(tmp_path / "out")


@pytest.fixture
def store(run: RunFolder) -> Iterator[LabelStore]:
    with LabelStore(run.labels) as opened:
        yield opened


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """Labels by the key words of `runs_made`."""
    with ChatServer(LABELLER) as running:
        yield running


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> WordFits:
    """The classifiers that are made; all know their words unless a test changes `blind`."""
    return WordFits().install(monkeypatch)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that fails is asked again at once."""
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture(scope="session")
def tiny_base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder to fine-tune, whose vocabulary holds a few words and every ASCII character."""
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert", ["goal match vote law rain snow sun team minister"])


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model that can read our prompts, and says nothing sensible."""
    import torch

    torch.set_num_threads(1)  # so small a model only waits for a second thread, and long where cores are busy
    ours = [turn["content"] for name in (LABEL_PROMPT, RULES_PROMPT) for turn in load_prompt(name, [])[0]]
    return tiny_llama(tmp_path_factory.mktemp("models") / "llama", ours, max_tokens=2048)


@pytest.fixture
def open_rounds(
    make_config: MakeConfig, server: ChatServer, run: RunFolder, store: LabelStore, tiny_base_model: Path
) -> Callable[..., Rounds]:
    """`open_rounds(balance="none")`: Rounds on one folder of 150 texts, each time as a new kernel opens it."""

    def opened(
        *, cost: dict[str, float] | None = None, labeling: dict[str, Any] | None = None, **training: Any
    ) -> Rounds:
        sizes = {"train_set_size": 20, "train_set_increment": 10, "test_set_size": 40, "max_iters": 2}
        changes = {"model_path": str(tiny_base_model), **sizes, **training}
        sections = {"training": changes, "cost": cost or {}, "labeling": labeling or {}}
        config = make_config(server.url, **sections, system={"required_accuracy": 0.9})
        if not run.test_labels.exists():
            write_rows(config.path.input_dir, texts_of(dict.fromkeys(WORDS, 50)))
            prepare(config, run, store)
        return Rounds(config, run, store)

    return opened


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder that knows the words of `key_words`."""
    return tiny_bert(tmp_path_factory.mktemp("models") / "key_words", VOCABULARY)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from threads, which wait for each other where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
