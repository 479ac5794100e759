"""The five steps, and whether each is up to date.

A step is stale when what it read has changed: the files and tables, the part of the config it depends on, or the code.
Fingerprints of these are taken when a step begins, and are left as its stamp when it has finished, whether it was run
from the command line or by hand; so what changes meanwhile makes it stale, and a step that stopped half-way has no
stamp. Rules that a person edits are an input of the steps after them, so an edit makes those stale.
"""

import ast
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nbhelpers.config import Config, Size, repository_root
from nbhelpers.errors import BudgetError, NbhelpersError, RunFolderError
from nbhelpers.ingest import input_files
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_prompt
from nbhelpers.refine import refine_prompt
from nbhelpers.rules import read_rules, rules_prompt
from nbhelpers.run_folder import RunFolder, write_json

_LARGE = ["api.large_model", "api.large_mode"]
_SMALL = ["api.small_model", "api.small_mode"]
_TASK = ["classification.classes", "classification.desc"]
_CALLS = ["system.completion_mode", "system.use_stop"]


@dataclass(frozen=True)
class Stage:
    """One notebook: the config keys and inputs that its results depend on, and what it leaves behind."""

    name: str
    keys: list[str]
    inputs: Callable[[Config, RunFolder], dict[str, str]]
    outputs: Callable[[Config, RunFolder], list[Path]]
    asks: Callable[[Config], tuple[Size, ...]] = lambda config: ()  # which LLMs

    @property
    def notebook(self) -> Path:
        """The notebook's file.

        Raises:
            RunFolderError: the notebooks are not beside the package (installed without the repository).
        """
        path = repository_root() / "notebooks" / f"{self.name}.ipynb"
        if not path.is_file():
            raise RunFolderError(f"{path} not found. Run from a clone of the repository, which holds the notebooks.")
        return path


