"""Collections on the move: to another engine, to a backup, to another model."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mgte_rag import CollectionError, InvalidOptionError, SparseVector
from mgte_rag.progress import Progress
from qdrant_mgte.documents import EXACT_METADATA, metadata_of
from qdrant_mgte.edge import EdgeStore
from qdrant_mgte.folder import LOCK_NAME
from qdrant_mgte.manifest import Layout, Manifest
from qdrant_mgte.reservations import reservations_of
from qdrant_mgte.schema import Point, Vector
from qdrant_mgte.splitting import Splitting
from qdrant_mgte.store import ServerOptions, Store
from qdrant_mgte.stored import all_documents, count_documents, delete_documents
from qdrant_mgte.stores import MEMORY, STORES
from qdrant_mgte.types import CopyReport, EncodingModel
from qdrant_mgte.writing import BATCH_BYTES, point_bytes, write_documents

_PAGE = 32  # points read at once: their token vectors may be megabytes each
_PAGE_WITHOUT_VECTORS = 1_000


def copy_points(
    source: Store, location: Path | str, *, name: str, options: ServerOptions, show_progress: bool
) -> CopyReport:
    """Copy all points to another engine; see ``HybridCollection.copy_to``."""
    if location == MEMORY:
        raise InvalidOptionError("a copy in memory would be gone at once; give a folder or the URL of a server")
    target = STORES.acquire(location, name=name, schema=source.schema, metadata=source.metadata, options=options)
    try:
        if target is source:
            raise InvalidOptionError(f"{source.location} cannot be copied to itself")
        _check_fits(source, target)
        with reservations_of(source).everything(), reservations_of(target).everything():
            return _copy(source, target, show_progress=show_progress)
    finally:
        STORES.release(target)


def _check_fits(source: Store, target: Store) -> None:
    if (source.schema.dims, source.schema.sparse) != (target.schema.dims, target.schema.sparse) or source.metadata.get(
        "model"
    ) != target.metadata.get("model"):
        raise CollectionError(
            f"{target.location} holds a collection of another model or layout; give a location that is empty"
        )
    for page in _pages(target, _PAGE_WITHOUT_VECTORS, vectors=(), fields=()):
        here = source.retrieve([point.id for point in page], fields=())
        if len(here) < len(page):
            raise CollectionError(
                f"{target.location} holds documents that {source.location} does not have: it is no earlier part of "
                f"this copy. Give a location that is empty"
            )


def _copy(source: Store, target: Store, *, show_progress: bool) -> CopyReport:
    names = source.schema.vector_names
    checksum = hashlib.sha256()
    copied = already_there = 0
    with Progress("copying", unit="points", total=source.count(), show=show_progress) as progress:
        for page in _pages(source, _PAGE, vectors=names):
            there = target.retrieve([point.id for point in page])
            missing = [p for p in page if p.id not in there or _canonical(there[p.id]) != _canonical(p)]
            for batch in _batches([Point(p.id, p.vectors, _exact(p.payload)) for p in missing]):
                refused = target.upsert(batch)
                if refused:
                    refused_id, reason = next(iter(refused.items()))
                    raise CollectionError(f"{target.location} refused the point {refused_id}: {reason}")
            _check_vectors(missing, target, names)
            for point in page:
                checksum.update(_canonical(point))
            copied += len(missing)
            already_there += len(page) - len(missing)
            progress.advance(len(page), 0)
    _check_copy(source, target, checksum.hexdigest())
    return CopyReport(copied=copied, already_there=already_there, checksum=checksum.hexdigest())


def _check_vectors(points: list[Point], target: Store, names: tuple[str, ...]) -> None:
    """Read back what was written: equal but for the rounding of what the target stores."""
    stored = target.retrieve([point.id for point in points], fields=(), vectors=names) if points else {}
    for point in points:
        for name, vector in point.vectors.items():
            if point.id not in stored or not _is_close(vector, stored[point.id].vectors.get(name)):
                raise CollectionError(f"{target.location} did not store the vector {name!r} of {point.id} as it was")


def _is_close(one: Vector, other: Vector | None) -> bool:
    if isinstance(one, SparseVector):
        if not isinstance(other, SparseVector) or not np.array_equal(one.indices, other.indices):
            return False
        return bool(np.allclose(one.values, other.values, rtol=2e-3, atol=1e-3))
    if not isinstance(other, np.ndarray) or one.shape != other.shape:
        return False
    return bool(np.allclose(one, other, rtol=2e-3, atol=1e-3))


def _check_copy(source: Store, target: Store, expected: str) -> None:
    counts = source.count(), target.count()
    checksum = hashlib.sha256()
    for page in _pages(target, _PAGE_WITHOUT_VECTORS, vectors=()):
        for point in page:
            checksum.update(_canonical(point))
    if counts[0] != counts[1] or checksum.hexdigest() != expected:
        raise CollectionError(
            f"the copy {target.location} has {counts[1]:,} points with checksum {checksum.hexdigest()[:12]}, the "
            f"original {counts[0]:,} with {expected[:12]}: it was written to by others meanwhile. Copy again"
        )


def _pages(
    store: Store, limit: int, *, vectors: tuple[str, ...], fields: tuple[str, ...] | None = None
) -> Iterator[list[Point]]:
    after = None
    while True:
        page, after = store.scroll(limit=limit, after=after, fields=fields, vectors=vectors)
        yield page
        if after is None:
            return


def _batches(points: list[Point]) -> Iterator[list[Point]]:
    batch: list[Point] = []
    size = 0
    for point in points:
        if batch and size + point_bytes(point) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += point_bytes(point)
    if batch:
        yield batch


def _exact(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload as it was before the engine: floats to the last digit."""
    return {**payload, "metadata": metadata_of(payload)} if payload.get(EXACT_METADATA) else dict(payload)


