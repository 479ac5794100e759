"""The five notebooks in JupyterLab: every cell runs, and the browser's console stays quiet."""

from collections.abc import Callable
from pathlib import Path

from cases import Case
from chat_server import ChatServer
from jupyter_lab import OpenNotebook

NAMES = ["01_ingest", "02_rules", "03_test_labels", "04_train", "05_predict"]


def test_all_notebooks_run_in_jupyterlab(
    open_notebook: Callable[..., OpenNotebook], case: Case, server: ChatServer, config: Path
) -> None:
    for name in NAMES:
        notebook = open_notebook(name, config).run_all()
        notebook.screenshot(name)
        notebook.close()
    assert case.report["status"] == "target_reached"
    assert server.asked_twice == []
