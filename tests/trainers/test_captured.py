"""Captured steps equal eager ones to the last bit, and what cannot be captured is said.

Expected numbers: the same steps without capture. On a CPU steps are replayed from their operations
(`trainers.core.replay`); with a GPU the same lines test CUDA graphs.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from golden_data import images
from meta_by_hand import FAMILY_OPTIONS
from tiny_runs import NODES, build_trainer, learned, set_position
from torch.utils._python_dispatch import TorchDispatchMode

from dassl.engine.anomalies import NonFiniteError
from dassl.utils import UserError, use_deterministic_algorithms
from trainers import cocoop, prometar
from trainers.core import captured, modulator
from trainers.core.captured import CapturedFunctions
from trainers.core.recorders import CHOICES, choose_recorder, recorder_for
from trainers.core.replay import CpuRecorder

STRONG = {"ADAPT_LR": 0.5, "LR_RATIO": 1.0, "OPTIM_VNET.LR": 10.0}
ADAPTERS = FAMILY_OPTIONS["MultiModalAdapter"] | {"TRAINER.MMADAPTER.ADAPTER_START": 1}
VARIANTS = {name: (name, {}) for name in NODES} | {
    "ProMetaR": ("ProMetaR", STRONG),
    "ProMetaR, phi by Adam": ("ProMetaR", STRONG | {"OPTIM_VNET.NAME": "adam", "OPTIM_VNET.STEP_LR": True}),
    "ProMetaR on CoOp": ("ProMetaR", STRONG | {"PROMPTS": "CoOp", "FAST_ADAPTATION": True}),
    "ProMetaR on VPT": ("ProMetaR", STRONG | {"PROMPTS": "VPT", "PREC": "bf16"}),
    "ProMetaR on MaPLe": ("ProMetaR", STRONG | {"PROMPTS": "MaPLe", "TRAINER.TEXT_CHUNK": 4}),
    "ProMetaR on PromptSRC": ("ProMetaR", STRONG | {"PROMPTS": "PromptSRC", "REGULARIZER": "promptsrc"}),
    "ProMetaR on MMA": ("ProMetaR", STRONG | {"PROMPTS": "MMA", "PREC": "amp"} | ADAPTERS),
    "ProMetaR in chunks": ("ProMetaR", STRONG | {"PROMPTS": "CoOp", "TRAINER.TEXT_CHUNK": 4}),
    "ProMetaR, amp": ("ProMetaR", STRONG | {"PREC": "amp"}),
    "IVLP, amp": ("IVLP", {"PREC": "amp"}),
}


@pytest.fixture(autouse=True)
def first_calls_are_recorded(monkeypatch):
    """On a CPU too, so that the same lines test both recorders."""
    monkeypatch.setattr(CpuRecorder, "first_recorded_call", 1)


@pytest.fixture(autouse=True)
def large_tensors_are_read_by_rows(monkeypatch):
    """The networks of MaPLe's projections would take most of the time."""
    monkeypatch.setattr(modulator, "MOST_WEIGHTS", 2**17)


@pytest.fixture(autouse=True)
def same_bits_in_every_run():
    """On a GPU some kernels add up in any order, eager ones too, unless they are told not to."""
    if torch.cuda.is_available():
        use_deterministic_algorithms()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def build(tiny_cfg, device):
    """Builds a trainer of VARIANTS on the device, eager or captured"""

    def make(variant, captured=False, **options):
        name, own = VARIANTS[variant]
        cfg = tiny_cfg(name, own | options)
        cfg.USE_CUDA = device.type == "cuda"
        torch.manual_seed(0)
        trainer = build_trainer(cfg)
        recorder = recorder_for(trainer.device) if captured else None
        trainer.captured = CapturedFunctions(recorder)
        return trainer

    return make


def batches():
    """Batches of four with one, two and more classes, of three and of two; twice, so that every shape is met again."""
    pairs = list(zip(images()["train_images"], images()["train_labels"], strict=True))
    pairs += [
        (pairs[1][0][:3], pairs[1][1][:3]),
        (pairs[2][0][1:], pairs[2][1][1:]),
        (pairs[0][0][:2], pairs[0][1][:2]),
    ]
    assert {len(label.unique()) for _, label in pairs} >= {1, 2, 3}
    return 2 * [{"img": image, "img2": image.flip(-1), "label": label} for image, label in pairs]


def batches_of_each_size():
    """Batches of four with four, one and two classes, one of three images and one of two; twice.

    Recording a shape takes most of the time. The tasks that a batch gives do not depend on the kind of prompts, so only
    one variant of ProMetaR meets all of them.
    """
    per_round = len(batches()) // 2
    return 2 * [batches()[number] for number in (0, 2, 3, per_round - 3, per_round - 1)]


