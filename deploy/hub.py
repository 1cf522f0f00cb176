"""Learned prompts to and from the Hugging Face Hub.

python -m deploy.hub push output/try owner/name --private
python -m deploy.hub pull owner/name --output-dir pulled
"""

from __future__ import annotations

from dassl.command_line import end_imports_in_one_line, errors_in_one_line, tell_of_imports
from deploy.arguments import make_hub_parser

if __name__ == "__main__":  # before the imports that take seconds
    end_imports_in_one_line()
    make_hub_parser().parse_args()
    tell_of_imports()

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from clip.clip import available_models
from dassl.config import config_differences, leaves, plain
from dassl.engine.found_models import found_instead
from dassl.engine.run_record import has_checkpoints, read_config, weights_digest
from dassl.utils import BadValueError, MissingFileError, UnwritableFileError, UserError, one_line, write_text_atomically
from dassl.utils.locks import LOCK_NAME, locked_while_writing
from deploy.export import export, put_in_place, staging_folder
from deploy.load import MANIFEST_NAME, PROMPTS_NAME, TrainedFolder, read_tensors
from deploy.model_card import Shared, model_card
from deploy.prompt_folder import (
    CARD_NAME,
    MAX_BYTES,
    check_prompt_folder,
    check_sizes,
    make_prompt_folder,
    without_folders,
)
from runner.config import default_cfg, set_key
from runner.plugins import load_plugins
from runner.result import read_result
from trainers.core.record import changes_no_number, read_record

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PACKAGE = "huggingface_hub"
STAGING_PREFIX = ".pull-"
"""Begins the name of the folder, inside the new one, in which files are verified."""
NOT_OURS = (".gitattributes",)
"""Files that the Hub itself puts into a repository."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_TOKEN = re.compile(r"hf_\w{4,}|(?i:bearer)\s+\S+")


def connect() -> HfApi:
    """The Hub's client.

    Raises:
        BadValueError: its package is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise BadValueError(f"the Hub needs a package that is not installed: pip install {PACKAGE}")
    return importlib.import_module(PACKAGE).HfApi()


def push(
    source: TrainedFolder, repository: str, client: HfApi, private: bool = False, evaluations: Sequence[str] = ()
) -> list[str]:
    """Put the learned tensors of a run or an exported folder on the Hub, in one commit.

    Args:
        repository: owner/name; created if it does not exist.
        private: refuse a repository that is public.
        evaluations: folders of evaluations of this model.

    Returns:
        Keys of the configuration whose paths were shortened to the file's name, if a number depends on them.

    Raises:
        UserError: nothing to share, an evaluation of another model, a repository with other files, or the Hub refuses.
    """
    check_repository_name(repository)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "shared")
        folder.mkdir()
        exported = _exported(source, Path(scratch, "exported"))
        make_prompt_folder(exported, folder)
        results = [*_own_result(source), *_results_of(evaluations, folder)]
        record = read_record(source.folder, default_cfg())  # an export of the run has other settings
        shortened = _shorten(record.cfg)
        is_export = exported == Path(source.folder)
        card = model_card(Shared(repository, record.cfg, record.classnames, results, shortened, is_export))
        write_text_atomically(folder / CARD_NAME, card)
        check_sizes({path.name: path.stat().st_size for path in folder.iterdir()}, str(source.folder))
        _upload(folder, repository, client, private)
    return shortened


def check_repository_name(name: str) -> None:
    """Check that a repository is named as owner/name.

    Raises:
        BadValueError: it is not.
    """
    if not _REPOSITORY.fullmatch(name):
        raise BadValueError(f"{name!r} is not a repository on the Hub: write OWNER/NAME, with letters, digits, - _ .")


def _shorten(cfg: CfgNode) -> list[str]:
    """Leave the folders of this computer out of a configuration; returns the changed keys that matter to a number."""
    shortened = [(key, value, without_folders(value)) for key, value in leaves(plain(cfg))]
    changed = {key: short for key, value, short in shortened if short != value}
    for key, short in changed.items():
        set_key(cfg, key, short)
    return [key for key in changed if key not in changes_no_number()]


def _exported(source: TrainedFolder, folder: Path) -> Path:
    """The exported folder itself, or an export of the run without graphs."""
    place = Path(source.folder)
    if (place / MANIFEST_NAME).is_file() and not has_checkpoints(place):
        return place
    if place.is_dir() and not (place / "config.yaml").is_file():
        raise MissingFileError(
            f"{place} is neither a run of this project nor an exported folder: it has no config.yaml; "
            f"{found_instead(place)}"
        )
    export(source, folder, None, ())
    return folder


def _own_result(source: TrainedFolder) -> list[Mapping[str, Any]]:
    """The result of the run, if it is recorded.

    Raises:
        UserError: it belongs to another configuration, because the training was extended and has not ended.
    """
    result = read_result(Path(source.folder))
    if result is None:
        return []
    recorded = read_config(source.folder)
    different = config_differences(result["full_config"], recorded, plain(default_cfg()), changes_no_number())
    if different:
        raise UserError(
            f"{source.folder}: result.json is of another configuration ({different[0]}): finish the training first"
        )
    return [result]


def _results_of(evaluations: Sequence[str], folder: Path) -> Iterator[Mapping[str, Any]]:
    """The results of evaluations of the learned tensors in `folder`.

    Raises:
        UserError: an evaluation has not ended, or was of another model.
    """
    own = weights_digest(read_tensors(folder / PROMPTS_NAME))
    for each in evaluations:
        result = read_result(Path(each))
        if result is None:
            raise MissingFileError(f"{each} has no result.json: it is not the folder of a finished evaluation")
        model = result.get("model") or {}
        if own not in (model.get("learned_sha256") or {}).values():
            raise UserError(f"{each} is not an evaluation of these prompts: the SHA-256 of its learned tensors differs")
        yield result


