"""TorchScript archives, OpenAI's format, are read as data, bit for bit as PyTorch does, and none of their code runs."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clip import clip
from clip.backbones import checkpoint as weights
from clip.model import CLIP, convert_weights
from dassl.utils import UserError
from dassl.utils.torchscript_files import read_torchscript

SIZES = {
    "vit": dict(image_resolution=32, vision_layers=2, vision_width=64, vision_patch_size=16),
    "resnet": dict(image_resolution=64, vision_layers=(1, 2, 1, 1), vision_width=8, vision_patch_size=None),
}
TEXT = dict(context_length=77, vocab_size=60, transformer_width=128, transformer_heads=2, transformer_layers=2)

pytestmark = pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, and traces warn about branches


def openai_model(tower: str) -> nn.Module:
    """OpenAI's structure in float16."""
    torch.manual_seed(0)
    model = CLIP(embed_dim=32, **SIZES[tower], **TEXT).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_()
    convert_weights(model)
    return model


class WithNumbers(nn.Module):
    """A CLIP under its own tensor names, and the three numbers, traced as OpenAI's files were."""

    def __init__(self, model: nn.Module, resolution: int) -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, value in (("input_resolution", resolution), ("context_length", 77), ("vocab_size", 60)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image: Tensor) -> Tensor:
        return self.visual(image) * self.logit_scale.exp()


class Unusual(nn.Module):
    """What else a module may hold: an attribute that is a mask, lists, no bias, a tied weight, a view, text."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.layers = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.attn_mask = torch.full((3, 3), float("-inf")).triu_(1)
        self.numbers, self.words = [1, 2], {"a": 1.5}
        self.tied = self.layers[0].weight
        self.turned = nn.Parameter(torch.arange(6.0).view(2, 3).t())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.attn_mask[0, 0] + self.passing.sum() + self.turned.sum() + self.numbers[0]


def archive_of(kind: str, path: Path) -> Path:
    if kind == "unusual":
        module = torch.jit.script(Unusual())
    else:
        resolution = SIZES[kind]["image_resolution"]
        model = WithNumbers(openai_model(kind), resolution).eval()
        module = torch.jit.trace(model, torch.zeros(1, 3, resolution, resolution, dtype=torch.float16))
    module.save(str(path))
    return path


@pytest.mark.parametrize("kind", ["vit", "resnet", "unusual"])
def test_what_is_read_is_what_pytorch_reads(kind, tmp_path):
    path = archive_of(kind, tmp_path / "archive.pt")
    read = read_torchscript(path)
    expected = torch.jit.load(str(path), map_location="cpu").state_dict()
    assert list(read) == list(expected) and len(read) > 6
    for name, tensor in expected.items():
        assert (read[name].dtype, read[name].shape, read[name].stride()) == (
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        assert torch.equal(read[name], tensor), name


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_model_is_built_from_the_archive(kind, tmp_path):
    path = archive_of(kind, tmp_path / "archive.pt")
    half, model = openai_model(kind), clip.load(str(path), device="cpu")[0]
    assert model.visual.input_resolution == SIZES[kind]["image_resolution"]
    assert weights.read_state_dict(path)["visual.conv1.weight"].dtype == torch.float16
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, half.state_dict()[name].to(tensor.dtype)), name


class WritesAFile(nn.Module):
    """Creates a file when `torch.jit.load` restores it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.weight = path, nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return self.path, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.path, self.weight, self.training = state[0], state[1], state[2]
        self.weight = torch.from_file(state[0], True, 2)


class NeverReturns(WritesAFile):
    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.path, self.weight, self.training = state[0], state[1], state[2]
        count = 0
        while count >= 0:
            count = (count + 1) % 10


class Prints(WritesAFile):
    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.path, self.weight, self.training = state[0], state[1], state[2]
        print("code of the archive runs")


class Holder(nn.Module):
    """An ordinary model with an attack in one of its parts."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.first, self.part = nn.Linear(2, 2), part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.first(x))


def refused(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600, message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("attack", [WritesAFile, NeverReturns, Prints])
@pytest.mark.parametrize("wrap", [lambda module: module, Holder], ids=["alone", "inside"])
def test_code_in_an_archive_does_not_run(attack, wrap, tmp_path, capfd):
    trap, path = tmp_path / "trap", tmp_path / "attack.pt"
    torch.jit.script(wrap(attack(str(trap)))).save(str(path))
    for read in (weights.read_state_dict, lambda file: clip.load(str(file), device="cpu")):
        refused(lambda read=read: read(path), "attack.pt")
    assert not trap.exists() and "code of the archive" not in capfd.readouterr().out
    if attack is not NeverReturns:  # PyTorch does run it, so the test means something
        torch.jit.load(str(path))
        assert trap.exists() == (attack is WritesAFile)
        assert ("code of the archive runs" in capfd.readouterr().out) == (attack is Prints)


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None], **how: int) -> Path:
    """A copy of an archive with other entries."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content, **(how if "/data" in name else {}))
    return target


@pytest.fixture
def archive(tmp_path) -> Path:
    return archive_of("unusual", tmp_path / "archive.pt")


def test_code_that_would_not_compile_does_not_matter(archive, tmp_path):
    def spoil(entries):
        for name, content in entries.items():
            if name.endswith(".py") and b"class Unusual(Module)" in content:
                entries[name] = content + b"\n  def f(self) -> int:\n    this is no code (((\n"

    expected = read_torchscript(archive)
    read = read_torchscript(rewritten(archive, tmp_path / "spoilt.pt", spoil))
    assert list(read) == list(expected)
    with pytest.raises(RuntimeError):
        torch.jit.load(str(tmp_path / "spoilt.pt"))