def train(trainer, batches_per_epoch=4, given=None):
    """A step on each batch with a schedule that moves; what each step reports, and all learned tensors at the end."""
    torch.manual_seed(3)
    random.seed(3)
    reported = []
    for number, batch in enumerate(given or batches()):
        set_position(trainer, number, batches_per_epoch)
        reported.append(trainer.forward_backward(batch))
    return reported, learned(trainer)


# Trainers


@pytest.mark.parametrize("variant", VARIANTS)
def test_captured_steps_equal_eager_ones(build, variant):
    given = batches_of_each_size() if variant.startswith(("ProMetaR ", "ProMetaR,")) else batches()
    reported, expected = train(build(variant), given=given)
    trainer = build(variant, captured=True)
    start = learned(trainer)
    captured_reports, values = train(trainer, given=given)
    assert trainer.captured.refused == {}
    pairs = {(1, 3), (2, 2), (3, 1), (1, 2), (2, 1), (1, 1)} if variant.startswith("ProMetaR") else set()
    assert 3 <= trainer.captured.graphs <= 3 + len(pairs)  # batches of 4, 3 and 2, and their tasks
    assert captured_reports == reported
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name
    assert any(not torch.equal(value, start[name]) for name, value in values.items())


@pytest.mark.parametrize("variant", [*NODES, "IVLP, amp"])
def test_test_batches_equal_eager_ones(build, variant):
    eager, trainer = build(variant), build(variant, captured=True)
    heldout = images()["heldout_images"].to(trainer.device)
    with torch.no_grad():
        expected = [eager.model_inference(part) for part in (heldout, heldout[:2])]
        for _ in range(3):
            logits = [trainer.model_inference(part) for part in (heldout, heldout[:2])]
            assert all(map(torch.equal, logits, expected))
        assert trainer.captured.graphs == 2 and trainer.captured.refused == {}
    for each in (trainer, eager):  # learned tensors change where they lie: the graphs see them
        torch.manual_seed(3)
        random.seed(3)
        set_position(each, 1)
        each.forward_backward(batches()[0])
    with torch.no_grad():
        after = trainer.model_inference(heldout)
        assert torch.equal(after, eager.model_inference(heldout)) and not torch.equal(after, expected[0])


def test_cocoop_in_chunks_can_be_captured(build, monkeypatch):
    monkeypatch.setattr(cocoop, "ROWS_AT_ONCE", 40)
    reported, expected = train(build("CoCoOp"))
    trainer = build("CoCoOp", captured=True)
    assert train(trainer)[0] == reported and trainer.captured.refused == {}
    assert all(torch.equal(value, expected[name]) for name, value in learned(trainer).items())


@pytest.mark.parametrize("variant", ["MaPLe", "ProMetaR, phi by Adam"])
def test_a_captured_run_that_is_resumed_ends_where_an_eager_one_does(tiny_cfg, device, variant, tmp_path, monkeypatch):
    """Stopped after two of four epochs, in a process whose graphs are lost; the schedule and the draws go on."""
    name, options = VARIANTS[variant]

    class Interrupted(Exception):
        pass

    def run(folder, recorder, stop=None):
        cfg = tiny_cfg(name, options | {"DATASET.NUM_SHOTS": 2})
        cfg.USE_CUDA = device.type == "cuda"
        cfg.OUTPUT_DIR, cfg.TEST.NO_TEST, cfg.TRAIN.CHECKPOINT_FREQ = str(tmp_path / folder), True, 1
        cfg.OPTIM.MAX_EPOCH = cfg.OPTIM_VNET.MAX_EPOCH = 4
        torch.manual_seed(0)
        trainer = build_trainer(cfg)
        trainer.captured = CapturedFunctions(recorder)

        def before_epoch():
            if trainer.epoch == stop:
                raise Interrupted

        monkeypatch.setattr(trainer, "before_epoch", before_epoch)
        if stop is None:
            trainer.train()
        else:
            with pytest.raises(Interrupted):
                trainer.train()
            trainer.close_writer()
        assert (trainer.captured.graphs > 0) == (recorder is not None)
        return learned(trainer)

    expected = run("whole", None)
    run("parts", recorder_for(device), stop=2)
    for key, value in run("parts", recorder_for(device)).items():
        assert torch.equal(value, expected[key])


