"""The command line: `trimtab push | pull | inspect | render | run`."""

import argparse
import sys

from trimtab_api.errors import TrimtabError
from trimtab_cli.commands import packages, render, run


def main() -> None:
    """Carry out one command; errors that a person can mend are one line, not a trace."""
    arguments = _parser().parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except TrimtabError as error:
        sys.exit(f"trimtab: {error.reason}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trimtab", description="Packages, offline plans, and ModelDeployments without a cluster."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    packages.add_parsers(commands)
    render.add_parsers(commands)
    run.add_parsers(commands)
    return parser


if __name__ == "__main__":
    main()
