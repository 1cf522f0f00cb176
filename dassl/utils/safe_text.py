"""Makes text from files (class names, file names, results) safe for the place where it is shown.

A name may contain characters that move a terminal's cursor, reverse the direction of a line, end a table's cell, or
start a spreadsheet formula. Here they are shown without effect. Data files keep names as they are.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: controls, format characters (bidirectional, zero-width), surrogates, line separators."""

_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""What a spreadsheet treats as the start of a formula, including full-width forms."""

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    **{character: f"{character}{{}}" for character in "ßæœøåÆŒØÅ§¶©"},
}
"""How pdfLaTeX is told to print a character."""

_LATEX_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")
"""Accents that every font of pdfLaTeX can put on a letter."""


def printable(text: object, keep: str = "") -> str:
    r"""`text` with every hidden character by its number: `\x1b`, `\u202e`; line breaks and tabs as `\n`, `\t`.

    Args:
        keep: hidden characters that stay as they are.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if _is_hidden(character) and character not in keep else character
        for character in text
    )


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN


def printable_lines(text: str) -> str:
    """As `printable`, but keeps line breaks, tabs and carriage returns."""
    return printable(text, keep="\n\t\r")


def printable_json(content: Any) -> str:
    r"""`content` as JSON on one line: letters of all scripts as they are, hidden characters as `\uXXXX`.

    Raises:
        ValueError: the content has NaN or infinity, which JSON does not support.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)  # escapes control characters
    return "".join(json.dumps(character)[1:-1] if _is_hidden(character) else character for character in text)


def in_markdown(text: str) -> str:
    """Text of a Markdown table or list: nothing in it is markup, an HTML tag or entity, or the end of a cell."""
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", printable(" ".join(text.split())))


def in_latex(text: str) -> str:
    r"""Text of a LaTeX table that every pdfLaTeX can print; letters that it cannot print are given by their number.

    After `\\` a cell must not start with `[` or `*`, which LaTeX reads as an argument.
    """
    escaped = "".join(map(_character_in_latex, printable(" ".join(text.split()))))
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def _character_in_latex(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    letter, *accents = unicodedata.normalize("NFD", character)
    accented = character < "\u0180" and letter.isascii() and _LATEX_ACCENTS.issuperset(accents)
    return character if accented else f"U+{ord(character):04X}"


def in_csv(value: Any) -> Any:
    """A value of a CSV file: text that a spreadsheet would run as a formula gets a leading apostrophe, numbers stay."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if _FORMULA.match(value) else shown
