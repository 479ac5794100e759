"""The output folder: names, typed reads, atomic writes.

Every write goes to a temporary sibling that then takes the name, so a killed run leaves the old file or the new one,
never half of one. What a step needs and cannot find is an error that names the notebook to run first. What makes a
step stale is not decided here (see stages).
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nbhelpers.errors import RunFolderError

if TYPE_CHECKING:
    import pandas as pd


class RunFolder:
    """The paths under one output folder, made on first write."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.report = self.root / "report.json"
        self.page = self.root / "report.html"
        self.notebooks = self.root / "notebooks"
        self.figures = self.root / "figures"
        self.labels = self.root / "labels.sqlite"
        self.documents = self.root / "documents.parquet"
        self.chunks = self.root / "chunks.parquet"
        self.occurrences = self.root / "occurrences.parquet"
        self.stages = self.root / "stages.json"
        self.classifiers = self.root / "classifiers"
        self.datasets = self.classifiers / "datasets"
        self.rules = self.classifiers / "rules_creation_generation.yaml"
        self.pilot = self.classifiers / "pilot.json"
        self.test_set = self.classifiers / "truth_labels_classification" / "test_set.json"
        self.test_labels = self.classifiers / "truth_labels_classification" / "llm_classifications.yaml"
        self.looks = self.classifiers / "truth_labels_classification" / "looks.json"
        self.agreement = self.classifiers / "truth_labels_classification" / "agreement.json"
        self.train_labels = self.classifiers / "train_labels.parquet"
        self.predictions = self.classifiers / "final_classifier_output"
        self.prediction_time = self.root / "prediction_time.json"
        self.truth_shares = self.root / "truth.json"
        self.meta_dataset = self.classifiers / "meta_datagen" / "meta_dataset.jsonl"

    def classifier(self, iteration: int) -> Path:
        return self.classifiers / f"classifier_{iteration}"

    def dataset(self, iteration: int) -> Path:
        return self.datasets / f"dataset_{iteration}.jsonl"

    def iterations(self) -> list[int]:
        """The numbers of the classifiers that are there, ascending."""
        names = (folder.name.removeprefix("classifier_") for folder in self.classifiers.glob("classifier_*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def write_truth_shares(self, iteration: int, shares: Mapping[str, Any]) -> None:
        """Keeps what a classifier's comparison with people's labels gave."""
        name = self.classifier(iteration).name
        write_json(self.truth_shares, {"classifier": name, "trained": self._trained(name), "shares": dict(shares)})

    def read_truth_shares(self, classifier: str) -> dict[str, Any]:
        """What `write_truth_shares` kept of this classifier; empty where it was another one, or trained anew."""
        kept = self.read_json(self.truth_shares, made_by="05_predict") if self.truth_shares.exists() else {}
        same = (kept.get("classifier"), kept.get("trained")) == (classifier, self._trained(classifier))
        return dict(kept["shares"]) if same else {}

    def _trained(self, classifier: str) -> str | None:
        """Tells one training from another."""
        made = self.classifiers / classifier / "training.json"
        return hashlib.sha256(made.read_bytes()).hexdigest() if made.exists() else None

    def forget_iterations(self, first: int) -> list[int]:
        """Removes the classifiers from number `first` on, and their datasets; returns their numbers."""
        numbers = [number for number in self.iterations() if number >= first]
        for number in numbers:
            shutil.rmtree(self.classifier(number))
            self.dataset(number).unlink(missing_ok=True)
        return numbers

    def copy_iteration(self, number: int, *, to: int) -> None:
        """Gives a classifier and its dataset a second number; a killed copy leaves nothing under it."""
        with replacing_folder(self.classifier(to)) as part:
            shutil.copytree(self.classifier(number), part, dirs_exist_ok=True)
        write_text(self.dataset(to), self.dataset(number).read_text("utf-8"))

    @cached_property
    def name(self) -> str:
        """The folder as people wrote it: relative to the working directory where that is shorter."""
        relative = os.path.relpath(self.root)
        return str(self.root) if relative.startswith("..") else relative

    def read_table(self, path: Path, *, made_by: str) -> "pd.DataFrame":
        """A parquet table; a RunFolderError that names the notebook `made_by` if it is not there or damaged."""
        import pandas as pd

        self.require(path, made_by=made_by)
        try:
            return pd.read_parquet(path)
        except Exception as error:  # pyarrow raises many kinds; all mean the same to a person
            raise RunFolderError(f"{path} is damaged ({error}). Delete it and run {made_by} again.") from None

    def read_json(self, path: Path, *, made_by: str) -> dict[str, Any]:
        """A JSON object; errors as in `read_table`."""
        return self._parse(path, json.loads, made_by)

    def read_yaml(self, path: Path, *, made_by: str) -> dict[str, Any]:
        """A YAML mapping; errors as in `read_table`."""
        return self._parse(path, lambda text: yaml.load(text, yaml.CSafeLoader), made_by)

    def require(self, path: Path, *, made_by: str) -> None:
        """Raises a RunFolderError where a step's input is not there."""
        if not path.exists():
            raise RunFolderError(f"{path.name} not found in {self.name}. Run {made_by} first.")

    def _parse(self, path: Path, parse: Any, made_by: str) -> dict[str, Any]:
        self.require(path, made_by=made_by)
        try:
            content = parse(path.read_text("utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise RunFolderError(
                f"{path} cannot be read ({reason}). Mend it, or delete it and run {made_by}."
            ) from None
        if not isinstance(content, dict):
            raise RunFolderError(f"{path} does not hold what it should. Delete it and run {made_by} again.")
        return content


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file in one step."""
    with _replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON in one step; a NaN is an error, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Writes YAML in one step, texts of several lines as blocks that a person can edit."""
    write_text(path, yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Writes a parquet file in one step."""
    with _replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty sibling to fill, which then takes the folder's place; a killed run never leaves half a folder.

    Raises:
        OSError: it cannot be written.
    """
    part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    try:
        for left_over in (part, old):
            shutil.rmtree(left_over, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to, which then takes the name; where that fails, it goes and the old file stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            temporary.touch(mode=0o600)  # a config with a key in it may be its owner's alone
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise RunFolderError(f"{path} cannot be written ({reason}). Change path.output_dir, or make room.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


class _Dumper(yaml.SafeDumper):
    pass


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # What a block cannot hold (tabs, lines that end in spaces) the dumper itself puts into quotes, but for U+0085, of
    # which YAML's readers make a line break; it is the "…" of a Windows file that was read as Latin-1.
    style = '"' if "\x85" in text else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
