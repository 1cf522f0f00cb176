"""`python -m datasets.check`: see `datasets.acquire.check`."""

import sys

from dassl.command_line import errors_in_one_line
from datasets.acquire.arguments import parse_check

if __name__ == "__main__":  # before the imports that take seconds
    parse_check()

from datasets.acquire.check import main

if __name__ == "__main__":
    with errors_in_one_line():
        sys.exit(main())