def _canonical(point: Point) -> bytes:
    """Id and payload in one form, whatever the engine does to the order of keys, last digits and empty fields."""
    payload = {name: value for name, value in _exact(point.payload).items() if value is not None}
    return json.dumps([str(point.id), payload], sort_keys=True).encode()


def back_up(store: Store, folder: Path | str) -> None:
    """Copy an embedded collection's files to a new folder; see ``HybridCollection.backup``."""
    if not isinstance(store, EdgeStore):
        raise InvalidOptionError(f"{store.location} is no folder; copy_to() makes a folder of it, or use its snapshots")
    if not isinstance(folder, Path):
        raise InvalidOptionError(f"a backup goes to a folder, not to {folder}; copy_to() writes to servers")
    source = Path(store.location)
    if folder.exists() and any(folder.iterdir()):
        raise CollectionError(f"{folder} is not empty; give a new folder for the backup")
    if folder == source or source in folder.parents:
        raise InvalidOptionError(f"{folder} lies in the collection itself; give a folder elsewhere")
    partial = folder.with_name(folder.name + ".partial")
    try:
        with reservations_of(store).everything():
            count = store.count()
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial, ignore=shutil.ignore_patterns(LOCK_NAME))
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CollectionError(f"cannot back {source} up to {folder}: {error}") from error
    copy = STORES.acquire(folder, schema=None, metadata={})
    try:
        if copy.count() != count:
            raise CollectionError(f"the backup {folder} has {copy.count():,} points, the original {count:,}; delete it")
    finally:
        STORES.release(copy)


def migrate_documents(
    store: Store, model: EncodingModel, layout: Layout, *, split: bool | Splitting, show_progress: bool
) -> None:
    """Embed all documents again into the next version, and serve that one; see ``HybridCollection.migrate``."""
    old, new = Manifest.read(store), Manifest.of(model)
    schema = layout.schema(model, store.schema)
    if schema == store.schema and old == new:
        return
    with reservations_of(store).everything():
        following = store.start_version(schema, new.to_json())
        documents = _first_release(store) if old.schema_version == 1 else _as_given(store)
        report = write_documents(following, model, documents, split=split, show_progress=show_progress)
        report.raise_for_rejected()
        if old.schema_version != 1 and count_documents(following, None) != count_documents(store, None):
            _delete_strangers(store, following)  # deleted here after an interrupted migration had copied them
        store.finish_version()


def _as_given(store: Store) -> Iterator[dict[str, Any]]:
    for page in all_documents(store):
        for document in page:
            yield {"id": document.id, "text": document.text, "metadata": document.metadata}


def _first_release(store: Store) -> Iterator[dict[str, Any]]:
    for page in _pages(store, _PAGE_WITHOUT_VECTORS, vectors=()):
        for point in page:
            yield {"id": point.payload["id"], "text": point.payload["text"], "metadata": metadata_of(point.payload)}


def _delete_strangers(store: Store, following: Store) -> None:
    kept = {document.id for page in all_documents(store) for document in page}
    gone = [document.id for page in all_documents(following) for document in page if document.id not in kept]
    delete_documents(following, gone, None)
