"""Names from elsewhere cannot steer a terminal, a log, a table or a spreadsheet. Expected texts are written out."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
import torch

from dassl.config import get_cfg_default
from dassl.evaluation import build_evaluator
from dassl.utils import (
    UserError,
    errors_in_one_line,
    in_csv,
    in_latex,
    in_markdown,
    printable,
    printable_json,
    printable_lines,
    setup_logger,
)

SHOWN = {
    "cat": "cat",
    "Löwe 猫 \u00a0🐈": "Löwe 猫 \u00a0🐈",
    "\x1b[2Jcat": r"\x1b[2Jcat",
    "cat\n* accuracy: 99.9%": r"cat\n* accuracy: 99.9%",
    "a\tb\rc\x00\x7f\x9b": r"a\tb\rc\x00\x7f\x9b",
    "\u202egpj.tac": r"\u202egpj.tac",
    "zero\u200bwidth\u2066\ufeff\u00ad": r"zero\u200bwidth\u2066\ufeff\xad",
    "line\u2028paragraph\u2029\x85": r"line\u2028paragraph\u2029\x85",
    "lone \ud800 \udcff": r"lone \ud800 \udcff",
    "tag \U000e0041": r"tag \U000e0041",
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.items(), ids=range(len(SHOWN)))
def test_hidden_characters_are_shown_by_their_number(text, shown):
    assert printable(text) == shown and shown.encode()
    assert printable_lines(text) == printable(text, keep="\n\t\r")


def test_every_control_and_format_character_is_hidden():
    hidden = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) in ("Cc", "Cf", "Cs")]
    assert len(hidden) > 2000 and printable("".join(hidden)).isascii()
    assert printable_lines("a\n\tb\r\x1b") == "a\n\tb\r\\x1b"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        printable_json({"probability": value})


@pytest.mark.parametrize("text", SHOWN, ids=range(len(SHOWN)))
def test_json_stays_json(text):
    content = {"image": text, "predictions": [{"class": f'"{text}"', "probability": 0.5}]}
    line = printable_json(content)
    assert json.loads(line) == content and printable(line) == line
    assert "猫" not in text or "猫" in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b\n# c", r"a\|b \# c"),
        ("<script>&#x202e;", r"\<script\>\&\#x202e;"),
        ("[x](y) `z` $1$ ~~_*", r"\[x\](y) \`z\` \$1\$ \~\~\_\*"),
        ("\x1b", r"\\x1b"),
    ],
)
def test_markdown(text, shown):
    assert in_markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("50% & $x_1^2$", r"50\% \& \$x\_1\textasciicircum{}2\$"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("[2cm] a", "{}[2cm] a"),
        ("* a", "{}* a"),
        ("a\n\nb", "a b"),
        ("\u202ea", r"\textbackslash{}u202ea"),
    ],
)
def test_latex(text, shown):
    assert in_latex(text) == shown


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\t=", "\uff1d"])
def test_csv_has_no_live_formula(start):
    shown = in_csv(f"{start}cmd|' /C calc'!A0")
    assert shown.startswith("'") and printable(shown) == shown


def test_csv_numbers_and_names_stay():
    values = [-1.5, 3, None, "cat", "a-b=c", "vit_b16_c2_ep10_batch4_4+4ctx"]
    assert [in_csv(value) for value in values] == values


def test_an_error_is_one_line_without_hidden_characters(capsys):
    with pytest.raises(SystemExit) as stopped, errors_in_one_line():
        raise UserError("no such class:", "\x1b[31mcat\u202e\nerror: all is well")
    assert stopped.value.code == r"error: no such class: \x1b[31mcat\u202e error: all is well"


def test_ctrl_c_is_one_line_and_status_130(capsys):
    with pytest.raises(SystemExit) as stopped, errors_in_one_line():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_log_and_the_console_have_no_hidden_characters(tmp_path, capsys, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # put back in the end
    setup_logger(str(tmp_path))
    print("reading \x1b]0;title\x07 \u202e\n\tsecond line")
    expected = "reading \\x1b]0;title\\x07 \\u202e\n\tsecond line\n"
    assert (tmp_path / "log.txt").read_text() == expected == capsys.readouterr().out


def test_a_class_name_cannot_forge_a_result_line(capsys):
    cfg = get_cfg_default()
    cfg.TEST.PER_CLASS_RESULT = True
    names = {0: "cat\n* accuracy: 99.9%", 1: "dog\x1b[2J"}
    evaluator = build_evaluator(cfg, lab2cname=names)
    evaluator.process(torch.eye(2), torch.tensor([1, 0]))
    evaluator.evaluate()
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("* accuracy")] == ["* accuracy: 0.0%"]
    assert r"(cat\n* accuracy: 99.9%)" in printed and r"(dog\x1b[2J)" in printed
    assert list(evaluator.per_class) == list(names.values())  # data stay as they are
