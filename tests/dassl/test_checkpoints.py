"""Checkpoint files: layout, atomic writing, foreign and hostile content."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from full_disk import disk_full_after
from torch import nn

from dassl.engine.run_record import RunRecord
from dassl.utils import (
    MismatchError,
    MissingFileError,
    UnreadableFileError,
    UnwritableFileError,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from dassl.utils.torchtools import last_common_checkpoint


def state_of(model, epoch, **more):
    return {"state_dict": model.state_dict(), "epoch": epoch, "optimizer": None, "scheduler": None, **more}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_only_numbered_files_are_checkpoints_of_an_epoch(tmp_path):
    """ "²" is a digit that `int` refuses; such names lie beside the checkpoints of two models without effect."""
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for folder, epochs in zip(folders, ((1, 2), (1,)), strict=True):
        for epoch in epochs:
            save_checkpoint(state_of(nn.Linear(3, 2), epoch), folder)
        for odd in ("²", "1²", "", "old"):
            (tmp_path / folder / f"model.pth.tar-{odd}").write_bytes(b"")
    assert last_common_checkpoint(folders) == "model.pth.tar-1"


def test_layout_and_keys(tmp_path, capsys):
    model = nn.Linear(3, 2)
    save_checkpoint(state_of(model, 2, val_result=81.5, extra={"note": "kept"}), str(tmp_path), is_best=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pth.tar-2", "model-best.pth.tar", "checkpoint"}
    assert (tmp_path / "checkpoint").read_text() == "model.pth.tar-2\n"
    content = torch.load(tmp_path / "model.pth.tar-2", weights_only=True)
    assert list(content) == ["state_dict", "epoch", "optimizer", "scheduler", "val_result", "extra"]
    assert content["epoch"] == 2 and equal(content["state_dict"], model.state_dict())
    assert "Checkpoint saved to" in capsys.readouterr().out
    save_checkpoint(state_of(model, 3), str(tmp_path), model_name="model-best.pth.tar")
    assert (tmp_path / "checkpoint").read_text() == "model-best.pth.tar\n"


def test_the_prefix_of_data_parallel_is_dropped(tmp_path):
    model = nn.Linear(3, 2)
    save_checkpoint(state_of(nn.DataParallel(model), 1), str(tmp_path))
    assert equal(load_checkpoint(tmp_path / "model.pth.tar-1")["state_dict"], model.state_dict())


def test_resume_restores_model_and_optimizer(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_checkpoint({**state_of(model, 7), "optimizer": optimizer.state_dict()}, str(tmp_path))
    again = nn.Linear(3, 2)
    optimizer_again = torch.optim.SGD(again.parameters(), lr=0.5, momentum=0.9)
    assert resume_from_checkpoint(str(tmp_path), again, optimizer_again) == 7
    assert equal(again.state_dict(), model.state_dict())
    buffers = [state["momentum_buffer"] for state in optimizer_again.state.values()]
    assert torch.equal(buffers[0], optimizer.state[model.weight]["momentum_buffer"])
    assert optimizer_again.param_groups[0]["lr"] == 0.1


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    save_checkpoint(state_of(nn.Linear(3, 2), 1), str(tmp_path))
    with pytest.raises(MismatchError, match=r"model\.pth\.tar-1 does not fit.*weight") as caught:
        resume_from_checkpoint(str(tmp_path), nn.Linear(3, 5))
    assert "\n" not in str(caught.value)
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
    save_checkpoint({**state_of(nn.Linear(3, 2), 1), "optimizer": optimizer.state_dict()}, str(tmp_path))
    other = nn.Linear(3, 2)
    with pytest.raises(MismatchError, match="optimizer in .*does not fit"):
        resume_from_checkpoint(
            str(tmp_path), other, torch.optim.SGD([{"params": [p]} for p in other.parameters()], lr=1)
        )


@pytest.mark.parametrize("pointer", ["", "../elsewhere/model.pth.tar-1\n", "a/b\n"])
def test_a_damaged_pointer_is_named(tmp_path, pointer):
    (tmp_path / "checkpoint").write_text(pointer)
    with pytest.raises(UnreadableFileError, match="checkpoint should contain the file name"):
        resume_from_checkpoint(str(tmp_path), nn.Linear(1, 1))


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)
    save_checkpoint(state_of(nn.Linear(30, 20), 1), str(tmp_path))
    whole = (tmp_path / "model.pth.tar-1").read_bytes()
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"hello, this is no checkpoint\n",
        "zip": None,
        "plain_pickle": pickle.dumps({"state_dict": {}, "epoch": object}),
    }
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("some/file.txt", "x")
    for name, content in damaged.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableFileError, match=f"{name} is not a checkpoint") as caught:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    torch.save(torch.zeros(3), tmp_path / "tensor")
    with pytest.raises(UnreadableFileError, match="its content is a Tensor, not a dictionary"):
        load_checkpoint(tmp_path / "tensor")


def test_mutated_files_end_in_a_clear_error_or_a_dictionary(tmp_path):
    path = tmp_path / "model.pth.tar-1"
    save_checkpoint(state_of(nn.Linear(3, 2), 1, note=[1, "two", 3.0]), str(tmp_path))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        mutated = bytearray(whole)
        for place in rng.integers(0, len(whole), size=rng.integers(1, 6)):
            mutated[place] = rng.integers(0, 256)
        path.write_bytes(mutated)
        try:
            assert isinstance(load_checkpoint(path), dict)
        except UnreadableFileError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 30


class _Mischief:
    """An object whose unpickling runs a command."""

    def __init__(self, function, *arguments):
        self.recipe = function, arguments

    def __reduce__(self):
        return self.recipe


class _Node:
    """A Python object with items of its own making; refers back to its owner."""

    def __init__(self, owner):
        self.owner = owner
        self.count = 3
        self.table = defaultdict(dict, {"a": {"b": 1}})


@pytest.mark.parametrize(
    "function", [os.system, eval, exec, subprocess.check_output, print, getattr], ids=lambda f: f.__name__
)
def test_hostile_files_give_their_tensors_and_run_nothing(tmp_path, function, capfd):
    trace = tmp_path / "trace"
    argument = f"touch {trace}" if function in (os.system,) else f"open({str(trace)!r}, 'w')"
    arguments = ([sys.executable, "-c", argument],) if function is subprocess.check_output else (argument,)
    arguments = ([], "append") if function is getattr else arguments
    tensors = OrderedDict(ctx=torch.arange(6.0).view(2, 3))
    content = {
        "state_dict": tensors,
        "epoch": 3,
        "scheduler": {"successor": _Mischief(function, *arguments), "last_epoch": 3},
    }
    torch.save(content, tmp_path / "model")
    read = load_checkpoint(tmp_path / "model")
    assert torch.equal(read["state_dict"]["ctx"], tensors["ctx"]) and read["epoch"] == 3
    assert read["scheduler"] == {"successor": {}, "last_epoch": 3}
    assert not trace.exists()
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) == 1 and "Python objects" in printed[0] and "only their plain values are read" in printed[0]
    # The file does run its command when it is unpickled the ordinary way, so the test means something.
    if function in (os.system, eval):
        torch.load(tmp_path / "model", weights_only=False)
        assert trace.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"momentum_buffer": torch.zeros(4, 4)},
            r"momentum_buffer of parameter 0 has shape \(4, 4\) instead of \(2, 3\)",
        ),
        ({"momentum_buffer": "x"}, "momentum_buffer of parameter 0 is not a tensor"),
        ({"lr": "fast"}, "lr is 'fast' instead of a value like '0.1'"),
        ({"lr": float("nan")}, "lr is 'nan'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_optimizer_state_that_would_fail_at_the_next_step_is_refused(tmp_path, change, told):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    target = state["param_groups"][0] if "lr" in change else state["state"][0]
    save_checkpoint({**state_of(model, 1), "optimizer": state}, str(tmp_path))
    resume_from_checkpoint(str(tmp_path), model, optimizer)
    save_checkpoint({**state_of(model, 1), "optimizer": (target.update(change), state)[1]}, str(tmp_path))
    fresh = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(MismatchError, match=f"optimizer in .*model.pth.tar-1 does not fit: {told}"):
        resume_from_checkpoint(str(tmp_path), model, fresh)


def test_python_objects_become_plain_values(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    owner = {}
    owner["node"] = _Node(owner)
    content = {
        **state_of(model, 1),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"successor": schedule},
        "more": owner,
    }
    torch.save(content, tmp_path / "model")
    read = load_checkpoint(tmp_path / "model")
    assert equal(read["state_dict"], model.state_dict())
    assert isinstance(read["state_dict"], OrderedDict) and read["state_dict"]._metadata == model.state_dict()._metadata
    assert torch.equal(
        read["optimizer"]["state"][0]["momentum_buffer"], optimizer.state[model.weight]["momentum_buffer"]
    )
    assert read["scheduler"]["successor"]["T_max"] == 9
    node = read["more"]["node"]
    assert type(node) is dict and node["count"] == 3 and node["table"] == {"a": {"b": 1}}


def test_results_that_are_numpy_numbers_are_read(tmp_path):
    values = {"f": np.float64(81.25), "h": np.float32(0.5), "i": np.int64(7), "b": np.bool_(True)}
    torch.save({**state_of(nn.Linear(1, 1), 1), **values}, tmp_path / "model")
    read = load_checkpoint(tmp_path / "model")
    assert {key: read[key] for key in values} == {"f": 81.25, "h": 0.5, "i": 7, "b": True}
    assert [type(read[key]) for key in values] == [float, float, int, bool]


def test_compressed_archives_are_refused(tmp_path):
    torch.save({"state_dict": {}, "scheduler": _Node(None)}, tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model") as source, zipfile.ZipFile(tmp_path / "bomb", "w") as bomb:
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnreadableFileError, match="bomb"):
        load_checkpoint(tmp_path / "bomb")


def test_a_flipped_bit_is_found_wherever_it_lies(tmp_path):
    """The zip's own checksums, which PyTorch does not look at, cover every tensor and the pickle program."""
    save_checkpoint(state_of(nn.Linear(30, 20), 1, note="kept"), str(tmp_path))
    path = tmp_path / "model.pth.tar-1"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if "data" in entry.filename and ".data" not in entry.filename]
    assert len(entries) == 3
    for entry in entries:
        start = entry.header_offset + 30 + int.from_bytes(whole[entry.header_offset + 26 :][:2], "little")
        start += int.from_bytes(whole[entry.header_offset + 28 :][:2], "little")
        for place in np.linspace(start, start + entry.file_size - 1, 7).astype(int):
            flipped = bytearray(whole)
            flipped[place] ^= 1
            path.write_bytes(flipped)
            with pytest.raises(UnreadableFileError, match=f"{entry.filename} is damaged: its checksum") as caught:
                load_checkpoint(path)
            assert str(path) in str(caught.value)
    path.write_bytes(whole[:-30])
    with pytest.raises(UnreadableFileError, match="it is an incomplete zip archive"):
        load_checkpoint(path)


