"""The five notebooks, run headless by papermill, from wherever the last run stopped.

A notebook is given the config's path, never its contents, and is run only where its step is stale. The executed
notebooks are kept in OUTPUT/notebooks.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any

from nbhelpers.config import Config
from nbhelpers.config_file import find_file, load_config
from nbhelpers.errors import NbhelpersError, RunFolderError
from nbhelpers.evaluation import target_as_set
from nbhelpers.ingest import input_files
from nbhelpers.label_files import check_label_files
from nbhelpers.label_store import LabelStore
from nbhelpers.llms import check_llms
from nbhelpers.lock import one_run
from nbhelpers.money import dollars
from nbhelpers.page_words import TRUTH_ROW, quotable
from nbhelpers.run_folder import RunFolder
from nbhelpers.stages import STAGES, Stage, find_stage, forget_failure, note_failure, what_changed

REACHED, FAILED, FINISHED = 0, 1, 3
# Jupyter picks a kernel's ports before the kernel binds them; now and then another program is quicker.
KERNEL_STARTS = 3
NO_KERNEL = "before replying to kernel_info"

Say = Callable[[str], None]


def run_suite(
    config_path: str | Path, *, overrides: Sequence[str] = (), start: str | None = None, say: Say = print
) -> int:
    """Runs what is stale.

    Args:
        config_path: YAML or JSON.
        overrides: "section.key=value" each.
        start: a step to run again together with all that follow, stale or not.
        say: gets a line for each step.
    Returns:
        0 where the target was reached, 3 where the run finished without it.
    Raises:
        NbhelpersError: what stopped it, in one message.
    """
    file = find_file(config_path)
    config = load_config(file, overrides=overrides)
    run = RunFolder(config.path.output_dir)
    forced = STAGES[STAGES.index(find_stage(start)) :] if start is not None else ()
    # Mistakes are found before anything is written or paid for.
    input_files(config)
    check_label_files(config)
    stale = dropwhile(lambda stage: stage not in forced and not what_changed(stage, config, run), STAGES[1:])
    sizes = {size for stage in stale for size in stage.asks(config)}
    if sizes:
        with LabelStore(run.labels) as store:
            check_llms(config, store, sizes=sorted(sizes))
    with one_run(run.root):
        forget_failure(run)
        _make_folder(run.notebooks)
        say(f"{file.name} -> {run.name}")
        for stage in STAGES:
            changed = ["asked for"] if stage in forced else what_changed(stage, config, run)
            if not changed:
                say(f"  {stage.name}: up to date")
                continue
            say(f"  {stage.name}: running ({', '.join(changed)})")
            started = time.perf_counter()
            try:
                _execute(stage, run, file, overrides)
            except NbhelpersError as error:
                note_failure(stage, config, run, error)
                raise
            say(f"  {stage.name}: done in {time.perf_counter() - started:.0f} s")
    return summarize(config, run, say=say)


def summarize(config: Config, run: RunFolder, *, say: Say = print) -> int:
    """Prints where the results are and the figures that matter; returns the exit code.

    Raises:
        RunFolderError: nothing was trained yet.
    """
    report = run.read_json(run.report, made_by="04_train")
    if not report["iterations"]:
        raise RunFolderError(f"No iteration is finished in {run.name}. Run 04_train first.")
    final, llm, last = report["final"], report["llm"], report["iterations"][-1]
    reached = report["status"] == "target_reached"
    say("")
    say(f"{'Target reached' if reached else 'Finished without reaching the target'} ({report['status']}).")
    agreement = _share(final["accuracy"], final["accuracy_low"], final["accuracy_high"])
    say(f"  accuracy against the LLM's labels  {agreement}  (target {target_as_set(report['target'])})")
    if report["stop_rule"] == "lower_bound":
        claim = report["claim"]
        sure = f"{claim['confidence']:.0%} sure, looks at the test set: {claim['looks']}"
        say(f"  lower bound of it, which decides   {quotable(claim['lower_bound']):.3f}  ({sure})")
    truth = run.read_truth_shares(final["classifier"])
    for row in [truth[name] for name in truth if name == TRUTH_ROW]:
        say(f"  accuracy against the truth         {_share(row['share'], row['low'], row['high'])}")
    say(
        f"  texts labelled                     {last['labels']} to train, {last['test_size']} to test: "
        f"{llm['calls']} LLM calls, {dollars(llm['cost_usd'])}"
    )
    for note in report["notes"]:
        say(f"  note: {note}")
    say("")
    say(f"  classifier   {_shown(run.classifiers / final['classifier'])}")
    if config.classification.predict_on_whole_set_at_the_end:
        say(f"  predictions  {_shown(run.predictions / 'predictions.csv')}")
    say(f"  figures      {_shown(run.figures)}")
    say(f"  notebooks    {_shown(run.notebooks)}")
    say(f"  report       {_shown(run.page)}, and the figures in {run.report.name}")
    return REACHED if reached else FINISHED


def _execute(stage: Stage, run: RunFolder, config_path: Path, overrides: Sequence[str]) -> None:
    """Runs one notebook; its printed lines come through as they are made.

    Raises:
        NbhelpersError: what the notebook raised, if it is one of ours; anything else is reported with its place.
    """
    # The kernel inherits these. torch's threads spin while they wait, which is slow beside any other busy program; and
    # the debugger would warn about frozen modules in every notebook.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    from papermill.exceptions import PapermillExecutionError

    from nbhelpers import errors

    output = run.notebooks / f"{stage.name}.ipynb"
    parameters = {"config_path": str(config_path), "overrides": list(overrides)}
    try:
        for starts_left in reversed(range(KERNEL_STARTS)):
            try:
                _run_notebook(stage.notebook, output, parameters, cwd=config_path.parent)
                break
            except RuntimeError as error:
                if NO_KERNEL not in str(error) or not starts_left:
                    raise
    except PapermillExecutionError as error:
        kind = getattr(errors, str(error.ename), None)
        if isinstance(kind, type) and issubclass(kind, NbhelpersError):
            raise kind(str(error.evalue)) from None
        raise NbhelpersError(
            f"{stage.name} stopped with an unexpected {error.ename}: {error.evalue} The trace is in {output}."
        ) from None
    except RuntimeError as error:  # the kernel died, for want of memory or by a signal
        raise RunFolderError(f"{stage.name} stopped: {error}. Start again: it goes on where it was.") from None


def _run_notebook(notebook: Path, output: Path, parameters: dict[str, Any], *, cwd: Path) -> None:
    import papermill

    papermill.execute_notebook(
        str(notebook),
        str(output),
        parameters=parameters,
        kernel_name="python3",
        progress_bar=False,
        stdout_file=sys.stdout,
        cwd=str(cwd),
        # Stopping a kernel interrupts it, and now and then it calls that an ERROR. Errors of cells come another way.
        extra_arguments=["--log-level=CRITICAL"],
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise RunFolderError(f"{folder} cannot be made ({reason}). Change path.output_dir, or make room.") from None


def _share(value: float, low: float, high: float) -> str:
    return f"{value:.3f}  (95 % interval {low:.3f} to {high:.3f})"


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
