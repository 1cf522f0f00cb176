"""Experiments from declaration to report.

python -m experiments run FILE.yaml ...      plan the declared runs and work on them
python -m experiments report OUTPUT          tables and figures of everything that has finished
python -m experiments figures RUN --kind K   a figure of one run: its features, attention, mistakes, ...
python -m experiments one KIND METHOD ...    a single run; scripts/<method>/*.sh call it
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dassl.command_line import end_imports_in_one_line, errors_in_one_line, tell_of_imports
from experiments.arguments import make_parser


def main(arguments: Sequence[str]) -> int:
    """Exit status.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    given = make_parser().parse_args(arguments)  # before the imports that take seconds
    if given.command == "one":
        print(f"{' '.join(arguments[1:4])}: loading PyTorch", flush=True)
    else:
        tell_of_imports()
    if given.command == "report":
        from experiments import report

        return report.main(arguments[1:])
    if given.command == "figures":
        from experiments import figures

        return figures.main(arguments[1:])
    from experiments.launch import command, single

    return (command if given.command == "run" else single).main(given)


if __name__ == "__main__":
    end_imports_in_one_line()
    with errors_in_one_line():
        sys.exit(main(sys.argv[1:]))