def _ingest_inputs(config: Config, run: RunFolder) -> dict[str, str]:
    listing = [
        (path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in input_files(config) if path.exists()
    ]
    return {"files": _hash(listing)}


def _rules_inputs(config: Config, run: RunFolder) -> dict[str, str]:
    found = {"prompt": _hash(rules_prompt(config)[0]), "rules_file": _file(config.classification.rules_file)}
    if config.rules.refine:
        prompts = [refine_prompt(config)[0], label_prompt(config, "").template]
        settings = [config.api.small_model, config.api.small_mode, config.system.seed, config.cost.budget_usd]
        settings.append(config.labeling.label_samples)
        found |= {"chunks": _file(run.chunks), "pilot": _hash([prompts, settings])}
    return found


def _rules_are_given(config: Config) -> bool:
    return config.classification.rules_file is not None and config.api.large_mode == "api"


def _test_inputs(config: Config, run: RunFolder) -> dict[str, str]:
    return {
        "chunks": _file(run.chunks),
        "rules": _hash(read_rules(run)),
        "prompt": _hash(label_prompt(config, "").template),
    }


def _train_inputs(config: Config, run: RunFolder) -> dict[str, str]:
    return {
        **_test_inputs(config, run),
        "test_labels": _file(run.test_labels),
        "agreement": _file(run.agreement),
        "human_labels": _human_labels(run),
        "human_labels_file": _file(config.path.human_labels),
    }


def _train_outputs(config: Config, run: RunFolder) -> list[Path]:
    final = _report(run).get("final")
    return [run.report, run.train_labels, *([run.classifiers / final["classifier"]] if final else [])]


def _predict_inputs(config: Config, run: RunFolder) -> dict[str, str]:
    last = run.classifier(max(run.iterations(), default=0))
    return {
        **_test_inputs(config, run),
        "occurrences": _file(run.occurrences),
        "classifier": _file(last / "training.json"),
        "test_labels": _file(run.test_labels),
        "train_labels": _file(run.train_labels),
        "human_labels": _human_labels(run),
        "human_labels_file": _file(config.path.human_labels),
        "truth": _file(config.path.truth),
        "report": _hash([_report(run).get(key) for key in ("claim", "truth", "notes", "target")]),
        "page": _hash([_file(path) for path in sorted((Path(__file__).parent / "templates").iterdir())]),
        "extras": _hash([_file(repository_root() / name) for name in config.meta_datagen.meta_datagen_extras]),
    }


def _predict_outputs(config: Config, run: RunFolder) -> list[Path]:
    everything = config.classification.predict_on_whole_set_at_the_end
    tables = [run.predictions / f"predictions.{suffix}" for suffix in ("parquet", "jsonl", "csv")]
    return [run.page, *(tables if everything else [])]


STAGES = (
    Stage(
        "01_ingest",
        [
            "path.input_dir",
            "path.text_column",
            "system.chunk_size",
            "system.use_subset",
            "system.subset_size",
            "system.seed",
            "training.truncation_type",
            "training.model_path",
        ],
        _ingest_inputs,
        lambda config, run: [run.documents, run.chunks, run.occurrences],
    ),
    Stage(
        "02_rules",
        [*_LARGE, *_TASK, *_CALLS, "classification.rules_file", "rules.refine"],
        _rules_inputs,
        lambda config, run: [run.rules],
        asks=lambda config: () if _rules_are_given(config) else ("large",),
    ),
    Stage(
        "03_test_labels",
        [
            *_LARGE,
            *_SMALL,
            *_TASK,
            *_CALLS,
            "labeling.compare",
            "labeling.label_samples",
            "cost.budget_usd",
            "system.seed",
            "training.test_set_size",
            "training.test_labeler",
            "training.train_set_size",
            "training.train_set_increment",
            "training.max_iters",
        ],
        _test_inputs,
        lambda config, run: [run.test_set, run.test_labels],
        asks=lambda config: (config.training.test_labeler,),
    ),
    Stage(
        "04_train",
        [
            *_LARGE,
            *_SMALL,
            *_TASK,
            *_CALLS,
            "system.required_accuracy",
            "system.stop_rule",
            "system.seed",
            "training",
            "labeling.cascade",
            "labeling.label_samples",
            "cost",
        ],
        _train_inputs,
        _train_outputs,
        asks=lambda config: config.train_labelers,
    ),
    Stage(
        "05_predict",
        ["classification", "path.truth", "meta_datagen", "cost"],
        _predict_inputs,
        _predict_outputs,
    ),
)


def find_stage(name: str) -> Stage:
    """A step by its notebook's name or number ("03_test_labels", "03", "3").

    Raises:
        RunFolderError: there is no such step.
    """
    for stage in STAGES:
        if name == stage.name or name.zfill(2) == stage.name[:2]:
            return stage
    raise RunFolderError(f"There is no step {name!r}. Steps: {', '.join(stage.name for stage in STAGES)}.")


def what_changed(stage: Stage, config: Config, run: RunFolder) -> list[str]:
    """Why a step has to be run: names of what changed since its stamp; empty where it is up to date."""
    stamp = _stamps(run).get(stage.name)
    if stamp is None:
        return ["not finished yet"]
    missing = [path.name for path in stage.outputs(config, run) if not path.exists()]
    if missing:
        return [f"{name} is not there" for name in missing]
    if stage.name == "04_train" and not _has_ended(_report(run)):  # such as after one more iteration by hand
        return ["not finished yet"]
    now = fingerprints(stage, config, run)
    return sorted(name for name in now.keys() | stamp.keys() if now.get(name) != stamp.get(name))


def fingerprints(stage: Stage, config: Config, run: RunFolder) -> dict[str, str]:
    """A hash for each thing that the step's results depend on."""
    values = config.model_dump(mode="json")
    chosen = {}
    for key in stage.keys:
        section, _, name = key.partition(".")
        chosen[key] = values[section][name] if name else values[section]
    return {"config": _hash(chosen), "code": _code(stage.notebook), **stage.inputs(config, run)}


def begin(stage: Stage, config: Config, run: RunFolder) -> dict[str, str]:
    """Withdraws the step's stamp, so that it is stale until it has finished, and forgets that a step failed.

    Returns:
        The fingerprints of what the step is about to read, for `finish`.
    """
    read = fingerprints(stage, config, run)
    stamps = _stamps(run)
    if stamps.pop(stage.name, None) is not None:
        write_json(run.stages, stamps)
    forget_failure(run)
    return read


def finish(stage: Stage, run: RunFolder, read: dict[str, str]) -> None:
    """Leaves the step's stamp, which `begin` gave; called by its notebook's last cell."""
    write_json(run.stages, {**_stamps(run), stage.name: read})


def note_failure(stage: Stage, config: Config, run: RunFolder, error: NbhelpersError) -> None:
    """Keeps what is in report.json and adds the failure, so that whoever reads it later knows."""
    report = _report(run)
    base = {"target": config.system.required_accuracy, "iterations": [], "final": None, "config": config.public()}
    failure = {"step": stage.name, "error": str(error), "status_before": _training_status(report)}
    status = "budget" if isinstance(error, BudgetError) else "failed"
    write_json(run.report, {**base, **report, "status": status, "failure": failure})


def forget_failure(run: RunFolder) -> None:
    """The training's status stands again, where a step failed earlier; a report of nothing but the failure goes."""
    report = _report(run)
    failure = report.pop("failure", None)
    if failure is None:
        return
    if failure["status_before"] is None:
        run.report.unlink()
    else:
        write_json(run.report, {**report, "status": failure["status_before"]})


def _report(run: RunFolder) -> dict[str, Any]:
    return run.read_json(run.report, made_by="04_train") if run.report.exists() else {}


def _training_status(report: dict[str, Any]) -> str | None:
    """The status apart from a failure of another step."""
    status: str | None = report.get("failure", {}).get("status_before", report.get("status"))
    return status


def _has_ended(report: dict[str, Any]) -> bool:
    return bool(report.get("final")) and _training_status(report) not in (None, "running")


def _human_labels(run: RunFolder) -> str:
    if not run.labels.exists():
        return _hash({})
    with LabelStore(run.labels) as store:
        return _hash(store.human_labels())


def _stamps(run: RunFolder) -> dict[str, Any]:
    return run.read_json(run.stages, made_by="01_ingest") if run.stages.exists() else {}


def _code(notebook: Path) -> str:
    """A hash of the package and the notebook's code: parameters, comments, layout and prose do not count."""
    parts = [_without_prose(file.read_text("utf-8")) for file in sorted(Path(__file__).parent.glob("*.py"))]
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            parts.append(_without_prose("".join(cell["source"])))
    return _hash([part for part in parts if part])


@cache  # the package is the same for all steps
def _without_prose(code: str) -> str:
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a magic in a notebook
        return code
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            del node.body[0]
    return ast.unparse(tree)


def _file(path: Path | None) -> str:
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
