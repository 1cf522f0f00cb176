"""Every method's life on a device that is not the CPU: built, trained, captured, tested, saved, resumed, deployed.

`test_pretend_gpu.py` runs this file. The GPU is pretended (`helpers/pretend_gpu.py`). Expected numbers: the same run on
the CPU, whose kernels do the work of both; they differ by the order of a few sums.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from golden_data import images, training_batch
from meta_by_hand import FAMILY_OPTIONS
from pretend_gpu import PRETEND_GPU, WAITS, PretendTensor
from tiny_runs import NODES, build_trainer, learned, set_position
from trained_runs import Runs

from deploy.load import TrainedFolder, load_trained
from trainers.core import modulator
from trainers.core.captured import Capture, CapturedFunctions
from trainers.core.obstacles import CaptureCheck

ON_FAMILIES = {
    f"ProMetaR on {name}": (
        "ProMetaR",
        {"PROMPTS": name, "N_CTX_TEXT": 2, "N_CTX_VISION": 2, **FAMILY_OPTIONS.get(name, {})},
    )
    for name in ("CoOp", "VPT", "MaPLe", "PromptSRC", "MultiModalAdapter")
}
STEPPING = {name: (name, {}) for name in NODES if name != "LinearProbe"} | ON_FAMILIES
"""Methods that train by steps, with their settings"""
BATCHES = (0, 3)
"""Of the golden data. ProMetaR's query and support are one and three images of the first, two and two of the other."""


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Whoever wants a GPU gets the pretended one. Large tensors are read by rows, or their networks take too long."""
    for user in ("dassl.engine.simple_trainer", "deploy.load"):
        monkeypatch.setattr(f"{user}.chosen_device", lambda wanted: PRETEND_GPU if wanted else torch.device("cpu"))
    monkeypatch.setattr(modulator, "MOST_WEIGHTS", 2**17)


@pytest.fixture
def build(tiny_cfg):
    """Builds a trainer with given settings on the pretended GPU, or on the CPU."""

    def make(name, options=(), on_gpu=True):
        torch.manual_seed(0)
        return build_trainer(tiny_cfg(name, {"USE_CUDA": on_gpu, "TRAINER.CPU_REPLAY": "off", **dict(options)}))

    return make


def train(trainer, batches=BATCHES):
    """A step on each batch; all learned tensors at the end, on the CPU."""
    for number in batches:
        torch.manual_seed(number)
        random.seed(number)
        set_position(trainer, number, batches_per_epoch=2)
        trainer.forward_backward(training_batch(number))
    return {name: tensor.cpu() for name, tensor in learned(trainer).items()}


def logits(trainer):
    trainer.set_model_mode("eval")
    with torch.no_grad():
        found = trainer.inferred_logits(images()["heldout_images"].to(trainer.device))
    assert found.device == trainer.device
    return found.cpu()


class AgainOnTheSameBuffers:
    """A recorder that stands in for CUDA graphs: refuses what they cannot contain, and does the rest once more."""

    name, first_recorded_call = "stand-in", 1

    def capture(self, run):
        with CaptureCheck():
            outputs = run()

        def replay():
            before = Counter(WAITS)
            for buffer, value in zip(tensors_of(outputs), tensors_of(run()), strict=True):
                buffer.copy_(value)
            assert before == WAITS, "a captured function waits for the device"

        return Capture(outputs, replay)


def tensors_of(tree):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("variant", STEPPING)
def test_captured_steps_equal_those_on_the_cpu(build, variant):
    """Graphs are made in the first round of batches and replayed in the second, in which the host waits once a step."""
    name, options = STEPPING[variant]
    trainer, on_cpu = build(name, options), build(name, options, on_gpu=False)
    trainer.captured = CapturedFunctions(AgainOnTheSameBuffers())
    train(trainer)
    assert trainer.captured.graphs and not trainer.captured.refused
    WAITS.clear()
    found = train(trainer)
    assert dict(WAITS) == {"tolist": len(BATCHES), "aten::_to_copy": len(found)}  # reported numbers; `train`
    assert {parameter.device for parameter in trainer.prompts.parameters()} == {PRETEND_GPU}
    train(on_cpu)
    torch.testing.assert_close(found, train(on_cpu), rtol=1e-4, atol=5e-6)
    torch.testing.assert_close(logits(trainer), logits(on_cpu), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["CoOp", "IVLP", "ProMetaR"])
def test_half_precision(build, name, precision):
    """Towers compute in halves, learned tensors stay float32 and near those of a run in float32 from the same start."""
    half, single = build(name, {"PREC": precision}), build(name, on_gpu=False)
    for tensor, start in zip(half.theta().values(), single.theta().values(), strict=True):
        tensor.copy_(start)  # some versions of PyTorch draw other values in half precision
    found, expected = train(half, BATCHES[:1]), train(single, BATCHES[:1])
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert not all(map(torch.equal, found.values(), expected.values()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name", ["ZeroshotCLIP", "LinearProbe", "CLIPLoRA", "IVLP", "ProMetaR"])
def test_a_run_moves_between_devices(runs, name, capsys):
    """Trained and tested on a GPU, it serves on the CPU and on a GPU."""
    trainer = runs(name, USE_CUDA=True)
    assert trainer.device == PRETEND_GPU and "* accuracy" in capsys.readouterr().out
    expected, classes = logits(trainer), trainer.dm.dataset.classnames
    pictures = images()["heldout_images"]
    for use_cuda in (False, True):
        _, model = load_trained(TrainedFolder(trainer.output_dir), classes, use_cuda=use_cuda)
        assert (model.device == PRETEND_GPU) == use_cuda
        found = model.logits(pictures.to(model.device)).cpu()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["IVLP", "ProMetaR"])
def test_a_resumed_run_has_the_same_bits(build, name, tmp_path):
    trainer, again = build(name), build(name)
    train(trainer, BATCHES[:1])
    trainer.save_model(0, str(tmp_path))
    again.resume_model_if_exist(str(tmp_path))
    again._restore_training_state()
    assert all(map(torch.equal, train(again, BATCHES[1:]).values(), train(trainer, BATCHES[1:]).values()))


def test_what_a_gpu_refuses(build):
    """So that the tests above can fail."""
    on_gpu, on_cpu = torch.ones(2, 3).to(PRETEND_GPU), torch.ones(3, 2)
    with pytest.raises(RuntimeError, match="same device: aten::mm"):
        on_gpu @ on_cpu
    with pytest.raises(TypeError, match="numpy"):
        on_gpu.numpy()
    WAITS.clear()
    assert on_gpu.sum().item() == 6 and isinstance(on_gpu[:, torch.tensor([0])], PretendTensor)
    assert on_gpu.cpu().device.type == "cpu" and (on_gpu * torch.tensor(2.0)).tolist() == [[2.0] * 3] * 2
    assert dict(WAITS) == {"aten::_local_scalar_dense": 1, "aten::_to_copy": 1, "tolist": 1}
    trainer = build("CoOp")
    trainer.prompts.clip.logit_scale = torch.nn.Parameter(torch.ones(3))  # forgotten on the CPU
    with pytest.raises(RuntimeError, match="same device"):
        trainer.forward_backward(training_batch(0))
