"""`python -m datasets.prepare`: see `datasets.acquire.prepare`."""

import sys

from dassl.command_line import errors_in_one_line
from datasets.acquire.arguments import parse_prepare

if __name__ == "__main__":  # before the imports that take seconds
    parse_prepare()

from datasets.acquire.prepare import main

if __name__ == "__main__":
    with errors_in_one_line():
        sys.exit(main())
