"""``manifest.json``: what a collection's folder holds and which model wrote it."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from mgte_rag import CorruptCollectionError, ModelIdentity, ModelMismatchError
from qdrant_mgte.types import EncodingModel

_FORMAT = "mgte-rag collection"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A collection's identity.

    Attributes:
        state: "creating" until the engine's files are there, then "ready".
        model: identity of the model that wrote the vectors.
        dim: components of the dense vectors.
    """

    state: Literal["creating", "ready"]
    model: ModelIdentity
    dim: int

    @classmethod
    def of(cls, model: EncodingModel) -> Self:
        """The manifest of a new collection for a model."""
        return cls(state="creating", model=model.identity, dim=model.dims[-1])

    def ready(self) -> Self:
        """The same collection, its files in place."""
        return replace(self, state="ready")

    def check(self, folder: Path, model: EncodingModel) -> None:
        """Compare with a model.

        Raises:
            ModelMismatchError: the model's vectors cannot be compared with those stored; the message says what differs.
        """
        identity = model.identity
        if self.model.fingerprint == identity.fingerprint and self.dim == model.dims[-1]:
            return
        stored = f"{self.model.name!r} (revision {self.model.revision}, fingerprint {self.model.fingerprint[:12]})"
        given = f"{identity.name!r} (revision {identity.revision}, fingerprint {identity.fingerprint[:12]})"
        raise ModelMismatchError(
            f"the collection {folder} was written with the model {stored} at dim {self.dim}; given is {given} at dim "
            f"{model.dims[-1]}. Open it with the model that wrote it, or give another folder and index again."
        )

    def write(self, path: Path) -> None:
        """Replace the file in one step, on the disk before this returns."""
        content = {"format": _FORMAT, "schema_version": SCHEMA_VERSION, **asdict(self)}
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The manifest, or None where there is none.

        Raises:
            CorruptCollectionError: the file is there but is no manifest of this version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CorruptCollectionError(f"cannot read {path}: {error}") from error
        if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
            raise CorruptCollectionError(f"{path} is no manifest of an mgte-rag collection; give another folder")
        if content.get("schema_version") != SCHEMA_VERSION:
            raise CorruptCollectionError(
                f"{path} has schema version {content.get('schema_version')!r}, this release reads {SCHEMA_VERSION}; "
                f"use the release that wrote it, or index again into another folder"
            )
        return cls._from_json(path, content)

    @classmethod
    def _from_json(cls, path: Path, content: Mapping[str, Any]) -> Self:
        try:
            manifest = cls(state=content["state"], model=ModelIdentity(**content["model"]), dim=content["dim"])
        except (KeyError, TypeError) as error:
            raise CorruptCollectionError(f"{path} is incomplete: {error}") from error
        fingerprint_is_text = isinstance(manifest.model.fingerprint, str)
        if manifest.state not in ("creating", "ready") or not isinstance(manifest.dim, int) or not fingerprint_is_text:
            raise CorruptCollectionError(
                f"{path} was changed by hand: state, dim or fingerprint is not what was written"
            )
        return manifest


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # folders cannot be opened on every system
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