@pytest.mark.parametrize("variant", ["CoOp", "ProMetaR"])
def test_a_loss_that_is_no_number_stops_a_captured_run(build, variant):
    """Step, images and loss are named; where one update is made a step, the learned tensors are still good."""
    trainer = build(variant, captured=True)
    batch = batches()[1]
    set_position(trainer, 5, 4)
    trainer.forward_backward(batch)
    before = learned(trainer)
    trainer._last_images = [["before.jpg"], ["a.jpg", "b.jpg"]]
    with pytest.raises(NonFiniteError) as stopped:
        trainer.forward_backward(batch | {"img": batch["img"] * float("nan")})
    message = str(stopped.value)
    details = Path(message.rpartition("details: ")[2]).read_text()
    assert "in epoch 2, batch 2 (step 6): " in message and "images of the batch:\n  a.jpg\n  b.jpg\n" in details
    if variant == "CoOp":
        assert "loss = nan" in message
        assert all(torch.equal(value, before[name]) for name, value in learned(trainer).items())
    else:
        assert "loss_base = nan" in message and "  VLPromptLearner/prompt_learner.ctx (" in details


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a value on a device."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.counts, tolist = Counter(), torch.Tensor.tolist

        def counted(tensor):
            self.counts["tolist"] += 1
            return tolist(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", counted)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if torch.Tag.data_dependent_output in operation.tags:
            self.counts[operation.name()] += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NODES)
def test_a_step_waits_for_the_device_once(build, name, monkeypatch):
    """All that it reports is read by one transfer; also from the second step on, with optimisers that have a state."""
    trainer, batch = build(name), batches()[1]
    set_position(trainer, 1)
    trainer.forward_backward(batch)
    task = prometar.sample_task(batch["label"], 0.5, 0.5)  # drawn on the CPU, which is not waited for
    monkeypatch.setattr(prometar, "sample_task", lambda *_: task)
    with Waits(monkeypatch) as waits:
        trainer.forward_backward(batch)
    assert waits.counts == {"tolist": 1}


# The mechanism


def double(theta, x, factor=2):
    return {"product": theta["w"] * x * factor, "factor": factor, "nothing": None}


@pytest.fixture
def functions(device):
    return CapturedFunctions(recorder_for(device))


@pytest.fixture
def theta(device):
    return {"w": torch.tensor([1.0, 2.0], device=device)}


def test_results_belong_to_the_caller(functions, theta, device):
    kept, expected = [], []
    for step in range(5):
        x = torch.tensor([step, 1.0], device=device)
        result = functions(double, (theta,), x)
        assert result["factor"] == 2 and result["nothing"] is None
        kept.append(result["product"])
        expected.append(theta["w"] * x * 2)
        x.zero_()  # the argument is the caller's again
        theta["w"] += 1  # seen without a copy
    assert functions.graphs == 1
    assert all(map(torch.equal, kept, expected))
    assert len({tensor.data_ptr() for tensor in kept}) == len(kept)


def test_arguments_are_not_kept_or_changed(functions, theta, device):
    x = torch.ones(2, device=device)
    address = x.data_ptr()
    for _ in range(3):
        functions(double, (theta,), x)
    assert torch.equal(x, torch.ones(2, device=device)) and x.data_ptr() == address
    (graph,) = functions._graphs.values()
    assert graph.inputs[0].data_ptr() != address


def test_every_shape_and_constant_has_its_graph(functions, theta, device):
    one, two = torch.ones(1, device=device), torch.ones(2, device=device)
    for count, arguments in enumerate([(one,), (two,), (two, 3)]):
        for _ in range(2):
            assert torch.equal(functions(double, (theta,), *arguments)["product"], double(theta, *arguments)["product"])
            assert functions.graphs == count + 1  # captured when first met
    strided = torch.arange(4.0, device=device)[::2]
    for _ in range(3):
        assert torch.equal(functions(double, (theta,), strided)["product"], double(theta, strided)["product"])
    assert functions.graphs == 4
    for count, mode in ((5, torch.no_grad), (6, torch.inference_mode)):  # another mode is another function
        for _ in range(3):
            with mode():
                functions(double, (theta,), two)
        assert functions.graphs == count
    functions(double, (theta,), two)  # the first one is as good as before
    assert functions.graphs == 6


def test_moved_tensors_are_captured_anew(functions, theta, device):
    x = torch.ones(2, device=device)
    for _ in range(3):
        functions(double, (theta,), x)
    moved = {"w": torch.tensor([5.0, 7.0], device=device)}
    assert functions(double, (moved,), x)["product"].tolist() == [10.0, 14.0]
    assert functions.graphs == 1


