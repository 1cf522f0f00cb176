"""The loading benchmark: that it compares like with like. Its figures depend on the machine and are not tested."""

from __future__ import annotations

import pytest
import torch

from dassl.utils import UserError
from tools import data_throughput as throughput


def test_both_loaders_give_the_same_pixels(tmp_path):
    throughput.make_images(str(tmp_path), 64)
    cfg = throughput.configuration(str(tmp_path), workers=0, batch_size=16)
    for is_train in (False, True):
        ours, theirs = throughput.loaders(cfg, is_train)
        assert len(ours) == len(theirs) == 2
        torch.manual_seed(1)
        batches = list(ours)
        torch.manual_seed(1)
        for batch, (images, labels) in zip(batches, theirs, strict=True):
            assert torch.equal(batch["img"], images)  # in training: the same order, crops and flips, too
            assert torch.equal(batch["label"], labels)


def test_the_command(capsys):
    throughput.main(["--images", "32", "--workers", "0", "--repeats", "1", "--batch-size", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["train", "test"]
    assert all("images/s" in line for line in lines)
    with pytest.raises(UserError, match="--images 8 is too few for batches of 16"):
        throughput.main(["--images", "8"])
