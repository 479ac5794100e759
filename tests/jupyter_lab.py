"""JupyterLab and Notebook 7 in a real browser: a server on a free port, and a notebook that a test works as people do.

with Lab(folder) as lab:
    notebook = OpenNotebook(page, lab, "04_train", config)
    notebook.run_all()
    notebook.screenshot("train")
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import nbformat
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from nbhelpers.config import repository_root

ROOT = repository_root()
SCREENSHOTS = ROOT / "runs" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_SECONDS = 180  # a busy machine
NARROW = 560  # pixels: half a laptop's screen
CELL_MS = 240_000  # a cell that imports torch on a busy machine
SETTINGS: dict[str, dict[str, Any]] = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "apputils-extension/themes": {"adaptive-theme": True},  # the theme follows the browser's colour scheme
    "notebook-extension/tracker": {"autoStartDefaultKernel": True},  # without asking which
    "docmanager-extension/plugin": {"autosave": False},
}
OF_TQDM = ".widget-hbox:not(.widget-vbox *)"  # its progress bars, wider than a narrow window; ours stand in a frame
VIEWS = {"lab": "doc/tree", "notebook": "notebooks"}  # one server has both front ends
_HEIGHT = """panel => {
    const cells = [...panel.querySelectorAll('.jp-Notebook .jp-Cell')].map(cell => cell.getBoundingClientRect());
    return cells[cells.length - 1].bottom - cells[0].top;
}"""
_BEGUN = "panel => [...panel.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.textContent.includes('*'))"
_HAVE_RUN = """panel => {
    const prompts = [...panel.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.textContent);
    const failed = panel.querySelector('[data-mime-type="application/vnd.jupyter.error"]') !== null;
    const run = prompts.length > 0 && prompts.every(prompt => /\\d/.test(prompt));
    return (run || failed) && !prompts.some(prompt => prompt.includes('*'));
}"""


def find_browser() -> str:
    """The Chromium on the path.

    Raises:
        LookupError: there is none; says how to get one.
    """
    for name in BROWSERS:
        path = shutil.which(name)
        if path is not None:
            return path
    raise LookupError(
        f"None of {', '.join(BROWSERS)} is on the PATH. Debian and Ubuntu: sudo apt-get install chromium. "
        "macOS: brew install --cask chromium. Then run make test-browser again."
    )


class Lab:
    """A Jupyter server over `folder` while the `with` block runs, with JupyterLab and Notebook 7.

    Its settings, workspaces and kernels' files are in the folder too, so that nothing of the person's own is used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(16)
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir(parents=True)
        for name, settings in SETTINGS.items():
            file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings), "utf-8")

    def __enter__(self) -> Self:
        home = {
            name: str(self.folder / name.lower())
            for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        }
        home |= {f"JUPYTERLAB_{name.upper()}_DIR": str(self.folder / name) for name in ("settings", "workspaces")}
        environment = {**os.environ, **home, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
        command += ["--ServerApp.port=0", f"--IdentityProvider.token={self.token}"]
        command += [f"--ServerApp.root_dir={self.notebooks}"]
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            self.url = self._wait()
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()  # ends the kernels, too
        self.process.wait(timeout=START_SECONDS)

    def sessions(self, file: Path) -> list[dict[str, Any]]:
        """What the server's REST API says of the kernels of a notebook."""
        found = json.loads(self._ask("GET", "api/sessions"))
        return [session for session in found if session["path"] == file.name]

    def end(self, file: Path) -> None:
        """Shuts the kernels of a notebook down."""
        for session in self.sessions(file):
            self._ask("DELETE", f"api/sessions/{session['id']}")

    def _ask(self, method: str, path: str) -> bytes:
        asked = urllib.request.Request(
            f"{self.url}{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            content: bytes = answer.read()
        return content

    def _wait(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            for file in (self.folder / "jupyter_runtime_dir").glob("jpserver-*.json"):
                return str(json.loads(file.read_text("utf-8"))["url"])  # written once it listens
            time.sleep(0.1)
        log = (self.folder / "server.log").read_text("utf-8")
        raise RuntimeError(f"JupyterLab did not start in {START_SECONDS} s:\n{log}")


class OpenNotebook:
    """One of our notebooks in a page of its own, with `config_path` (and `overrides`) set as a person sets them.

    Args:
        page: a new page.
        lab: the server.
        name: such as "04_train".
        config: the config's file.
        overrides: the notebook's `overrides`.
        view: "lab" for JupyterLab, "notebook" for Notebook 7.
    """

    def __init__(
        self, page: Page, lab: Lab, name: str, config: Path, *, overrides: list[str] | None = None, view: str = "lab"
    ) -> None:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        parameters.source = parameters.source.replace('"params/demo.yaml"', json.dumps(str(config)))
        parameters.source = parameters.source.replace("overrides: list = []", f"overrides: list = {overrides or []!r}")
        file = f"{name}_{secrets.token_hex(3)}.ipynb"
        nbformat.write(notebook, lab.notebooks / file)
        self.page, self.name, self.file = page, name, lab.notebooks / file
        page.goto(f"{lab.url}{VIEWS[view]}/{file}?token={lab.token}")
        self.panel = page.locator(".jp-NotebookPanel").first
        self.lab = lab
        self._wait_for_kernel()

    def run_all(self) -> Self:
        """Runs all cells from the menu, waits until they have run, and checks that none failed."""
        self.menu("Run", "Run All Cells")
        self.page.wait_for_function(_BEGUN, arg=self.panel.element_handle(), timeout=CELL_MS)
        return self.wait()

    def run_to(self, source: str) -> Self:
        """Runs the cells down to the one in which `source` stands, and checks that none failed."""
        cell = self.cell(source)
        cell.locator(".jp-InputPrompt").first.click()
        self.menu("Run", "Run All Above Selected Cell")
        self.page.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-InputPrompt").first).to_have_text(re.compile(r"\d"), timeout=CELL_MS)
        assert self.errors() == []
        return self

    def wait(self) -> Self:
        """Waits until every cell has run; fails if one is in error."""
        handle = self.panel.element_handle()
        self.page.wait_for_function(_HAVE_RUN, arg=handle, timeout=CELL_MS)
        assert self.errors() == []
        return self

    def restart(self) -> Self:
        """Restarts the kernel; outputs stay as they are."""
        self.menu("Kernel", "Restart Kernel…")
        self.page.get_by_role("button", name="Confirm Kernel Restart").click()
        self._wait_for_kernel()
        return self

    def kill(self) -> Self:
        """Kills the kernel, as a system short of memory does, and lets the server start another."""
        process = int(self.run_below("import os; os.getpid()").inner_text())
        os.kill(process, signal.SIGKILL)
        has_died = self.page.locator(".jp-Dialog")
        has_died.get_by_role("button", name="Ok").click(timeout=CELL_MS)
        self._wait_for_kernel()
        return self

    def run_below(self, source: str) -> Locator:
        """Adds a cell at the end and runs it; returns its output."""
        cells = self.panel.locator(".jp-Cell")
        cells.last.scroll_into_view_if_needed()
        cells.last.locator(".jp-InputPrompt, .jp-MarkdownOutput").first.click()
        for key in ("Escape", "b", "Enter"):  # command mode, a cell below, into it
            self.page.keyboard.press(key)
        self.page.keyboard.type(source)
        self.page.keyboard.press("Control+Enter")
        output = cells.last.locator(".jp-OutputArea-output").last
        output.wait_for(timeout=CELL_MS)
        return output

    def _wait_for_kernel(self) -> None:
        """Until the server says that this notebook's kernel is idle, and the page is connected to it."""
        deadline = time.monotonic() + CELL_MS / 1000
        while time.monotonic() < deadline:
            kernels = [session["kernel"] for session in self.lab.sessions(self.file)]
            if kernels and all(kernel["execution_state"] == "idle" and kernel["connections"] for kernel in kernels):
                return
            self.page.wait_for_timeout(200)
        raise RuntimeError(f"The kernel of {self.file.name} did not start.")

    def menu(self, menu: str, item: str) -> None:
        """Clicks an item of a menu."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=menu).first.click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()

    def cell(self, source: str) -> Locator:
        """The code cell in whose source `source` stands."""
        return self.panel.locator(".jp-CodeCell", has=self.page.locator(".jp-InputArea-editor", has_text=source)).first

    def errors(self) -> list[str]:
        """The errors that cells show."""
        return self.panel.locator('[data-mime-type="application/vnd.jupyter.error"]').all_text_contents()

    def close(self) -> None:
        """Leaves the page and ends the kernel, which holds much memory."""
        self.page.close()
        self.lab.end(self.file)

    def serious_faults(self) -> list[tuple[str, str]]:
        """What axe-core finds in the cells' outputs that keeps people out: (rule, the element at fault).

        Not in JupyterLab's own box around an output, which scrolls where a table is wide.
        """
        context = {"include": [[".jp-OutputArea-output"]], "exclude": [[OF_TQDM]]}
        faults = Axe().run(self.page, context=context).response["violations"]
        return [
            (fault["id"], node["html"])
            for fault in faults
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
            if "jp-OutputArea-output" not in node["html"].partition(">")[0]
        ]

    def looks(self, name: str) -> None:
        """Three pictures of the whole notebook: in the light and the dark theme, and in a narrow window."""
        size = self.page.viewport_size
        assert size is not None
        self.screenshot(f"{name}_light")
        self.page.emulate_media(color_scheme="dark")
        self.page.wait_for_timeout(1000)  # the theme is loaded
        self.screenshot(f"{name}_dark")
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size({"width": NARROW, "height": size["height"]})
        self.page.wait_for_timeout(1000)
        self.screenshot(f"{name}_narrow")
        self.page.set_viewport_size(size)

    def screenshot(self, name: str) -> Path:
        """The whole notebook from its first cell to its last, as a picture for people to look at."""
        size = self.page.viewport_size
        assert size is not None
        for _ in range(3):  # cells outside the window have no height of their own before they come into it
            height = self.panel.evaluate(_HEIGHT)
            self.page.set_viewport_size({"width": size["width"], "height": min(int(height) + 160, 16_000)})
            self.page.wait_for_timeout(300)
        self.panel.locator(".jp-WindowedPanel-outer").evaluate("it => it.scrollTo(0, 0)")
        path = save_screenshot(self.page, name)
        self.page.set_viewport_size(size)
        return path


def save_screenshot(shown: Page | Locator, name: str) -> Path:
    """Writes a page, or a part of one, to runs/screenshots."""
    path = SCREENSHOTS / f"{name}.png"
    shown.screenshot(path=path)
    return path
