"""The five steps, and whether each is up to date.

A step is stale when what it read has changed: the files and tables, the part of the config it depends on, or the code.
Each step leaves a stamp with the fingerprints of these when it has finished, whether it was run from the command line
or by hand. Rules that a person edits are an input of the steps after them, so an edit makes those stale.
"""

import ast
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.config import Config, repository_root
from nbhelpers.documents import list_files
from nbhelpers.errors import RunFolderError
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_prompt
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
    title: str
    keys: list[str]
    inputs: Callable[[Config, RunFolder], dict[str, str]]
    outputs: Callable[[Config, RunFolder], list[Path]]

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
    folder, output = config.path.input_dir, config.path.output_dir.resolve()
    around = output in folder.resolve().parents  # as in ingest: then what it holds is not all output
    listing = [
        (path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in list_files(folder)
        if path.exists() and (around or output not in path.resolve().parents)
    ]
    return {"files": _hash(listing)}


def _rules_inputs(config: Config, run: RunFolder) -> dict[str, str]:
    return {"prompt": _hash(rules_prompt(config)[0]), "rules_file": _file(config.classification.rules_file)}


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
        "human_labels": _human_labels(run),
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
        "truth": _file(config.path.truth),
        "extras": _hash([_file(repository_root() / name) for name in config.meta_datagen.meta_datagen_extras]),
    }


STAGES = (
    Stage(
        "01_ingest",
        "ingest",
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
        "rules",
        [*_LARGE, *_TASK, *_CALLS, "classification.rules_file"],
        _rules_inputs,
        lambda config, run: [run.rules],
    ),
    Stage(
        "03_test_labels",
        "test labels",
        [
            *_LARGE,
            *_SMALL,
            *_TASK,
            *_CALLS,
            "system.seed",
            "training.test_set_size",
            "training.test_labeler",
            "training.train_set_size",
            "training.train_set_increment",
            "training.max_iters",
        ],
        _test_inputs,
        lambda config, run: [run.test_set, run.test_labels],
    ),
    Stage(
        "04_train",
        "train",
        [*_SMALL, *_TASK, *_CALLS, "system.required_accuracy", "system.stop_rule", "system.seed", "training", "cost"],
        _train_inputs,
        _train_outputs,
    ),
    Stage(
        "05_predict",
        "predict",
        ["classification", "path.truth", "meta_datagen"],
        _predict_inputs,
        lambda config, run: (
            [run.predictions / "predictions.parquet"] if config.classification.predict_on_whole_set_at_the_end else []
        ),
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
        return ["not run yet"]
    missing = [path.name for path in stage.outputs(config, run) if not path.exists()]
    if missing:
        return [f"{name} is not there" for name in missing]
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


def finish(stage: Stage, config: Config, run: RunFolder) -> None:
    """Leaves the step's stamp; called by its notebook's last cell."""
    write_json(run.stages, {**_stamps(run), stage.name: fingerprints(stage, config, run)})


def _report(run: RunFolder) -> dict[str, Any]:
    return run.read_json(run.report, made_by="04_train") if run.report.exists() else {}


def _human_labels(run: RunFolder) -> str:
    if not run.labels.exists():
        return _hash({})
    with LabelStore(run.labels) as store:
        return _hash(store.human_labels())


def _stamps(run: RunFolder) -> dict[str, Any]:
    return run.read_json(run.stages, made_by="01_ingest") if run.stages.exists() else {}


def _code(notebook: Path) -> str:
    """A hash of the package and the notebook's code: comments, layout and prose do not count."""
    parts = [ast.dump(ast.parse(file.read_text("utf-8"))) for file in sorted(Path(__file__).parent.glob("*.py"))]
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    parts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return _hash(parts)


def _file(path: Path | None) -> str:
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
