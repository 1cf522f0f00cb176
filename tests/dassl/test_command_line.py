"""The parser that all programs share: each mistake is one line, and Ctrl-C is no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dassl.command_line import (
    MAX_THREADS,
    ArgumentParser,
    errors_in_one_line,
    number_from,
    seed_number,
    show_program_as,
)
from dassl.config import get_cfg_default, merge_opts
from dassl.utils import BadValueError, UnknownKeyError, UserError, set_random_seed


def parser():
    parser = ArgumentParser(prog="some.py")
    parser.add_argument("--seed", type=seed_number)
    parser.add_argument("--workers", type=number_from(0))
    parser.add_argument("--threads", type=number_from(1, MAX_THREADS))
    parser.add_argument("--domains", nargs="+")
    parser.add_argument("--only", action="append")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("words", nargs="...")
    return parser


def mistake(words, capsys):
    """The one line that is printed; the exit status is 2."""
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(words)
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sed", "1"], "unknown flag --sed; did you mean --seed?"),
        (["--see", "1"], "did you mean --seed?"),
        (["--domain", "a"], "did you mean --domains?"),
        (["--seed", "1", "--seed", "2"], "--seed is given twice"),
        (["--seed", "1", "--seed=1"], "--seed is given twice"),
        (["--seed", ""], "--seed has an empty value"),
        (["--seed="], "--seed has an empty value"),
        (["--domains", "a", ""], "--domains has an empty value"),
        (["--seed", "-1"], "from 0 to 4294967295, not '-1'"),
        (["--seed", str(2**32)], f"not '{2**32}'"),
        (["--seed", str(2**64)], f"not '{2**64}'"),
        (["--seed", "one"], "4294967295, not 'one'"),
        (["--seed", "²"], "4294967295, not '²'"),
        (["--seed", "1_0"], "4294967295, not '1_0'"),
        (["--seed", "9" * 5000], "4294967295, not '999"),
        (["--workers", "²"], "should be a whole number, not '²'"),
        (["--workers", "-1"], "at least 0, not -1"),
        (["--workers", "1.5"], "not '1.5'"),
        (["--workers", "1_0"], "should be a whole number, not '1_0'"),
        (["--workers", "9" * 5000], f"should be at most {2**63 - 1}, not 999"),
        (["--workers", "-" + "9" * 5000], "should be at least 0, not -999"),
        (["--threads", "1025"], "should be at most 1024, not 1025"),
        (["--seed"], "--seed"),
    ],
)
def test_a_mistake_is_one_line(words, says, capsys):
    line = mistake(words, capsys)
    assert says in line and "python some.py --help" in line


def test_digits_of_other_scripts_are_digits():
    assert parser().parse_args(["--seed", "٤٢", "--workers", "٣"]).seed == 42


def test_right_words_are_taken():
    words = [
        "--fast",
        "--fast",
        "--only",
        "a",
        "--only",
        "b",
        "--domains",
        "x",
        "y",
        "--seed",
        str(2**32 - 1),
        "--workers",
        "0",
    ]
    args = parser().parse_args([*words, "KEY", "", "--seed"])  # what follows the first word is not read as flags
    assert (args.fast, args.only, args.domains, args.seed, args.workers) == (True, ["a", "b"], ["x", "y"], 2**32 - 1, 0)
    assert args.words == ["KEY", "", "--seed"]


def parser_with_old_spellings():
    parser = ArgumentParser(prog="some.py", examples=("--root data", "--model-dir 100% x"))
    parser.add_argument("--root", default="here", help="data")
    parser.add_argument("--model-dir", help="model (default: none)")
    parser.add_argument("--output-dir", required=True, help="output")
    parser.add_argument("--names", nargs="+", old_spellings=("--name",), default=["a", "b%"], help="names")
    parser.add_argument("--fast", action="store_true", help="be fast")
    return parser


@pytest.mark.parametrize("flags", [("--output-dir", "--root", "--model-dir"), ("--to", "--data", "--checkpoint")])
def test_old_spellings_mean_the_same(flags):
    output, root, model = flags
    args = parser_with_old_spellings().parse_args([output, "o", root, "r", f"{model}=m", "--name", "x", "y"])
    assert (args.output_dir, args.root, args.model_dir, args.names) == ("o", "r", "m", ["x", "y"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model-dir", "a", "--checkpoint", "b"], "--model-dir is given twice as --model-dir and --checkpoint"),
        (["--to", "a", "--to", "b"], "--output-dir is given twice: give it once"),
        (["--checkpont", "a"], "did you mean --model-dir?"),
        (["--checkpoint", ""], "--checkpoint has an empty value"),
    ],
)
def test_a_mistake_in_an_old_spelling_names_the_new_one(words, says, capsys):
    with pytest.raises(SystemExit):
        parser_with_old_spellings().parse_args(words)
    assert says in capsys.readouterr().err


def test_help_shows_defaults_and_examples_but_no_old_spelling():
    text = parser_with_old_spellings().format_help()
    assert "data (default: here)" in text and "names (default: a b%)" in text
    assert text.count("(default: none)") == 1 and "be fast\n" in text and "output\n" in text
    assert text.endswith("examples:\n  python some.py --root data\n  python some.py --model-dir 100% x\n")
    assert not any(old in text for old in ("--data", "--checkpoint", "--to", "--name "))


def test_help_and_errors_show_the_words_that_the_user_typed(monkeypatch, capsys):
    monkeypatch.setattr("dassl.command_line._shown_as", {})
    show_program_as("some.py", "tool some")
    parser = parser_with_old_spellings()
    assert "usage: tool some [-h]" in parser.format_help() and "\n  tool some --root data" in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--rot", "x"])
    assert "did you mean --root? (tool some --help explains the flags)" in capsys.readouterr().err


def test_flags_of_subcommands_are_checked_by_their_own_parser(capsys):
    top = ArgumentParser(prog="some.py")
    top.add_subparsers(dest="command").add_parser("run").add_argument("--data")
    assert top.parse_args(["run", "--data", "here"]).data == "here"
    with pytest.raises(SystemExit):
        top.parse_args(["run", "--dat", "here"])
    assert "did you mean --data?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["SEED", "1", "--trainer", "CoOp"], BadValueError, "--trainer comes after the pair of SEED: flags go before"),
        (["SEED", "1", "--eval-only"], BadValueError, "flags go before the KEY VALUE pairs"),
        (["SEED", "--eval-only"], BadValueError, "flags go before the KEY VALUE pairs"),
        (["SEED=1"], BadValueError, "without an equals sign: SEED 1, not SEED=1"),
        (["VERBOSE", "True", "SEED=1"], BadValueError, "SEED 1, not SEED=1"),
        (["SEED"], BadValueError, "SEED has no value"),
        (["OPTIM.LR", "SEED", "1"], BadValueError, "OPTIM.LR has no value"),
        (
            ["INPUT.SIZE", "(64,", "64)"],
            BadValueError,
            '"64)" is not a key (a value with spaces needs quotation marks)',
        ),
        (["DAEL.WEIGHT_U", "1"], UnknownKeyError, 'did you mean "TRAINER.DAEL.WEIGHT_U"?'),
        (["lr", "1"], UnknownKeyError, 'did you mean "OPTIM.LR"?'),
        (["BATCH_SIZE", "1"], UnknownKeyError, '"DATALOADER.TEST.BATCH_SIZE"'),
        (["WEIGHT_U", "1"], UnknownKeyError, " (or one of 2 more)"),
        (["OPTIM.LRR", "1"], UnknownKeyError, 'did you mean "OPTIM.LR"?'),
    ],
)
def test_words_that_are_no_pairs(words, error, says):
    cfg = get_cfg_default()
    with pytest.raises(error) as raised:
        merge_opts(cfg, words)
    assert says in str(raised.value)
    assert cfg == get_cfg_default()


def test_values_that_look_unusual_are_taken():
    cfg = get_cfg_default()
    merge_opts(cfg, ["SEED", "-1", "DATASET.ROOT", "a=b", "INPUT.INTERPOLATION", "", "OUTPUT_DIR", "-"])
    assert (cfg.SEED, cfg.DATASET.ROOT, cfg.INPUT.INTERPOLATION, cfg.OUTPUT_DIR) == (-1, "a=b", "", "-")


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_seeds_beyond_the_generators_are_refused(seed):
    with pytest.raises(BadValueError, match=f"from 0 to 4294967295, not {seed}"):
        set_random_seed(seed)
    set_random_seed(2**32 - 1)


def test_errors_and_interruptions_end_a_program_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped, errors_in_one_line():
        raise UserError("a thing")
    assert stopped.value.code == "error: a thing"
    with pytest.raises(SystemExit) as stopped, errors_in_one_line():
        raise KeyboardInterrupt
    assert stopped.value.code == 130 and capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ZeroDivisionError), errors_in_one_line():
        raise ZeroDivisionError  # a fault of ours keeps its traceback


@pytest.mark.parametrize(
    "body",
    [
        "with errors_in_one_line():\n    while True: print('a line')",
        "with errors_in_one_line():\n    print('held back'); sys.exit(3)",  # in a buffer until the program ends
        "ArgumentParser(prog='some.py').parse_args(['--help'])",
    ],
)
def test_a_program_whose_reader_has_ended_ends_quietly(body):
    imports = "import sys; from dassl.command_line import ArgumentParser, errors_in_one_line"
    program = f"{imports}; print('ready', flush=True); sys.stdin.readline()\n{body}"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": ""},  # otherwise argparse itself passes over the broken pipe
    )
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b"" and process.wait(timeout=30) == 141


def test_another_broken_pipe_is_not_the_readers():
    with pytest.raises(BrokenPipeError), errors_in_one_line():
        raise BrokenPipeError  # such as that of a worker process


def test_help_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = ArgumentParser(
        prog="some.py", description=f"{'word ' * 30}\n\n  a  b\n\nmore", examples=("x",)
    ).format_help()
    assert all(len(line) <= 60 for line in text.splitlines())
    assert "word word\n\n  a  b\n\nmore\n" in text and text.endswith("example:\n  python some.py x\n")


def test_an_interruption_while_modules_are_imported_is_one_line():
    program = (
        "import time; from dassl.command_line import end_imports_in_one_line; end_imports_in_one_line(); "
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "interrupted\n" and process.returncode == 130