def test_a_storage_cannot_claim_more_than_it_has(tmp_path):
    torch.save({"a": torch.arange(4.0)}, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as source, zipfile.ZipFile(tmp_path / "claims", "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(
                entry.filename, content.replace(b"K\x04t", b"M\x00\x40t").replace(b"K\x04\x85", b"M\x00\x40\x85")
            )
    with pytest.raises(UnreadableFileError, match="size"):
        load_checkpoint(tmp_path / "claims")


def test_values_that_refer_to_each_other_without_bound_are_read_once(tmp_path):
    laughs = [_Node(None)]
    for _ in range(60):
        laughs = [laughs, laughs]
    torch.save({"state_dict": {}, "laughs": laughs}, tmp_path / "model")
    read = load_checkpoint(tmp_path / "model")["laughs"]
    for _ in range(60):
        assert read[0] is read[1]
        read = read[0]
    assert read[0]["count"] == 3


def test_many_classes_and_objects_are_refused_at_once(tmp_path):
    """PyTorch's unpickler looks through all allowed classes for each object: these would take it a minute."""
    objects = b"".join(b"cmodule_%d\nname\n)R" % number for number in range(7000))
    torch.save({}, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as source, zipfile.ZipFile(tmp_path / "many", "w") as target:
        for entry in source.infolist():
            is_program = entry.filename.endswith("data.pkl")
            program = b"\x80\x02}X\x01\x00\x00\x00a(" + objects + b"ts."
            target.writestr(entry.filename, program if is_program else source.read(entry))
    with pytest.raises(UnreadableFileError, match="7,000 objects of 7,000 classes"):
        load_checkpoint(tmp_path / "many")


def test_the_message_about_a_program_does_not_advise_to_run_it(tmp_path):
    torch.save({"state_dict": _Mischief(os.system, "true")}, tmp_path / "model", _use_new_zipfile_serialization=False)
    with pytest.raises(UnreadableFileError, match="GLOBAL posix.system") as error:
        load_checkpoint(tmp_path / "model")
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_call_that_would_fill_the_memory_is_not_made(tmp_path, new_format):
    content = {"state_dict": {}, "bomb": _Mischief(bytearray, 10**13)}
    torch.save(content, tmp_path / "model", _use_new_zipfile_serialization=new_format)
    if new_format:
        assert load_checkpoint(tmp_path / "model")["bomb"] == {}
    else:
        with pytest.raises(UnreadableFileError, match="it uses .* bytearray"):
            load_checkpoint(tmp_path / "model")


def test_an_attribute_out_of_the_file_does_not_hide_a_method(tmp_path):
    node = _Node(None)
    node.items = node.keys = node.update = "not a method"
    torch.save({"state_dict": {}, "node": node}, tmp_path / "model")
    assert load_checkpoint(tmp_path / "model")["node"]["items"] == "not a method"


def test_a_full_disk_is_one_line_and_leaves_the_last_good_checkpoint(tmp_path):
    save_checkpoint(state_of(nn.Linear(3, 2), 1), str(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with disk_full_after(20_000), pytest.raises(UnwritableFileError) as caught:
        save_checkpoint(state_of(nn.Linear(200, 200), 2), str(tmp_path))
    assert str(caught.value).startswith(f"cannot write {tmp_path}/model.pth.tar-2: ") and "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableFileError, match="cannot create the folder .*file/model: Not a directory"):
        save_checkpoint(state_of(nn.Linear(1, 1), 1), str(tmp_path / "file" / "model"))


def test_pretrained_weights_report_what_was_used(tmp_path, capsys):
    source, target = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 5))
    target.add_module("extra", nn.Linear(1, 1))
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()} | {"odd": torch.ones(1)}},
               tmp_path / "weights")  # fmt: skip
    load_pretrained_weights(target, str(tmp_path / "weights"))
    assert torch.equal(target[0].weight, source[0].weight)
    printed = capsys.readouterr().out
    assert "Loaded 2 of 6 layers" in printed and "0.weight, 0.bias" in printed
    assert "unmatched names (1): odd" in printed
    assert "NOT loaded because of their shape (2): 1.weight (3, 2) for (5, 2)" in printed
    assert "not in the file (2): extra.weight, extra.bias" in printed
    torch.save(source.state_dict(), tmp_path / "plain")
    load_pretrained_weights(source, str(tmp_path / "plain"))
    with pytest.raises(MismatchError, match="no tensor name matches"):
        load_pretrained_weights(nn.BatchNorm1d(3, affine=False), str(tmp_path / "plain"))
    with pytest.raises(MismatchError, match="wrong shape"):
        load_pretrained_weights(nn.Sequential(nn.Linear(7, 7)), str(tmp_path / "plain"))


@pytest.mark.parametrize(
    "changed",
    [
        {"frozen": 3}, {"start": ["a"]}, {"classnames": None}, {"images": {"test": 1}}, {"weights": {"model": 1}},
        {"extended_after": ["x"]}, {"epochs": "2"}, {"config": []}, {"other": 1},
    ],
)  # fmt: skip
def test_a_record_with_entries_of_another_kind_is_damaged(changed):
    record = RunRecord(config={}, classnames="ab", images={}, epochs=2)
    assert RunRecord.of_checkpoint({"run": record.to_text()}, "a.pth") == record
    text = json.dumps(json.loads(record.to_text()) | changed)
    with pytest.raises(UnreadableFileError, match='a.pth is damaged: "run" does not describe a run'):
        RunRecord.of_checkpoint({"run": text}, "a.pth")
