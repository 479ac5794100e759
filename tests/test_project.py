"""The files around the package: the same versions everywhere, notebooks as the style asks, a demo that is whole."""

import ast
import json
import logging
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
import pytest
import yaml

from nbhelpers.chunking import cut
from nbhelpers.config_file import load_config
from nbhelpers.documents import list_files, read_document
from nbhelpers.notebook import PARAMETERS
from nbhelpers.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


# Versions


@cache
def requirements() -> list[str]:
    """What pyproject.toml asks for, for use and for development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def pins(lines: list[str]) -> dict[str, str]:
    """Name (as pip compares names, without extras) -> version; every line has to pin one."""
    found = {}
    for line in lines:
        matched = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?==([\w.!+-]+)", line)
        assert matched, f"{line} pins no version"
        name = re.sub(r"[-_.]+", "-", matched[1]).lower()
        assert name not in found, f"{name} stands twice"
        found[name] = matched[2]
    return found


def test_every_dependency_is_pinned_once() -> None:
    assert {"torch", "transformers", "pytest", "ruff"} <= pins(requirements()).keys()


def test_conda_gets_exactly_what_pip_gets() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *conda, pip = environment["dependencies"]
    # Extras, such as pypdf[crypto], included; and nbhelpers itself, from the clone.
    assert sorted(pip["pip"]) == sorted([*requirements(), "-e ."])
    python, tool = conda
    assert tool == "pip"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert python.replace("python=", ">=") == project["requires-python"]


def test_the_constraints_pin_everything_that_pyproject_names_to_the_same_version() -> None:
    lines = [line.split("#")[0].split(";")[0].strip() for line in _lines(ROOT / "constraints.txt")]
    constraints = pins([line for line in lines if line])
    asked = pins(requirements())
    assert {name: constraints.get(name) for name in asked} == asked


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()


# Notebooks


@cache
def cells(notebook: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(notebook.read_text("utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found]


def code(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in cells(notebook) if cell["cell_type"] == "code"]


def parameters(notebook: Path) -> list[str]:
    return [cell["source"] for cell in cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]


def test_there_is_a_notebook_for_every_stage() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == [stage.name for stage in STAGES]
    assert [notebook.stem[:2] for notebook in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@each_notebook
def test_no_output_is_committed(notebook: Path) -> None:
    assert [cell["outputs"] for cell in code(notebook) if cell["outputs"]] == []
    assert [cell["execution_count"] for cell in code(notebook) if cell["execution_count"] is not None] == []
    assert "widgets" not in json.loads(notebook.read_text("utf-8"))["metadata"]


@each_notebook
def test_a_notebook_is_short_and_holds_no_logic(notebook: Path) -> None:
    assert len(code(notebook)) <= 15
    for cell in code(notebook):
        tree = ast.parse(cell["source"])  # fails on magics and on !pip
        kinds = {type(node) for node in ast.walk(tree)}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.While, ast.Try}
        branches = [ast.unparse(node.test) for node in ast.walk(tree) if isinstance(node, ast.If)]
        assert set(branches) <= {"run.interactive"}


@each_notebook
def test_a_notebook_runs_from_any_place(notebook: Path) -> None:
    for cell in code(notebook):
        tree = ast.parse(cell["source"])
        assert "sys.path" not in cell["source"]
        assert not re.search(r"\b(chdir|environ|pip install)\b", cell["source"])
        texts = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert [text for text in texts if re.match(r"/|~|\\\\|[A-Za-z]:[\\/]|\.\./", text)] == []


@each_notebook
def test_a_notebook_begins_with_its_title_and_what_it_reads_writes_asks_and_takes(notebook: Path) -> None:
    first = cells(notebook)[0]
    assert first["cell_type"] == "markdown"
    title, _, question, _, facts, *_ = first["source"].splitlines()
    assert re.fullmatch(rf"# {int(notebook.stem[:2])} · \S.*", title)
    assert re.match(r"> \S", question)
    assert re.fullmatch(r"\*\*Reads\*\* .+ · \*\*Writes\*\* .+ · \*\*LLM calls\*\* .+ · \*\*Time\*\* .+", facts)


@each_notebook
def test_a_notebook_has_one_cell_of_parameters_and_it_is_the_first_code(notebook: Path) -> None:
    assert parameters(notebook) == [code(notebook)[0]["source"]]


@each_notebook
def test_parameters_are_literals_one_a_line(notebook: Path) -> None:
    [source] = parameters(notebook)
    statements = ast.parse(source).body
    assert len(statements) == len(source.splitlines())
    for statement in statements:
        assert isinstance(statement, ast.AnnAssign)
        assert statement.value is not None
        value = ast.literal_eval(statement.value)
        assert type(value).__name__ == ast.unparse(statement.annotation)


@each_notebook
def test_papermill_reads_every_parameter_without_a_warning(notebook: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = papermill.inspect_notebook(notebook)
    assert [record.getMessage() for record in caplog.records] == []
    [source] = parameters(notebook)
    written: dict[str, Any] = {ast.unparse(s.target): s for s in ast.parse(source).body if isinstance(s, ast.AnnAssign)}
    assert set(found) == set(written) == set(PARAMETERS)
    for name, parameter in found.items():
        assert ast.literal_eval(parameter["default"]) == ast.literal_eval(written[name].value)
        assert parameter["inferred_type_name"] == ast.unparse(written[name].annotation)


def test_all_notebooks_have_the_same_parameters() -> None:
    assert len({source for notebook in NOTEBOOKS for source in parameters(notebook)}) == 1


@each_notebook
def test_a_notebook_links_to_the_next_and_every_link_leads_somewhere(notebook: Path) -> None:
    links = re.findall(
        r"\]\(([^)#:]+)\)", "\n".join(c["source"] for c in cells(notebook) if c["cell_type"] == "markdown")
    )
    assert [link for link in links if not (notebook.parent / link).exists()] == []
    later = NOTEBOOKS[NOTEBOOKS.index(notebook) + 1 :]
    assert not later or later[0].name in links


@each_notebook
def test_a_notebook_teaches(notebook: Path) -> None:
    told = [cell["source"] for cell in cells(notebook) if cell["cell_type"] == "markdown"]
    assert any(re.search(r"\*\*(Guess first|Predict before)", text) for text in told)
    tries = told[-1].split("**Try it.**")[1]
    assert 2 <= len(re.findall(r"^- ", tries, flags=re.MULTILINE)) <= 3
    before = ""
    for cell in cells(notebook):
        if cell["cell_type"] == "markdown":
            before = cell["source"]
        elif "run.save(" in cell["source"]:
            assert "**How to read it.**" in before, cell["source"]


@each_notebook
def test_every_term_of_a_notebook_is_in_the_glossary(notebook: Path) -> None:
    glossary = (ROOT / "notebooks" / "README.md").read_text("utf-8").split("## Words")[1].lower()
    told = "\n".join(cell["source"] for cell in cells(notebook) if cell["cell_type"] == "markdown")
    marked = {term.lower() for term in re.findall(r"\*\*([^*]+)\*\*", told)}
    terms = {term for term in marked if not re.search(r"[.:]$|^(reads|writes|llm calls|time|large|small)$", term)}
    assert [term for term in terms if term.removesuffix("s") not in glossary] == []


# The demo


@cache
def demo_texts() -> dict[tuple[str, int], tuple[str, str]]:
    """(source, position) -> (format, text), read and cut as 01 does it."""
    config = load_config(ROOT / "params" / "demo.yaml")
    found = {}
    for file in list_files(config.path.input_dir):
        if file.stat().st_size == 0:
            continue
        document = read_document(file, text_column=config.path.text_column)
        passages = [passage.text for passage in document.texts]
        if not document.is_rows:
            passages = [c.text for text in passages for c in cut(text, max_chars=config.system.chunk_size)]
        assert document.warnings == [], file
        for position, text in enumerate(passages):
            found[file.relative_to(config.path.input_dir).as_posix(), position] = (file.suffix, text)
    return found


@cache
def truth() -> pd.DataFrame:
    return pd.read_csv(ROOT / "params" / "demo" / "true_labels.csv")


def test_the_demo_has_a_true_label_for_every_text_and_a_text_for_every_label() -> None:
    assert list(truth().columns) == ["source", "position", "label"]
    places = list(zip(truth()["source"], truth()["position"], strict=True))
    assert len(places) == len(set(places))
    assert set(places) == set(demo_texts())


def test_one_file_of_the_demo_is_empty_so_that_01_has_a_skipped_file_to_show() -> None:
    files = list_files(load_config(ROOT / "params" / "demo.yaml").path.input_dir)
    assert [file.name for file in files if file.stat().st_size == 0] == ["email_106.txt"]


def test_the_demo_has_four_hundred_different_short_texts() -> None:
    texts = [text for _, text in demo_texts().values()]
    assert len(set(texts)) >= 400
    assert max(map(len, texts)) <= 900
    assert min(map(len, texts)) >= 20


def test_the_demo_shows_all_five_formats() -> None:
    formats = pd.Series([suffix for suffix, _ in demo_texts().values()]).value_counts()
    assert set(formats.index) == {".txt", ".md", ".pdf", ".docx", ".jsonl"}
    assert formats.min() >= 20


def test_the_demos_classes_are_unequal_and_the_smallest_is_about_a_tenth() -> None:
    shares = truth()["label"].value_counts(normalize=True)
    assert set(shares.index) == set(load_config(ROOT / "params" / "demo.yaml").classification.classes)
    assert 0.08 <= shares.min() <= 0.13
    assert shares.max() <= 0.5
    assert shares.nsmallest(2).iloc[-1] >= 0.15


def test_no_class_of_the_demo_is_given_away_by_its_format() -> None:
    places = truth().assign(
        format=[demo_texts()[place][0] for place in truth()[["source", "position"]].itertuples(index=False)]
    )
    counts = pd.crosstab(places["label"], places["format"])
    assert (counts > 0).all(axis=None)
    assert (counts.div(counts.sum()) <= 0.6).all(axis=None)
