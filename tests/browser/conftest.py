"""Fixtures of the browser tests: Chromium, JupyterLab, pages that are watched for errors, and a config to run.

An error in a page's console fails the test that opened the page.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import PRICES, Case
from chat_server import ChatServer
from jupyter_lab import Lab, OpenNotebook, find_browser
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

NewPage = Callable[..., Page]
OpenIt = Callable[..., OpenNotebook]
# Notebook 7.6.5's own: of any notebook, and where JupyterLab was used on the same server before.
OF_NOTEBOOK_7 = (
    "Cannot read properties of undefined (reading 'schema')",
    "Command 'filebrowser:open-path' not registered.",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    try:
        found = find_browser()
    except LookupError as error:
        pytest.fail(str(error), pytrace=False)
    with sync_playwright() as playwright:
        # Chromium's own sandbox cannot start as root, which is who runs in a container; only our own pages are opened.
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture
def new_page(browser: Browser) -> Iterator[NewPage]:
    """`new_page(width=1280, height=900, dark=False, offline=False)`."""
    contexts, errors = [], []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(f"{message.text} ({message.location.get('url', '')})")

    def make(*, width: int = 1280, height: int = 900, dark: bool = False, offline: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", offline=offline
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    yield make
    for context in contexts:
        context.close()
    assert [error for error in errors if error not in OF_NOTEBOOK_7] == []


@pytest.fixture
def open_notebook(lab: Lab, new_page: NewPage) -> Iterator[OpenIt]:
    """`open_notebook("04_train", config, view="lab", dark=True)`: the notebook in a page of its own, not run yet."""
    notebooks = []

    def opened(
        name: str, config: Path, *, overrides: list[str] | None = None, view: str = "lab", **page: Any
    ) -> OpenNotebook:
        notebooks.append(OpenNotebook(new_page(**page), lab, name, config, overrides=overrides, view=view))
        return notebooks[-1]

    yield opened
    for notebook in notebooks:
        notebook.close()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """200 texts of two classes, which a tiny model tells apart; 60 of them are the rarer class."""
    return Case(tmp_path / "case", ["not spam", "spam"], [140, 60])


@pytest.fixture
def server(case: Case) -> Iterator[ChatServer]:
    """The LLMs of `case`; write its config with `case.write(server.url)`."""
    with ChatServer(case.answer, models=["large", "small"]) as running:
        yield running


@pytest.fixture
def config(case: Case, server: ChatServer) -> Path:
    """The config of `case`, whose LLMs need no key and have a price."""
    return case.write(server.url, api={"large_api_key": None, "small_api_key": None}, cost=PRICES)
