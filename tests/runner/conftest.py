from __future__ import annotations

import pytest
from golden_data import write_backbones
from tiny_runs import write_data


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a tiny data set (data/), and the path of a tiny backbone."""
    folder = tmp_path_factory.mktemp("files")
    write_data(folder / "data")
    return folder, write_backbones(folder)["vit"]
