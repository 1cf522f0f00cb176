"""Numbers that make no sense are refused by the name of their key, before anything is made."""

from __future__ import annotations

import math

import pytest
from golden_data import write_backbones
from tiny_runs import NODES, make_cfg, write_data

import train
import trainers
from dassl.config import check_ranges, get_cfg_default
from dassl.config import ranges as ranges_of_dassl
from dassl.data.transforms import build_transform
from dassl.engine import build_trainer
from dassl.utils import UserError
from experiments.launch.command import check_configs
from experiments.launch.single import Request
from experiments.plan.settings import Places, PlannedMethod
from trainers.core.ranges import ranges_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny backbone, a tiny data set and an output folder."""
    folder = tmp_path_factory.mktemp("tiny")
    write_data(folder / "data")
    return write_backbones(folder)["vit"], folder / "data", folder / "out"


WRONG = [
    ("DATASET.NUM_SHOTS", "-2"),
    ("DATASET.NUM_SHOTS", "-5"),
    ("DATALOADER.NUM_WORKERS", "-1"),
    ("DATALOADER.NUM_WORKERS", "100000"),
    ("DATALOADER.TRAIN_X.BATCH_SIZE", "0"),
    ("DATALOADER.TRAIN_U.BATCH_SIZE", "-4"),
    ("DATALOADER.TEST.BATCH_SIZE", str(2**40)),
    ("DATALOADER.K_TRANSFORMS", "0"),
    ("OPTIM.LR", "-0.1"),
    ("OPTIM.LR", "1e999"),
    ("OPTIM.LR", "nan"),
    ("OPTIM.WEIGHT_DECAY", "-1e-4"),
    ("OPTIM.MOMENTUM", "1.0"),
    ("OPTIM.GAMMA", "0.0"),
    ("OPTIM.ADAM_BETA2", "1.5"),
    ("OPTIM.ADAM_EPS", "0.0"),
    ("OPTIM.MAX_EPOCH", "0"),
    ("OPTIM.MAX_EPOCH", "-1"),
    ("OPTIM_VNET.LR", "-0.1"),
    ("OPTIM_VNET.MAX_EPOCH", "0"),
    ("TRAIN.CHECKPOINT_FREQ", "-1"),
    ("TRAIN.PRINT_FREQ", "0"),
    ("INPUT.PIXEL_STD", "[0.2, 0.0, 0.2]"),
    ("INPUT.RGS_P", "1.5"),
    ("INPUT.MAX_PIXELS", "0"),
    ("INPUT.MAX_ASPECT_RATIO", "0"),
    ("INPUT.MAX_ASPECT_RATIO", "10001"),
    ("INPUT.RRCROP_SCALE", "('x', 1.0)"),
    ("INPUT.PIXEL_STD", "[None, 1.0, 1.0]"),
    ("TRAINER.TEXT_CHUNK", "-1"),
    ("TRAINER.PROMETAR.MIXUP_ALPHA", "0.0"),
    ("TRAINER.PROMETAR.MIXUP_ALPHA", "0"),
    ("TRAINER.PROMETAR.MIXUP_BETA", "-1.0"),
    ("TRAINER.PROMETAR.TEXT_LOSS_WEIGHT", "-50.0"),
    ("TRAINER.PROMETAR.IMAGE_LOSS_WEIGHT", "-20.0"),
    ("TRAINER.PROMETAR.ADAPT_LR", "-1.0"),
    ("TRAINER.PROMETAR.LR_RATIO", "-1.0"),
    ("TRAINER.PROMETAR.DIM_RATE", "0"),
    ("TRAINER.PROMETAR.PROMPT_DEPTH_TEXT", "0"),
    ("TRAINER.PROMETAR.PROMPT_DEPTH_VISION", "-1"),
    ("TRAINER.COOP.N_CTX", "0"),
    ("TRAINER.IVLP.N_CTX_TEXT", "0"),
    ("TRAINER.MAPLE.PROMPT_DEPTH", "0"),
    ("TRAINER.VPT.N_CTX_VISION", "-2"),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_number_out_of_range_is_named(key, value):
    with pytest.raises(UserError) as error:
        trainers.check_all_ranges(train.setup_cfg(train.parse_args([key, value])))
    assert key in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATASET.NUM_SHOTS", "-1"),
        ("DATASET.NUM_SHOTS", "0"),
        ("OPTIM.LR", "0.0"),
        ("DATALOADER.NUM_WORKERS", "0"),
        ("TRAINER.PROMETAR.TEXT_LOSS_WEIGHT", "0.0"),
        ("TRAINER.PROMETAR.PROMPT_DEPTH_VISION", "0"),
        ("SEED", "-1"),
        ("INPUT.MAX_ASPECT_RATIO", "1"),
        ("INPUT.MAX_ASPECT_RATIO", "10000"),
    ],
)
def test_the_ends_of_the_ranges_are_taken(key, value):
    trainers.check_all_ranges(train.setup_cfg(train.parse_args([key, value])))


def test_a_launch_is_refused_before_its_first_run(tmp_path):
    row = PlannedMethod("coop", "vit_b16_ep50_ctxv1", (("TRAINER.COOP.N_CTX", "0"),))
    run = Request("all", row, "dtd", 1, 16, "", Places(tmp_path, tmp_path)).run()
    with pytest.raises(UserError, match="TRAINER.COOP.N_CTX is 0, but should be between 1 and"):
        check_configs([run])


@pytest.mark.parametrize("trainer", ["ProMetaR", "ZeroshotCLIP"])
def test_a_run_checks_its_numbers_once(trainer, tiny, monkeypatch):
    backbone, data, output = tiny
    checked, check = [], ranges_of_dassl.check_values
    for module in (ranges_of_dassl, trainers.core.ranges):
        monkeypatch.setattr(module, "check_values", lambda cfg, ranges: checked.extend(ranges) or check(cfg, ranges))
    build_trainer(make_cfg(trainer, backbone, data, output))
    assert {"OPTIM.LR", "OPTIM_VNET.LR", "TRAINER.PROMETAR.MIXUP_ALPHA"} <= set(checked)
    assert len(checked) == len(set(checked))


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_configuration_made_in_python_is_checked_too(value):
    """Dassl's own part; trainers of other repositories run on it."""
    cfg = get_cfg_default()
    check_ranges(cfg)
    cfg.OPTIM.LR = value
    with pytest.raises(UserError, match="OPTIM.LR is .*, but should be at least 0"):
        check_ranges(cfg)


