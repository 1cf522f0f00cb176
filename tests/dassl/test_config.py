"""The configuration tree. Expected defaults: Dassl's documented ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yacs.config import CfgNode

from dassl.config import clean_cfg, get_cfg_default, merge_file, merge_opts
from dassl.utils import MissingFileError, UserError

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "published_configs.json"


def test_defaults():
    cfg = get_cfg_default()
    assert isinstance(cfg, CfgNode) and set(cfg) == {
        "VERSION", "OUTPUT_DIR", "RESUME", "SEED", "DETERMINISTIC", "USE_CUDA", "VERBOSE", "PLUGINS",
        "INPUT", "DATASET", "DATALOADER", "MODEL", "OPTIM", "TRAIN", "TEST", "TRAINER",
    }  # fmt: skip
    assert (cfg.SEED, cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION) == (-1, (224, 224), "bilinear")
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.WEIGHT_DECAY, cfg.OPTIM.WARMUP_EPOCH) == ("adam", 3e-4, 5e-4, -1)
    assert (cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.TRAIN_U.SAME_AS_X, cfg.DATALOADER.NUM_WORKERS) == (
        32,
        True,
        4,
    )
    assert (cfg.TEST.FINAL_MODEL, cfg.TRAIN.PRINT_FREQ, cfg.DATASET.STL10_FOLD) == ("last_step", 10, -1)
    cfg.INPUT.SIZE = (1, 1)
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 1
    assert get_cfg_default().INPUT.SIZE == (224, 224)  # each call gives a fresh tree
    assert cfg.DATALOADER.TRAIN_U.BATCH_SIZE == 32


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published settings are not beside the repository")
def test_published_files_merge():
    published = json.loads(PUBLISHED.read_text())
    merged = 0
    for entry in published["configs"].values():
        for values in entry.get("variants", {"": entry.get("values")}).values():
            cfg = get_cfg_default()
            for name, default in published["defaults_added_by_train_py"].items():
                parent, _, leaf = name.rpartition(".")
                node = cfg[parent] if parent else cfg
                node[leaf] = CfgNode(default) if isinstance(default, dict) else default
            cfg.merge_from_other_cfg(CfgNode(values))
            merged += 1
    assert merged > 40


def test_clean_cfg_keeps_the_trainers_own_node():
    cfg = get_cfg_default()
    clean_cfg(cfg, "FixMatch")
    assert set(cfg.TRAINER) == {"NAME", "FIXMATCH"}


def test_merge_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "# a comment\nOPTIM:\n  LR: 1\n  STEPSIZE: [3, 5]\nINPUT:\n  SIZE: (32, 48)\n  TRANSFORMS: ['normalize']\n"
    )
    cfg = get_cfg_default()
    cfg.freeze()
    merge_file(cfg, str(path))
    assert (cfg.OPTIM.LR, cfg.OPTIM.STEPSIZE, cfg.INPUT.SIZE) == (1.0, (3, 5), (32, 48))
    assert cfg.INPUT.TRANSFORMS == ("normalize",) and type(cfg.OPTIM.LR) is float and cfg.is_frozen()
    path.write_text("# nothing\n")
    merge_file(cfg, str(path))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("OPTIM:\n  LRR: 0.1\n", 'unknown config key "OPTIM.LRR" in .*a.yaml; did you mean "OPTIM.LR"'),
        ("OPTIM:\n  MAX_EPOCH: many\n", "config key OPTIM.MAX_EPOCH in .*a.yaml should be a whole number, not 'many'"),
        ("OPTIM: 3\n", 'config key "OPTIM" in .*a.yaml is a group of keys'),
        ("- 1\n", "should contain keys with values, not a list"),
        ("OPTIM.LR: 0.1\nOPTIM:\n  LR: 0.2\n", 'the config file .*a.yaml has the key "OPTIM.LR" twice'),
        ('OUTPUT_DIR: "a\\0b"\n', r"config key OUTPUT_DIR in .*a.yaml should be text, not 'a\\x00b'"),
        ("a: [1\n", "cannot read .*a.yaml"),
        ("a: !!python/object/apply:os.system ['true']\n", "cannot read .*a.yaml"),
    ],
)
def test_a_bad_file_is_one_line_and_changes_nothing(tmp_path, text, told):
    path = tmp_path / "a.yaml"
    path.write_text("SEED: 5\n" + text if text[0] != "-" else text)
    cfg = get_cfg_default()
    with pytest.raises(UserError, match=told) as caught:
        merge_file(cfg, str(path))
    assert "\n" not in str(caught.value) and cfg == get_cfg_default()


def test_missing_files(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere.yaml"):
        merge_file(get_cfg_default(), str(tmp_path / "nowhere.yaml"))
    with pytest.raises(UserError, match="cannot read"):
        merge_file(get_cfg_default(), str(tmp_path))


def test_merge_opts():
    cfg = get_cfg_default()
    merge_opts(cfg, ["OPTIM.LR", "2e-3", "OPTIM.MAX_EPOCH", "7", "DATASET.NAME", "Food101", "INPUT.SIZE", "(8, 9)",
                     "USE_CUDA", "False", "TEST.NO_TEST", True])  # fmt: skip
    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.DATASET.NAME, cfg.INPUT.SIZE) == (2e-3, 7, "Food101", (8, 9))
    assert (cfg.USE_CUDA, cfg.TEST.NO_TEST) == (False, True)
    for opts, told in (
        (["OPTIM.LR"], "come in pairs.*OPTIM.LR"),
        (["SEED", 1, "OPTIM.LRR", "1"], 'unknown config key "OPTIM.LRR"; did you mean "OPTIM.LR"'),
        (["SEED", 1, "OPTIM.LR", "fast"], "OPTIM.LR should be a number, not 'fast'"),
        (["OPTIM", "1"], 'config key "OPTIM" is a group'),
    ):
        with pytest.raises(UserError, match=told):
            merge_opts(cfg, opts)
    assert cfg.SEED == -1  # nothing of a bad list is taken over


def test_new_keys_where_a_node_allows_them():
    cfg = get_cfg_default()
    cfg.TRAINER.MINE = CfgNode({"A": 1}, new_allowed=True)
    merge_opts(cfg, ["TRAINER.MINE.B", "2", "TRAINER.MINE.A", "3"])
    assert (cfg.TRAINER.MINE.A, cfg.TRAINER.MINE.B) == (3, 2)


@pytest.mark.parametrize("given", [1, "1", 1.0, "1.0"])
def test_a_whole_number_is_taken_for_a_real_one(given, tmp_path):
    """By every way in: yacs' own methods, KEY VALUE pairs, YAML files. A real one is not taken for a whole one."""
    (tmp_path / "rate.yaml").write_text(f"OPTIM:\n  LR: {given}\n")
    ways = [
        lambda cfg: cfg.merge_from_list(["OPTIM.LR", given]),
        lambda cfg: merge_opts(cfg, ["OPTIM.LR", given]),
        lambda cfg: cfg.merge_from_other_cfg(CfgNode({"OPTIM": {"LR": given}})),
        lambda cfg: cfg.merge_from_file(str(tmp_path / "rate.yaml")),
        lambda cfg: merge_file(cfg, str(tmp_path / "rate.yaml")),
    ]
    for merge in ways:
        cfg = get_cfg_default()
        merge(cfg)
        assert type(cfg.OPTIM.LR) is float and cfg.OPTIM.LR == 1
        assert cfg.clone().OPTIM == cfg.OPTIM
    for key, value in (("OPTIM.MAX_EPOCH", 1.5), ("USE_CUDA", 1), ("OPTIM.LR", True)):
        with pytest.raises(ValueError, match="Type mismatch"):
            get_cfg_default().merge_from_list([key, value])
