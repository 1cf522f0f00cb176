"""What TensorBoard, W&B and MLflow receive; the latter two are stand-ins of their clients."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import train
from dassl.utils import UserError
from runner import tracking
from runner.result import read_result

ROOT = Path(train.__file__).parent


@pytest.fixture
def run(files, tmp_path, monkeypatch):
    """Trains CoOp for two epochs with a choice of --logger; returns output folder and log."""
    monkeypatch.chdir(ROOT)

    def run(*flags):
        monkeypatch.setattr(sys, "stdout", sys.stdout)  # train.py puts a log between
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        output = tmp_path / "my out"
        train.main(
            train.parse_args(
                [
                    *(
                        "--root",
                        str(files[0] / "data"),
                        "--output-dir",
                        str(output),
                        "--trainer",
                        "CoOp",
                        "--seed",
                        "3",
                    ),
                    *("--config-file", "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml", "--backbone", str(files[1])),
                    *("--dataset-config-file", "configs/datasets/eurosat.yaml", *flags, "INPUT.SIZE", "(64, 64)"),
                    *("DATALOADER.NUM_WORKERS", "0", "OPTIM.MAX_EPOCH", "2", "DATASET.NUM_SHOTS", "1"),
                    *("TRAINER.COOP.PREC", "fp32"),
                ]
            )
        )
        return output, (output / "log.txt").read_text()

    return run


def test_tensorboard_has_settings_results_and_the_table(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output, log = run()
    assert log.splitlines()[-1] == f"Curves and results: tensorboard --logdir '{output / 'tensorboard'}'"
    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    accuracy = read_result(output)["results"]["accuracy"]
    assert events.Scalars("final/accuracy")[0].value == pytest.approx(accuracy)
    content = {tag: events.summary_metadata[tag].plugin_data.content for tag in events.summary_metadata}
    assert b"OPTIM.MAX_EPOCH" in content["_hparams_/session_start_info"]
    (table,) = events.Tensors("results/text_summary")
    assert f"| accuracy | {accuracy:.2f} |" in table.tensor_proto.string_val[0].decode()
    assert events.Scalars("train/lr")  # the trainer's own curves


class FakeWandb:
    """What is used of W&B's client."""

    def __init__(self):
        self.logged, self.summary, self.axes, self.ended = [], {}, {}, False

    def init(self, **given):
        self.given = given
        return self

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.ended = True


def test_wandb(run, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("runner.command.check_logger", lambda name: None)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    output, _ = run("--logger", "wandb")
    assert (fake.given["project"], fake.given["name"], fake.given["resume"]) == ("prompt-learning", "my out", "allow")
    assert fake.given["config"]["OPTIM.MAX_EPOCH"] == 2 and "OPTIM.MOMENTUM" not in fake.given["config"]
    losses = [values for values in fake.logged if "train/loss" in values]
    assert [values["train/step"] for values in losses] == sorted(values["train/step"] for values in losses) != []
    assert fake.axes["train/*"] == "train/step" and fake.ended
    assert fake.summary["accuracy"] == read_result(output)["results"]["accuracy"]
    assert (output / "tensorboard").is_dir()


def test_mlflow(run, monkeypatch):
    calls = []
    names = ("set_experiment", "start_run", "log_params", "log_metric", "log_metrics", "end_run")

    def recorder(name):
        return lambda *arguments, **keywords: calls.append((name, arguments, keywords))

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(**{name: recorder(name) for name in names}))
    monkeypatch.setattr("runner.command.check_logger", lambda name: None)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    output, _ = run("--logger", "mlflow")
    by_name = {name: (arguments, keywords) for name, arguments, keywords in calls}
    assert by_name["set_experiment"][0] == ("mine",) and by_name["start_run"][1] == {"run_name": "my out"}
    assert by_name["log_params"][0][0]["SEED"] == 3
    rates = [
        keywords["step"] for name, arguments, keywords in calls if name == "log_metric" and "train/lr" in arguments
    ]
    assert rates == sorted(rates) != []
    assert by_name["log_metrics"][0][0]["accuracy"] == read_result(output)["results"]["accuracy"]
    assert calls[-1][0] == "end_run"


def test_a_logger_that_cannot_start_is_one_line(run, monkeypatch):
    def refuse(name):
        raise RuntimeError("no login:\n  run mlflow login")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(set_experiment=refuse))
    monkeypatch.setattr("runner.command.check_logger", lambda name: None)
    with pytest.raises(UserError, match="^--logger mlflow cannot start: no login: run mlflow login$"):
        run("--logger", "mlflow")


def test_a_missing_package_is_named_before_anything_is_made(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", {"tensorboard": object}.get)
    with pytest.raises(UserError, match="--logger wandb needs a package that is not installed: pip install wandb"):
        run("--logger", "wandb")
    assert not list(tmp_path.iterdir())


def test_changed_settings_are_what_differs():
    from runner.config import default_cfg

    cfg, defaults = default_cfg(), default_cfg()
    cfg.OPTIM.LR, cfg.INPUT.SIZE, cfg.SEED = 0.5, (48, 48), 2
    assert tracking.changed_settings(cfg, defaults) == {"INPUT.SIZE": "[48, 48]", "OPTIM.LR": 0.5, "SEED": 2}
