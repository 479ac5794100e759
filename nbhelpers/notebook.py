"""What every notebook begins and ends with: read the parameters, open the run folder, leave the stamp."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.config import SECTIONS, Config, Section, refuse_literal_keys
from nbhelpers.config_file import IGNORED_AT_TOP, find_file, load_config, parse_config
from nbhelpers.errors import ConfigError
from nbhelpers.export import check_extras
from nbhelpers.ingest import check_output
from nbhelpers.label_files import check_labelled_texts
from nbhelpers.label_store import LabelStore
from nbhelpers.lock import one_step
from nbhelpers.pictures import save_figure
from nbhelpers.progress import interactive
from nbhelpers.run_folder import RunFolder
from nbhelpers.stages import begin, find_stage, finish

PARAMETERS = {"config_path", "overrides", *SECTIONS, *IGNORED_AT_TOP}
_LITERALS = (str, int, float, bool, list, dict, type(None))


@dataclass(frozen=True)
class Run:
    """A step at work: its config, run folder and label store, and whether a person sits before it."""

    stage: str
    config: Config
    folder: RunFolder
    store: LabelStore
    interactive: bool
    read: dict[str, str]  # the fingerprints of its inputs
    config_file: Path | None  # None where papermill passed the sections

    def finish(self) -> str:
        """Leaves the step's stamp, so that it is not run again before something it depends on changes."""
        with one_step(self.folder.root):
            finish(find_stage(self.stage), self.folder, self.read)
        return f"{self.stage} is done. Its results are in {self.folder.name}."

    def save(self, figure: Any, name: str) -> Any:
        """Saves a figure as PNG and SVG under figures/, described in words for those who cannot see it; returns it."""
        save_figure(figure, self.folder.figures, f"{self.stage[:2]}_{name}")
        return figure


def open_run(stage: str, namespace: Mapping[str, Any]) -> Run:
    """Reads the parameters from a notebook's variables and opens the run folder.

    Sections that papermill passed (`-f CONFIG`) replace the config file; they are never merged with another one's.

    The step is stale from now on, until `Run.finish`.

    Args:
        stage: the notebook's name, such as "03_test_labels".
        namespace: `globals()` of the notebook.
    Raises:
        ConfigError: a parameter that no notebook has, a key written out among the parameters, or a faulty config.
        PromptError: a file of `meta_datagen_extras` is missing or no list of messages.
        RunFolderError: something that the step reads is not there.
    """
    by_hand = interactive()
    if not by_hand:
        _refuse_unknown(namespace)
    overrides = namespace.get("overrides") or []
    # A cell may have given such a name to a part of the config; where it is run again, that is no parameter.
    parameters = {name: value for name, value in namespace.items() if not isinstance(value, Section)}
    given = {name: parameters[name] for name in SECTIONS if parameters.get(name)}
    if given:
        refuse_literal_keys(given)
        config = parse_config(given, overrides=overrides, name="what papermill passed")
    else:
        config = load_config(namespace["config_path"], overrides=overrides)
    file = None if given else find_file(namespace["config_path"])
    check_output(config)
    folder = RunFolder(config.path.output_dir)
    if stage > "01_ingest":  # before anything is paid for; where each text stands is known by then
        check_labelled_texts(config, folder)
    check_extras(config)
    with one_step(folder.root):
        read = begin(find_stage(stage), config, folder)
    return Run(stage, config, folder, LabelStore(folder.labels), by_hand, read, file)


def _refuse_unknown(namespace: Mapping[str, Any]) -> None:
    """A parameter that the notebook does not have only draws a warning from papermill; here it is an error."""
    shell = namespace.get("get_ipython")
    hidden = set(shell().user_ns_hidden) if shell is not None else set()
    unknown = [
        name
        for name, value in namespace.items()
        if not name.startswith("_") and name not in PARAMETERS | hidden | {"In", "Out"} and isinstance(value, _LITERALS)
    ]
    if unknown:
        raise ConfigError(
            f"Unknown parameter or section: {', '.join(sorted(unknown))}. Known: {', '.join(sorted(PARAMETERS))}."
        )