def test_warming_up_and_capturing_change_nothing(functions, theta, device):
    before = torch.get_rng_state()
    x = torch.ones(2, device=device)
    for _ in range(4):
        functions(double, (theta,), x)
    assert torch.equal(torch.get_rng_state(), before) and theta["w"].tolist() == [1.0, 2.0]


def test_results_have_no_graph_of_autograd(functions, device):
    w = torch.ones(2, device=device, requires_grad=True)
    results = [functions(double, ({"w": w},), torch.ones(2, device=device))["product"] for _ in range(3)]
    assert not any(result.requires_grad for result in results)


FORBIDDEN = {
    "waits for a value": lambda x: x * x.sum().item(),
    "a shape that depends on values": lambda x: x.nonzero(),
    "selects by a mask": lambda x: x[x > 0],
    "draws random numbers": lambda x: x + torch.randn_like(x),
    "draws random": lambda x: torch.nn.functional.dropout(x, 0.5),
    "copi": lambda x: x + torch.tensor([1.0, 2.0], device=x.device),
    "waits for": lambda x: x if torch.equal(x, x) else -x,
    "depends on values": lambda x: x.unique(),
}


@pytest.mark.parametrize("reason", FORBIDDEN)
def test_what_cannot_be_captured_runs_eagerly_and_says_why_once(functions, device, reason, capsys):
    def step(x):
        return FORBIDDEN[reason](x)

    x = torch.ones(2, device=device)
    for _ in range(4):
        functions(step, (), x)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{recorder_for(device).name}: step runs eagerly: ") and reason in line
    assert functions.graphs == 0 and reason in functions.refused["step"]
    assert functions(double, ({"w": x},), x)["product"].tolist() == [2, 2]  # others are not concerned
    functions(double, ({"w": x},), x)
    assert functions.graphs == 1


def test_attention_is_not_taken_for_random(functions, device):
    def attend(x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    x = torch.randn(1, 2, 8, 64, device=device)
    for _ in range(3):
        functions(attend, (), x)
    assert functions.graphs == 1


def test_a_function_s_own_error_is_not_hidden(functions, device):
    def wrong(x):
        return x @ torch.ones(3, device=device)

    with pytest.raises(RuntimeError, match="size mismatch|inconsistent|shape"):
        for _ in range(2):
            functions(wrong, (), torch.ones(2, device=device))


def test_further_shapes_run_eagerly(functions, theta, device, monkeypatch, capsys):
    monkeypatch.setattr(captured, "MOST_GRAPHS", 2)
    for length in (2, 3, 4, 5):
        x = torch.ones(length, 2, device=device)
        for _ in range(3):
            assert torch.equal(functions(double, (theta,), x)["product"], 2 * theta["w"] * x)
    assert functions.graphs == 2
    assert (
        capsys.readouterr().out == f"{recorder_for(device).name}: 2 shapes are recorded, further shapes run eagerly\n"
    )


# The keys TRAINER.CUDA_GRAPH and TRAINER.CPU_REPLAY


def is_captured(recorder, device):
    functions, x = CapturedFunctions(recorder), torch.ones(2, device=device)
    for _ in range(3):
        functions(double, ({"w": x},), x)
    return functions.graphs == 1


@pytest.mark.parametrize("choice", CHOICES)
def test_the_choices_on_a_cpu(choice, capsys):
    cpu = torch.device("cpu")
    assert is_captured(choose_recorder("auto", choice, cpu), cpu) == (choice != "off")
    assert is_captured(choose_recorder("off", choice, cpu), cpu) == (choice != "off")
    assert capsys.readouterr().out == ""
    choose_recorder("on", choice, cpu)
    expected = f"TRAINER.CUDA_GRAPH on needs a GPU: on a CPU, TRAINER.CPU_REPLAY ({choice}) says what is replayed\n"
    assert capsys.readouterr().out == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("choice", CHOICES)
def test_the_choices_on_a_gpu(choice):
    cuda = torch.device("cuda")
    for cpu_replay in CHOICES:
        assert is_captured(choose_recorder(choice, cpu_replay, cuda), cuda) == (choice != "off")


@pytest.mark.parametrize("key", ["CUDA_GRAPH", "CPU_REPLAY"])
def test_a_bad_choice_ends_before_anything_is_loaded(tiny_trainer, capsys, key):
    with pytest.raises(UserError, match=f"unknown TRAINER.{key} 'yes': choose one of auto, on, off"):
        tiny_trainer("CoOp", {f"TRAINER.{key}": "yes"})
    assert "Loading CLIP" not in capsys.readouterr().out
