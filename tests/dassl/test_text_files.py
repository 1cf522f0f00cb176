"""YAML and JSON files that are damaged or made to do harm: one line that names the file, at once."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from dassl.config import get_cfg_default, merge_file
from dassl.utils import BadValueError, MissingFileError, UnreadableFileError, read_json, write_json
from dassl.utils.yaml_files import read_yaml
from datasets.layout.errors import BadDataError
from datasets.layout.files import read_json_object

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
STAIRS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 400))


def test_ordinary_yaml(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &base {x: 1, y: [1, 2.5, null, yes, 'é']}\nother:\n  <<: *base\n  x: 2\n")
    base = {"x": 1, "y": [1, 2.5, None, True, "é"]}
    assert read_yaml(tmp_path / "a.yaml") == {"base": base, "other": base | {"x": 2}}
    (tmp_path / "numbers.yaml").write_text("[0, 01, -0.5, 1_000, 0x1F, 08, '010', '1:30']\n")
    assert read_yaml(tmp_path / "numbers.yaml") == [0, 1, -0.5, 1000, 31, "08", "010", "1:30"]
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, r"line \d+: has more than 100,000 values"),
        (MERGED, r"line \d+: has more than 100,000 values"),
        (STAIRS, "nested more than 50 times"),
        ("[" * 60 + "]" * 60, "nested more than 50 times"),
        ("[" * 5000 + "]" * 5000, "recursion"),
        ("a: &a {b: *a}", "line 1: a value contains itself"),
        ("a: &a [1, [*a]]", "line 1: a value contains itself"),
        ("&a ? *a : 1", "."),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "line 5: the key 'c' occurs twice"),
        ("a: 1\n'a': 2\n", "line 2: the key 'a' occurs twice"),
        ("1: 1\n0x1: 2\n", "line 2: the key '0x1' occurs twice"),
        ("? [1, 2]\n: x", "a key must be a single value"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: " + "9" * 5000, "digits"),
        ("a: \x00", "special characters are not allowed"),
        ("a: 2020-99-99", "month"),
        ("a: 1\nb: [2, 010]", "line 2: YAML reads 010 as a number in base 8 or 60; write it in base 10"),
        ("a: -017", "YAML reads -017 as"),
        ("a: 1:30", "YAML reads 1:30 as"),
        ("a: 1:30.5", "YAML reads 1:30.5 as"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, says):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(UnreadableFileError, match=says) as caught:
        read_yaml(path)
    assert f"cannot read {path}: " in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UnreadableFileError, match=re.escape(f"cannot read {path}: ")):
        merge_file(get_cfg_default(), str(path))
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' occurs twice"),
        ('{"a": NaN}', "it contains NaN"),
        ("[-Infinity]", "it contains -Infinity"),
        ("[" * 100_000, "recursion"),
        ("9" * 5000, "digits"),
        ("{", "."),
    ],
)
def test_json_that_is_refused(tmp_path, text, says):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match=f"a.json is not valid JSON: .*{says}"):
        read_json(path)
    with pytest.raises(BadDataError, match="a.json"):
        read_json_object(str(path))


def test_what_is_written_can_be_read(tmp_path):
    content = {"a": [1, 2.5, None, "é\ud800"], "b": {}}
    write_json(content, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == content
    for value in (float("nan"), float("-inf")):
        with pytest.raises(BadValueError, match="a.json: NaN and infinite numbers are not JSON"):
            write_json({"a": [value]}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == content


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_what_is_no_file_of_text(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "bytes"):
        with pytest.raises(UnreadableFileError, match=re.escape(f"cannot read {path}: ")):
            read(path)
    with pytest.raises(MissingFileError, match="no such file: .*nowhere"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["a: !!bool foo", "a: !!int ''", "a: !!timestamp foo", "a: !!float x"])
def test_values_that_are_not_of_their_tag_are_one_line(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match=f"cannot read {re.escape(str(path))}: "):
        read_yaml(path)
