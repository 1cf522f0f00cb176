"""Experiments from declaration to report.

python -m experiments run FILE.yaml ...      plan the declared runs and work on them
python -m experiments report OUTPUT          tables and figures of everything that has finished
python -m experiments one KIND METHOD ...    a single run; scripts/<method>/*.sh call it
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dassl.command_line import ArgumentParser, end_imports_in_one_line, errors_in_one_line


def main(arguments: Sequence[str]) -> int:
    """Exit status. Raises UserError."""
    if arguments[:1] == ["report"]:
        from experiments import report  # it reads its own arguments

        return report.main(arguments[1:])
    if arguments[:1] == ["one"] and not {"-h", "--help"} & set(arguments):
        print(f"{' '.join(arguments[1:4])}: loading PyTorch", flush=True)
    from experiments.launch import command, single

    parser = ArgumentParser(
        prog="python -m experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in (("run", command), ("one", single)):
        module.add_arguments(
            commands.add_parser(name, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        )
    commands.add_parser("report", add_help=False)
    given = parser.parse_args(arguments)
    return (command if given.command == "run" else single).main(given)


if __name__ == "__main__":
    end_imports_in_one_line()
    with errors_in_one_line():
        sys.exit(main(sys.argv[1:]))
