"""The folder of an embedded collection: its lock, its manifest, and a sub-folder for each version's engine files.

collection.lock   held while a process has the collection open
manifest.json     which version is served, and what it and the next one hold
shard, shard-2    the engine's files, one sub-folder for each version
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from filelock import FileLock, Timeout

from mgte_rag import CollectionError, CollectionLockedError, CorruptCollectionError, InvalidOptionError
from qdrant_mgte.schema import Schema

LOCK_NAME = "collection.lock"
_MANIFEST = "manifest.json"
_TEMPORARY = "manifest.tmp"
_FORMAT = "mgte-rag collection"
FOLDER_VERSION = 2  # 1: dense vectors only, no schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a collection.

    Attributes:
        number: from 1, growing.
        state: "creating" until the engine's files are there, then "ready".
        schema: what its points hold.
        metadata: the caller's JSON.
    """

    number: int
    state: Literal["creating", "ready"]
    schema: Schema
    metadata: Mapping[str, Any]

    @property
    def shard_name(self) -> str:
        """Name of the sub-folder with the engine's files."""
        return "shard" if self.number == 1 else f"shard-{self.number}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "number": self.number,
            "state": self.state,
            "schema": self.schema.to_json(),
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From ``to_json``.

        Raises:
            KeyError, TypeError, InvalidOptionError: it is not that.
        """
        version = cls(**{**content, "schema": Schema.from_json(content["schema"])})
        if version.state not in ("creating", "ready") or not isinstance(version.number, int):
            raise TypeError("state or number is not what was written")
        if not isinstance(version.metadata, Mapping):
            raise TypeError("metadata is no dictionary")
        return version


class CollectionFolder:
    """A locked folder and its manifest.

    Args:
        path: where the collection is or will be.

    Raises:
        CollectionLockedError: open in another process.
        CorruptCollectionError: the folder is no collection, or its manifest cannot be read.
        CollectionError: the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.served: Version | None = None
        self.next: Version | None = None
        _check_is_collection_or_empty(path)
        self._lock = self._acquire_lock()
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise

    def _acquire_lock(self) -> FileLock:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK_NAME, timeout=0, thread_local=False)
            lock.acquire()
            self._lock_status = os.stat(self.path / LOCK_NAME)
        except Timeout:
            raise CollectionLockedError(
                f"the collection {self.path} is open in another process, and one process at a time may have it. "
                f"Close it there, answer both from one process, or copy the folder."
            ) from None
        except FileExistsError:
            raise CollectionError(f"cannot open {self.path} as a collection: it is a file; give a folder") from None
        except OSError as error:
            raise CollectionError(f"cannot open {self.path} as a collection: {error}") from error
        return lock

    def release(self) -> None:
        """Give the folder free."""
        self._lock.release()

    @property
    def is_where_it_was(self) -> bool:
        """Whether the folder on the disk is still the one that was opened, not deleted or replaced."""
        try:
            return os.path.samestat(os.stat(self.path / LOCK_NAME), self._lock_status)
        except OSError:
            return False

    def shard(self, version: Version) -> Path:
        """Where the engine's files of a version are."""
        return self.path / version.shard_name

    def write(self, *, served: Version | None = None, next: Version | None) -> None:
        """Replace the manifest in one step, on the disk before this returns.

        Args:
            served: None keeps it.
            next: None means there is none.
        """
        served = served or self.served
        assert served is not None
        content = {
            "format": _FORMAT,
            "schema_version": FOLDER_VERSION,
            "served": served.to_json(),
            "next": None if next is None else next.to_json(),
        }
        temporary = self.path / _TEMPORARY
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / _MANIFEST)
        _sync_folder(self.path)
        self.served, self.next = served, next

    def remove_leftovers(self) -> None:
        """Delete engine files that no version of the manifest has: a process died while it made or left them."""
        kept = {version.shard_name for version in (self.served, self.next) if version is not None}
        for item in self.path.glob("shard*"):
            if item.name not in kept:
                shutil.rmtree(item, ignore_errors=True)

    def _read(self) -> None:
        path = self.path / _MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise CorruptCollectionError(
                f"cannot read {path}: {error}. The documents are untouched beside it: put the manifest back from a copy"
            ) from error
        if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
            raise CorruptCollectionError(f"{path} is no manifest of an mgte-rag collection; give another folder")
        if content.get("schema_version") not in (1, FOLDER_VERSION):
            raise CorruptCollectionError(
                f"{path} has schema version {content.get('schema_version')!r}, this release reads up to "
                f"{FOLDER_VERSION}; use the release that wrote it, or index again into another folder"
            )
        try:
            self.served, self.next = _first_release(content) if content["schema_version"] == 1 else _current(content)
        except (KeyError, TypeError, InvalidOptionError) as error:
            raise CorruptCollectionError(
                f"{path} is incomplete or was changed by hand: {error}. The documents are untouched beside it: put the "
                f"manifest back from a copy"
            ) from error


def _current(content: Mapping[str, Any]) -> tuple[Version, Version | None]:
    following = content["next"]
    return Version.from_json(content["served"]), None if following is None else Version.from_json(following)


def _first_release(content: Mapping[str, Any]) -> tuple[Version, None]:
    """A folder with dense vectors alone; it is written anew as a folder of today when something about it changes."""
    metadata = {"schema_version": 1, "model": dict(content["model"]), "dim": content["dim"]}
    if not isinstance(metadata["model"].get("fingerprint"), str):
        raise TypeError("the model's fingerprint is no text")
    version = {"number": 1, "state": content["state"], "metadata": metadata}
    return Version.from_json({**version, "schema": {"dense": content["dim"], "preset": "exact"}}), None


def next_version(served: Version, schema: Schema, metadata: Mapping[str, Any], after: int) -> Version:
    """The version that follows, to be filled."""
    return replace(served, number=after + 1, state="creating", schema=schema, metadata=dict(metadata))


def _check_is_collection_or_empty(folder: Path) -> None:
    """Looks before anything is written: other people's folders stay as they are."""
    try:
        names = {item.name for item in folder.iterdir()}
    except OSError:
        return  # not there yet, or no folder at all: making it will tell
    strangers = sorted(names - {LOCK_NAME, _TEMPORARY})  # the latter where a process died before its manifest
    if strangers and _MANIFEST not in names:
        raise CorruptCollectionError(
            f"{folder} has files ({', '.join(strangers[:3])}) but no manifest.json: it is no collection, or its "
            f"manifest was deleted. Give a folder that is empty or not there yet."
        )


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # folders cannot be opened on every system
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