def _upload(folder: Path, repository: str, client: HfApi, private: bool) -> None:
    """Create the repository, unless it exists and is fit, and commit the files.

    Raises:
        UserError: the repository has other files, or is public although a private one is asked for.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with hub_errors(repository):
        with suppress(RepositoryNotFoundError):  # it is created
            _check_repository(client.model_info(repository), repository, private)
        client.create_repo(repository, private=True if private else None, exist_ok=True)
        if private and not client.model_info(repository).private:
            raise UserError(f"{repository} is public although --private was given: nothing was pushed")
        client.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            allow_patterns=list(MAX_BYTES),
            commit_message="Learned prompts",
        )


def _check_repository(info: Any, repository: str, private: bool) -> None:
    if private and not info.private:
        raise UserError(f"{repository} exists and is public: make it private in its settings, or choose another name")
    others = sorted({each.rfilename for each in info.siblings or ()} - {*MAX_BYTES, *NOT_OURS})
    if others:
        raise UserError(f"{repository} has other files ({', '.join(others[:3])}): push to a repository of its own")


def pull(repository: str, folder: Path, client: HfApi, revision: str | None = None) -> dict[str, Any]:
    """Take learned prompts from the Hub into a new or empty folder; nothing stays there if they are refused.

    Returns:
        Their manifest.

    Raises:
        BusyError: another process is writing into the folder.
        UserError: the folder is not empty, the Hub refuses, or a file is missing, too large or damaged.
    """
    check_repository_name(repository)
    if folder.exists() and not folder.is_dir():
        raise UnwritableFileError(f"{folder} is not a folder: choose another --output-dir")
    with locked_while_writing(folder):
        if any(path.name != LOCK_NAME and not path.name.startswith(STAGING_PREFIX) for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty: choose a new --output-dir")
        with staging_folder(folder, STAGING_PREFIX) as staging:
            with hub_errors(repository):
                files = _download(repository, staging, client, revision)
            manifest = _checked(staging, repository)
            put_in_place(files, folder)
    return manifest


def _checked(staging: Path, repository: str) -> dict[str, Any]:
    """The manifest of verified files; errors name the repository in place of the folder, which will not stay."""
    try:
        return check_prompt_folder(staging)
    except UserError as error:
        text = str(error).replace(f"{staging}{os.sep}", f"{repository}: ").replace(str(staging), repository)
        raise UserError(f"{text}; nothing was written") from error


def _download(repository: str, folder: Path, client: HfApi, revision: str | None) -> list[Path]:
    """Download the expected files of one commit."""
    info = client.model_info(repository, revision=revision, files_metadata=True)
    sizes = {each.rfilename: each.size for each in info.siblings or ()}
    check_sizes(sizes, repository)
    files = [folder / name for name in MAX_BYTES if name in sizes]
    for path in files:
        name = path.name
        client.hf_hub_download(repository, name, revision=info.sha, local_dir=str(folder))
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{repository}: {name} did not arrive as a regular file")
        if path.stat().st_size != sizes[name]:
            raise UserError(f"{repository}: {name} has {path.stat().st_size:,} bytes, not {sizes[name]:,}: pull again")
    return files


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Errors of the Hub's client as a UserError of one line, without a token.

    The original error is not kept as the cause: a traceback would print it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client's own, those of its HTTP library, and the system's
        raise UserError(_explained(error, repository)) from None


def _explained(error: Exception, repository: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "RevisionNotFoundError" in kinds:
        return f"{repository} has no such revision: check --revision"
    if "RepositoryNotFoundError" in kinds:
        return (
            f"no repository {repository} on the Hub that you may read: check the name; hf auth login for private ones"
        )
    if "LocalTokenNotFoundError" in kinds or getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
        return f"the Hub does not let you write or read {repository}: hf auth login, with a token that may"
    reason = one_line(UserError(without_token(str(error)) or type(error).__name__))  # cut only after tokens are gone
    return f"{repository}: the Hub could not be used, check the connection: {reason}"


def without_token(text: str) -> str:
    """A text in which no token of the Hub is left."""
    for own in filter(None, (os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"))):
        text = text.replace(own, "***")
    return _TOKEN.sub("***", text)


def main(args: argparse.Namespace) -> None:
    """Push or pull, and say what can be done next.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    client = connect()
    if args.command == "push":
        load_plugins(args.plugin)
        options = ("MODEL.BACKBONE.NAME", args.backbone) if args.backbone else ()
        shortened = push(
            TrainedFolder(args.source, options=options), args.repository, client, args.private, args.evaluations
        )
        if shortened:
            print(f"Note: shared with the names of files alone, without their folders: {', '.join(shortened)}")
        print(f"Pushed to https://huggingface.co/{args.repository}")
        return
    folder = Path(args.output_dir)
    manifest = pull(args.repository, folder, client, args.revision)
    for name in filter(lambda name: (folder / name).is_file(), MAX_BYTES):
        print(f"{folder / name}: {(folder / name).stat().st_size:,} bytes")
    config = dict(leaves(read_config(folder)))
    backbone = str(config.get("MODEL.BACKBONE.NAME", ""))
    file = "" if backbone in available_models() or backbone.startswith("open_clip:") else " --backbone FILE"
    print(f"{manifest['trainer']} for {len(manifest['classes'])} classes, on CLIP {backbone}. Try it:")
    print(f"python predict.py --model-dir {shlex.quote(str(folder))} --images photo.jpg{file}")


if __name__ == "__main__":
    with errors_in_one_line():
        main(make_hub_parser().parse_args())