@pytest.mark.parametrize(
    ("trainer", "key", "value"),
    [
        ("ProMetaR", "TRAINER.PROMETAR.MIXUP_ALPHA", 0.0),
        ("ProMetaR", "OPTIM_VNET.LR", -1.0),
        ("CoOp", "OPTIM.MAX_EPOCH", 0),
        ("ZeroshotCLIP", "DATALOADER.TEST.BATCH_SIZE", 0),
        ("ProMetaR", "TRAINER.PROMETAR.DIM_RATE", 7),
        ("MaPLe", "TRAINER.MAPLE.PROMPT_DEPTH", 9),
        ("VPT", "TRAINER.VPT.N_CTX_VISION", 0),
        ("IVLP", "TRAINER.IVLP.PROMPT_DEPTH_VISION", 9),
        ("IVLP", "TRAINER.IVLP.N_CTX_VISION", 0),
        ("CoCoOp", "TRAINER.COCOOP.N_CTX", 500),
    ],
)
def test_trainers_refuse_what_does_not_suit_them(trainer, key, value, tiny):
    backbone, data, output = tiny
    with pytest.raises(UserError) as error:
        build_trainer(make_cfg(trainer, backbone, data, output, {key: value}))
    assert key.rpartition(".")[2] in str(error.value)


def test_training_on_no_images_is_not_training_on_all(tiny):
    backbone, data, output = tiny
    trainer = build_trainer(make_cfg("CoOp", backbone, data, output, {"DATASET.NUM_SHOTS": 0}))
    with pytest.raises(UserError, match="DATASET.NUM_SHOTS is 0: training needs at least 1 image per class"):
        trainer.train()


def test_every_number_of_a_method_has_a_range():
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    for node in NODES.values():
        known = ranges_of(node)
        for key, value in cfg.TRAINER[node].items():
            assert type(value) not in (int, float) or key in known, f"{node}.{key}"


@pytest.mark.parametrize(("key", "value"), [("RGS_P", 2.0), ("GB_P", -1.0), ("MAX_PIXELS", 0), ("MAX_ASPECT_RATIO", 0)])
def test_transforms_that_are_built_without_a_trainer_check_their_numbers(key, value):
    cfg = get_cfg_default()
    cfg.INPUT[key] = value
    with pytest.raises(UserError, match=f"INPUT.{key} is {value}"):
        build_transform(cfg, is_train=True)
