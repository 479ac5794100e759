"""`python -m nbhelpers plan|run CONFIG`: what a run would cost, and the whole suite, from the command line."""

import argparse
import sys

from nbhelpers.errors import NbhelpersError
from nbhelpers.plan import show_plan
from nbhelpers.suite import FAILED, run_suite


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 target reached or planned, 3 finished without it, 1 failed, 2 wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m nbhelpers", description="Texts and one sentence to a classifier.")
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser(
        "plan",
        help="show what a run would ask the LLMs, and its price",
        description="Shows the calls, tokens, dollars and minutes that are left. It may ask up to five questions "
        "of the run first; their answers are kept. Exit code: 0, or 1 where there is no plan.",
    )
    run = commands.add_parser(
        "run",
        help="run the notebooks that are stale",
        description="Runs the notebooks that are stale. Exit code: 0 target reached, 3 finished without it, 1 failed.",
    )
    for command in (plan, run):
        command.add_argument("config", metavar="CONFIG", help="YAML or JSON, such as params/demo.yaml")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="section.key=value",
            help="overrides the config; may be repeated",
        )
    run.add_argument("--from", dest="start", metavar="03", help="run this step and all after it, stale or not")
    options = parser.parse_args(arguments)
    try:
        if options.command == "plan":
            show_plan(options.config, overrides=options.set)
            return 0
        return run_suite(options.config, overrides=options.set, start=options.start)
    except NbhelpersError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nstopped: run the same command to go on where it was.", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