def test_a_module_that_contains_itself_is_refused(archive, tmp_path):
    def forge(entries):
        module, name = entries["archive/data.pkl"][3:].split(b"\n")[:2]
        program = b"\x80\x02c%b\n%b\n)\x81q\x01}(X\x04\x00\x00\x00selfh\x01ub." % (module, name)
        entries["archive/data.pkl"] = program

    path = rewritten(archive, tmp_path / "cycle.pt", forge)
    refused(lambda: weights.read_state_dict(path), "cycle.pt", "contain themselves")


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_the_layout_of_2021(kind, tmp_path):
    """OpenAI's files were written by PyTorch 1.7: no byte order, no identifier, no debug information."""

    def age(entries):
        for name in list(entries):
            if name.endswith((".debug_pkl", "/byteorder", "/.data/serialization_id")):
                del entries[name]
        entries["archive/version"] = b"3\n"

    archive = archive_of(kind, tmp_path / "archive.pt")
    old = rewritten(archive, tmp_path / "old.pt", age)
    expected, read = torch.jit.load(str(old), map_location="cpu").state_dict(), read_torchscript(old)
    assert list(read) == list(expected)
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


def forged_program(change: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    def apply(entries: dict[str, bytes]) -> None:
        changed = change(entries["archive/data.pkl"])
        assert changed != entries["archive/data.pkl"]
        entries["archive/data.pkl"] = changed

    return apply


def test_forged_archives_are_refused(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mischief = b"cos\nsystem\n(X\x0a\x00\x00\x00touch trapt" + b"R0"
    forged = {
        # 4 numbers more than the storage holds
        "larger.pt": forged_program(lambda program: program.replace(b"K\x09tQ", b"K\x0dtQ", 1)),
        "shorter.pt": lambda entries: entries.update({"archive/data/0": entries["archive/data/0"][:-4]}),
        "missing.pt": lambda entries: entries.pop("archive/data/0"),
        "system.pt": forged_program(lambda program: program[:2] + mischief + program[2:]),
        "pickle.pt": lambda entries: entries.update({"archive/data.pkl": pickle.dumps({"a": [1]}, protocol=2)}),
        "no_code.pt": lambda entries: [entries.pop(name) for name in list(entries) if "/code/" in name],
        "deep.pt": lambda entries: entries.update({"archive/data.pkl": b"\x80\x02" + b"]" * 9999 + b"a" * 9998 + b"."}),
    }
    for name, change in forged.items():
        path = rewritten(archive, tmp_path / name, change)
        refused(lambda path=path: weights.read_state_dict(path), name)
    assert not Path("trap").exists()


def test_compressed_damaged_and_overlapping_entries_are_refused(archive, tmp_path):
    bomb = rewritten(archive, tmp_path / "bomb.pt", lambda entries: None, compress_type=zipfile.ZIP_DEFLATED)
    refused(lambda: weights.read_state_dict(bomb), "bomb.pt", "is compressed")
    flipped = bytearray(archive.read_bytes())
    flipped[flipped.index(torch.full((3, 3), float("-inf")).triu_(1).numpy().tobytes())] ^= 1
    (tmp_path / "flipped.pt").write_bytes(flipped)
    refused(lambda: weights.read_state_dict(tmp_path / "flipped.pt"), "flipped.pt", "checksum does not match")
    with zipfile.ZipFile(archive, "a") as twice, pytest.warns(UserWarning):
        twice.writestr("archive/data/0", b"other")
    refused(lambda: weights.read_state_dict(archive), "archive/data/0 occurs twice")


def test_code_that_unpacks_to_gigabytes_is_refused(archive, tmp_path):
    path = tmp_path / "bomb.pt"
    path.write_bytes(archive.read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/code/__torch__/bomb.py", b" " * (65 << 20))
    refused(lambda: weights.read_state_dict(path), "bomb.pt", "its code unpacks to more than")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_tensors_of_odd_types_are_refused(dtype, tmp_path):
    torch.save({"a": torch.zeros(2).to(dtype)}, tmp_path / "odd.pt")
    refused(lambda: weights.read_state_dict(tmp_path / "odd.pt"), "odd.pt", "tensor a is not an ordinary tensor")


def test_sparse_tensors_are_refused(tmp_path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "sparse.pt")
    refused(lambda: weights.read_state_dict(tmp_path / "sparse.pt"), "sparse.pt", "tensor a is not an ordinary tensor")


class Uninitialised:
    """A tensor of 20 GB that no value in the file stands for."""

    def __reduce__(self):
        return torch.HalfTensor, (10**5, 10**5)


def test_a_tensor_without_values_is_refused(tmp_path):
    torch.save({"a": Uninitialised()}, tmp_path / "empty.pt")
    refused(lambda: weights.read_state_dict(tmp_path / "empty.pt"), "empty.pt")


def test_few_values_that_stand_for_many_are_refused(tmp_path):
    """Converted to float32, this one would take four terabytes."""
    torch.save({"a": torch.zeros(1, dtype=torch.half).expand(10**6, 10**6)}, tmp_path / "wide.pt")
    refused(lambda: weights.read_state_dict(tmp_path / "wide.pt"), "wide.pt", "the file holds only")
