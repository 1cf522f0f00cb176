"""Prompts to and from the Hub, whose client is a stand-in: repositories are folders, and nothing is sent.

Expected values: predictions of the run that was pushed, and its own configuration and results.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from golden_data import write_backbones
from safetensors.torch import load_file, save_file
from tiny_runs import write_data

import export
import train
from dassl.config import leaves, plain
from dassl.utils import BadValueError, UserError, file_sha256
from deploy import hub, load_classifier
from deploy.arguments import make_hub_parser
from deploy.load import TrainedFolder
from deploy.model_card import Shared, escaped, model_card
from deploy.prompt_folder import MAX_BYTES, without_folders
from runner.config import default_cfg, setup_cfg
from runner.result import read_result
from trainers.core.record import changes_no_number, read_record

ROOT = Path(train.__file__).parent
FILES = {"README.md", "classnames.json", "config.yaml", "manifest.json", "prompts.safetensors"}
REPOSITORY = "someone/eurosat-prompts"


class LocalHub:
    """As `huggingface_hub.HfApi`, where a repository is a folder; each push is a commit, and files stay in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.private, self.commits, self.asked = folder, {}, {}, []
        self.usually_private = False

    def files(self, repo_id: str, revision: str | None = None) -> Path:
        return self.folder / repo_id / (revision or self.commits[repo_id][-1])

    def model_info(self, repo_id, *, revision=None, files_metadata=False):
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        if repo_id not in self.private:
            raise bare(RepositoryNotFoundError, "404 Client Error. (Request ID: Root=1-2)\n\nRepository Not Found")
        commits = self.commits.get(repo_id, [])
        if revision is not None and revision not in commits:
            raise bare(RevisionNotFoundError, "404 Client Error")
        sha = revision or (commits[-1] if commits else None)
        paths = sorted(self.files(repo_id, sha).iterdir()) if sha else []
        siblings = [
            SimpleNamespace(rfilename=path.name, size=path.lstat().st_size if files_metadata else None)
            for path in paths
        ]
        return SimpleNamespace(sha=sha, private=self.private[repo_id], siblings=siblings)

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        assert exist_ok
        self.private.setdefault(repo_id, self.usually_private if private is None else private)

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        commits = self.commits.setdefault(repo_id, [])
        commits.append(f"{len(commits):040x}")
        for path in Path(folder_path).iterdir():
            if path.name in allow_patterns:
                self.files(repo_id).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.files(repo_id))

    def hf_hub_download(self, repo_id, filename, *, revision, local_dir):
        self.asked.append(filename)
        cache = Path(local_dir, ".cache", "huggingface")
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "note").touch()
        shutil.copy(self.files(repo_id, revision) / filename, local_dir, follow_symlinks=False)


