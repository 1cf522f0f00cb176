"""The papers' tables from the result.json files of an output folder; `python -m experiments report OUTPUT`.

Data flows one way: runs -> recipes -> sheets of cells (averages, beside the papers' figures) -> tables -> sections ->
text and page (with figures).
"""

from .command import main

__all__ = ["main"]
