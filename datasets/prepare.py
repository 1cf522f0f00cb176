"""`python -m datasets.prepare`: see `datasets.acquire.prepare`."""

import sys

from dassl.command_line import errors_in_one_line
from datasets.acquire.arguments import make_prepare_parser

if __name__ == "__main__":  # before the imports that take seconds
    make_prepare_parser().parse_args()

from datasets.acquire.prepare import main

if __name__ == "__main__":
    with errors_in_one_line():
        sys.exit(main())