def bare(kind, message):
    """An error of the client's without the HTTP response that made it."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    return error


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A CoOp run on base classes with its result, and its evaluation on new classes."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder / "data")
    common = ["--root", str(folder / "data"), "--trainer", "CoOp", "--seed", "3"]
    common += ["--backbone", str(write_backbones(folder)["vit"]), "--dataset-config-file"]
    common += [str(ROOT / "configs/datasets/eurosat.yaml"), "--config-file"]
    common += [str(ROOT / "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml")]
    pairs = ["INPUT.SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", "0", "TRAINER.COOP.PREC", "fp32"]
    pairs += ["OPTIM.MAX_EPOCH", "2", "DATASET.NUM_SHOTS", "1", "DATASET.SUBSAMPLE_CLASSES"]
    run, new = str(folder / "run"), str(folder / "new")
    train_main([*common, "--output-dir", run, *pairs, "base"])
    train_main([*common, "--output-dir", new, "--eval-only", "--model-dir", run, *pairs, "new"])
    return SimpleNamespace(run=Path(run), new=Path(new), images=folder / "data" / "eurosat" / "2750", folder=folder)


def train_main(arguments):
    streams = sys.stdout, sys.stderr  # train.py puts a log between
    try:
        train.main(train.parse_args(arguments))
    finally:
        sys.stdout, sys.stderr = streams


@pytest.fixture
def client(tmp_path):
    return LocalHub(tmp_path / "hub")


def backbone_of(trained):
    return read_record(trained.run, default_cfg()).cfg.MODEL.BACKBONE.NAME


def pushed(trained, client, **options):
    hub.push(TrainedFolder(trained.run), REPOSITORY, client, **options)
    return client.files(REPOSITORY)


def predictions(folder, images, **options):
    return [each.probabilities for each in load_classifier(folder, device="cpu", **options).predict([images])]


def test_pulled_prompts_predict_as_the_run(trained, client, tmp_path):
    files = pushed(trained, client)
    assert {path.name for path in files.iterdir()} == FILES == set(MAX_BYTES)
    assert sum(path.stat().st_size for path in files.iterdir()) < 100_000
    hub.pull(REPOSITORY, tmp_path / "pulled", client)
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == FILES
    options = ("MODEL.BACKBONE.NAME", backbone_of(trained))
    found = predictions(tmp_path / "pulled", trained.images, options=options)
    assert found == predictions(trained.run, trained.images) and len(found) == 49


def test_an_exported_folder_is_pushed_as_its_run(trained, client, tmp_path):
    export.main(
        export.parse_args(["--model-dir", str(trained.run), "--output-dir", str(tmp_path / "out"), "--formats"])
    )
    of_run = {path.name: path.read_bytes() for path in pushed(trained, client).iterdir()}
    hub.push(TrainedFolder(tmp_path / "out"), REPOSITORY, client)
    of_export = {path.name: path.read_bytes() for path in client.files(REPOSITORY).iterdir()}
    card = of_export.pop("README.md").decode()
    assert of_run.pop("README.md") and of_run == of_export
    assert "Not recorded" in card and "| method | CoOp |" in card and "train.py" not in card
    (tmp_path / "out" / "config.yaml").write_text("SEED: 1\n")
    with pytest.raises(UserError, match=r"config.yaml has 8 bytes, but manifest.json says \d+"):
        hub.push(TrainedFolder(tmp_path / "out"), REPOSITORY, client)


def test_no_folder_of_this_computer_is_shared(trained, client):
    files = pushed(trained, client)
    for path in files.iterdir():
        content = path.read_bytes()
        assert str(trained.folder).encode() not in content and str(ROOT).encode() not in content, path.name
    config = dict(leaves(yaml.safe_load((files / "config.yaml").read_text())))
    assert config["MODEL.BACKBONE.NAME"] == Path(backbone_of(trained)).name
    assert config["DATASET.ROOT"] == "data"
    assert without_folders({"A": ["/x/y.csv", "rel/z"], "B": {"C": "open_clip:ViT-B-32//x/w.pt"}}) == {
        "A": ["y.csv", "rel/z"],
        "B": {"C": "open_clip:ViT-B-32/w.pt"},
    }


# The card


def test_the_card_says_what_was_trained_and_measured(trained, client):
    card = (pushed(trained, client, evaluations=[str(trained.new)]) / "README.md").read_text()
    own, new = read_result(trained.run), read_result(trained.new)
    front, _, text = card.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(front)["tags"] == ["clip", "prompt-learning", "CoOp"]
    rows = dict(re.findall(r"^\| ([\w -]+) \| (.*) \|$", text.partition("## Accuracies")[0], re.MULTILINE))
    assert rows["method"] == "CoOp" and rows["data set"] == "EuroSAT" and rows["images per class"] == "1"
    assert rows["seed of the draw and the training"] == "3" and rows["classes of the data set"] == "base"
    assert rows["SHA-256 of the list of training images"] == own["few_shot_sha256"]
    assert rows["SHA-256 of the CLIP file"] == file_sha256(backbone_of(trained))
    for result, part in ((own, "base"), (new, "new")):
        shown = f"| EuroSAT | {part} ({result['classes']}) | {result['results']['accuracy']:.2f} |"
        assert shown in text.replace("\\", ""), shown
    assert f"python -m deploy.hub pull {REPOSITORY} --output-dir pulled" in text


def test_the_command_of_the_card_is_the_training(trained, client):
    """Parsed by train.py, it gives every setting that counts."""
    card = (pushed(trained, client) / "README.md").read_text()
    (command,) = re.findall(r"^    python train\.py (.*)$", card, re.MULTILINE)
    assert "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml" in command
    words = shlex.split(command)
    given = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
    found = dict(leaves(plain(setup_cfg(train.parse_args(given)))))
    own = dict(leaves(plain(read_record(trained.run, default_cfg()).cfg)))
    own["MODEL.BACKBONE.NAME"] = Path(own["MODEL.BACKBONE.NAME"]).name
    different = {key for key in own if own[key] != found[key]} - changes_no_number()
    assert different == set()
    assert words.count("OPTIM.MAX_EPOCH") == 1 and words.count("TRAINER.COOP.CSC") == 0  # the files have the others


def test_values_that_look_like_others_keep_their_type(trained):
    cfg = read_record(trained.run, default_cfg()).cfg
    cfg.TRAINER.COOP.CTX_INIT, cfg.DATASET.FEWSHOT_SPLIT = "1", "a draw's.json"
    (command,) = re.findall(
        r"^    python train\.py (.*)$", model_card(Shared(REPOSITORY, cfg, ["a"], [], [])), re.MULTILINE
    )
    found = setup_cfg(train.parse_args(shlex.split(command)))
    assert (found.TRAINER.COOP.CTX_INIT, found.DATASET.FEWSHOT_SPLIT) == ("1", "a draw's.json")
    assert plain(found.INPUT) == plain(cfg.INPUT) and plain(found.OPTIM) == plain(cfg.OPTIM)


def test_a_name_is_no_markup(trained):
    cfg = read_record(trained.run, default_cfg()).cfg
    evil = "<img src=x onerror=1> | [a](http://b.c) `x`\n# head\n---\n@someone www.d.e \u202e"
    cfg.DATASET.NAME, cfg.TRAINER.COOP.CTX_INIT = evil, evil
    result = {"dataset": evil, "results": {evil: 1.0}, "subsample_classes": evil, "classes": 2}
    card = model_card(Shared(REPOSITORY, cfg, [evil] * 60, [result], ["DATASET.PATH"]))
    assert "\u202e" not in card and "and 10 more" in card
    assert card.count("\n# ") == 1 and len(re.findall(r"^---$", card, re.MULTILINE)) == 2
    text = re.sub(r"^    .*$", "", card.partition("\n---\n")[2], flags=re.MULTILINE)  # without commands
    assert not re.search(r"(?<!\\)[<`\[@]|(?<!\\)://|www\.", text)
    assert escaped("a_b") == r"a\_b"


# What is refused


def test_an_evaluation_of_another_model(trained, client, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained.new, other)
    content = json.loads((other / "result.json").read_text())
    content["model"]["learned_sha256"] = {"prompt_learner": "0" * 64}
    (other / "result.json").write_text(json.dumps(content))
    for place, says in ((other, "not an evaluation of these prompts"), (tmp_path, "no result.json")):
        with pytest.raises(UserError, match=says):
            pushed(trained, client, evaluations=[str(place)])
    assert client.commits == {}


def test_a_result_of_another_configuration(trained, client, tmp_path):
    shutil.copytree(trained.run, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "result.json").read_text())
    content["full_config"]["OPTIM"]["MAX_EPOCH"] = 1
    (tmp_path / "run" / "result.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="OPTIM.MAX_EPOCH is 1 there, 2 here.*finish the training"):
        hub.push(TrainedFolder(tmp_path / "run"), REPOSITORY, client)


def test_private_is_private(trained, client):
    pushed(trained, client)
    with pytest.raises(UserError, match="exists and is public"):
        pushed(trained, client, private=True)
    assert len(client.commits[REPOSITORY]) == 1
    hub.push(TrainedFolder(trained.run), "someone/hidden", client, private=True)
    assert client.private == {REPOSITORY: False, "someone/hidden": True}


def test_a_repository_of_something_else_stays_as_it_is(trained, client):
    files = pushed(trained, client)
    (files / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="has other files .pytorch_model.bin."):
        pushed(trained, client)


@pytest.mark.parametrize("name", ["eurosat", "a/b/c", "../x", "a/..", "someone/x y", "someone/é", "-a/b"])
def test_a_name_that_no_repository_has(trained, client, tmp_path, name):
    for act in (
        lambda: hub.push(TrainedFolder(trained.run), name, client),
        lambda: hub.pull(name, tmp_path / "out", client),
    ):
        with pytest.raises(BadValueError, match="write OWNER/NAME"):
            act()
    assert not (tmp_path / "out").exists()


def test_what_has_no_prompts(client, tmp_path):
    (tmp_path / "photos").mkdir()
    for place, says in ((tmp_path / "none", "no such folder"), (tmp_path / "photos", "it has no config.yaml")):
        with pytest.raises(UserError, match=says):
            hub.push(TrainedFolder(place), REPOSITORY, client)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def to_pickle(path):
    torch.save({"ctx": torch.zeros(2)}, path)
    entry = {"bytes": path.stat().st_size, "sha256": file_sha256(path), "tensors": {"ctx": [2]}}
    edit(path.with_name("manifest.json"), lambda content: content["files"].update({path.name: entry}))


def to_link(path):
    path.unlink()
    path.symlink_to("/etc/hostname")


DAMAGES = {
    "another byte": (lambda at: flip(at / "prompts.safetensors"), "prompts.safetensors is not the file .* SHA-256"),
    "longer": (lambda at: (at / "config.yaml").open("a").write("\n"), r"config.yaml has [\d,]+ bytes, but manifest"),
    "a pickle": (lambda at: to_pickle(at / "prompts.safetensors"), "cannot read someone/eurosat-prompts: prompts"),
    "a link": (lambda at: to_link(at / "prompts.safetensors"), "did not arrive as a regular file"),
    "missing": (lambda at: (at / "config.yaml").unlink(), "it lacks config.yaml"),
    "no manifest": (lambda at: (at / "manifest.json").write_text("[]"), "does not describe"),
    "not JSON": (lambda at: (at / "manifest.json").write_text("{"), "not valid JSON"),
    "no entry": (lambda at: edit(at / "manifest.json", lambda c: c["files"].clear()), "does not describe prompts"),
    "no files": (lambda at: edit(at / "manifest.json", lambda c: c.update(files=[])), "not a manifest of format 1"),
    "a later format": (lambda at: edit(at / "manifest.json", lambda c: c.update(format=2)), "of format 1"),
    "other classes": (lambda at: edit(at / "manifest.json", lambda c: c["classes"].reverse()), "different class"),
    "other tensors": (
        lambda at: edit(
            at / "manifest.json", lambda c: c["files"]["prompts.safetensors"].update(tensors={"ctx": [1, 1]})
        ),
        "its tensors are not those",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_leave_nothing(trained, client, tmp_path, damage):
    files = pushed(trained, client)
    spoil, says = DAMAGES[damage]
    spoil(files)
    with pytest.raises(UserError, match=says) as caught:
        hub.pull(REPOSITORY, tmp_path / "new" / "pulled", client)
    assert hub.STAGING_PREFIX not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_only_expected_files_within_bounds_are_asked_for(trained, client, tmp_path, monkeypatch):
    files = pushed(trained, client)
    for name in ("evil.pkl", "setup.py", ".gitattributes"):
        (files / name).touch()
    hub.pull(REPOSITORY, tmp_path / "one", client)
    assert set(client.asked) == FILES and len(client.asked) == len(FILES)
    client.asked.clear()
    monkeypatch.setitem(MAX_BYTES, "prompts.safetensors", 100)
    with pytest.raises(UserError, match="the size of prompts.safetensors is .* at most 100 bytes"):
        hub.pull(REPOSITORY, tmp_path / "two", client)
    assert client.asked == [] and not (tmp_path / "two").exists()


def test_a_folder_with_files_stays_as_it_is(trained, client, tmp_path):
    pushed(trained, client)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty"):
        hub.pull(REPOSITORY, tmp_path, client)
    with pytest.raises(UserError, match="is not a folder"):
        hub.pull(REPOSITORY, tmp_path / "mine.txt", client)
    killed = tmp_path / "killed"
    (killed / f"{hub.STAGING_PREFIX}x").mkdir(parents=True)
    hub.pull(REPOSITORY, killed, client)
    assert {path.name for path in killed.iterdir()} == FILES


def test_a_revision_is_one_commit(trained, client, tmp_path):
    first = pushed(trained, client)
    (first / "README.md").write_text("first")
    pushed(trained, client)
    hub.pull(REPOSITORY, tmp_path / "first", client, first.name)
    hub.pull(REPOSITORY, tmp_path / "last", client)
    assert (tmp_path / "first" / "README.md").read_text() == "first" != (tmp_path / "last" / "README.md").read_text()
    with pytest.raises(UserError, match="no such revision"):
        hub.pull(REPOSITORY, tmp_path / "x", client, "v9")
    with pytest.raises(UserError, match="no repository someone/none on the Hub"):
        hub.pull("someone/none", tmp_path / "x", client)


def test_another_clip_is_refused(trained, client, tmp_path):
    """Of the same shapes, as a careless --backbone would name it."""
    pushed(trained, client)
    hub.pull(REPOSITORY, tmp_path / "pulled", client)
    state = load_file(backbone_of(trained))
    other = tmp_path / "other.safetensors"
    save_file(state | {"logit_scale": state["logit_scale"] + 1}, other)
    with pytest.raises(UserError, match="trained on another CLIP than"):
        load_classifier(tmp_path / "pulled", options=("MODEL.BACKBONE.NAME", str(other)))
    edit(tmp_path / "pulled" / "manifest.json", lambda content: content.pop("backbone_sha256"))
    load_classifier(tmp_path / "pulled", options=("MODEL.BACKBONE.NAME", str(other)))  # earlier exports do not tell


# The command


@pytest.mark.parametrize("token", ["hf_abcdefGHIJ", "my-own-secret"])
@pytest.mark.parametrize("before", ["authorization: Bearer", "x" * 190])  # messages are cut after 200 characters
def test_a_token_is_never_printed(trained, client, monkeypatch, token, before):
    monkeypatch.setenv("HF_TOKEN", "my-own-secret")

    def fails(*_, **__):
        raise ConnectionError(f"{before}\n{token}, {token}")

    client.upload_folder = fails
    with pytest.raises(UserError) as caught:
        pushed(trained, client)
    assert token[:6] not in str(caught.value) and "***" in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_a_refused_login(trained, client):
    def fails(*_, **__):
        error = OSError("401")
        error.response = SimpleNamespace(status_code=401)
        raise error

    client.create_repo = fails
    with pytest.raises(UserError, match="hf auth login"):
        pushed(trained, client)


def test_the_commands(trained, client, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "connect", lambda: client)
    hub.main(make_hub_parser().parse_args(["push", str(trained.run), REPOSITORY, "--private"]))
    said = capsys.readouterr().out
    assert "Note: shared with the names of files alone, without their folders: MODEL.BACKBONE.NAME\n" in said
    assert said.endswith(f"Pushed to https://huggingface.co/{REPOSITORY}\n")
    hub.main(make_hub_parser().parse_args(["pull", REPOSITORY, "--output-dir", str(tmp_path / "my pulled")]))
    said = capsys.readouterr().out
    assert said.endswith("my pulled' --images photo.jpg --backbone FILE\n") and "CoOp for 4 classes" in said


def test_the_package_is_asked_for(monkeypatch):
    monkeypatch.setattr(hub, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install no_such_package"):
        hub.connect()


def test_the_client_has_what_is_asked_of_it():
    """The real one takes every argument by its name."""
    import inspect

    from huggingface_hub import HfApi

    for name in ("model_info", "create_repo", "upload_folder", "hf_hub_download"):
        asked = inspect.signature(getattr(LocalHub, name)).parameters
        assert set(asked) <= set(inspect.signature(getattr(HfApi, name)).parameters), name


def test_a_mistake_is_one_line(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "deploy.hub", "push", "none", "owner/name"], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1) and "no such folder: none" in result.stderr
