"""Collections copied between engines, backed up, and migrated to another model."""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge

from mgte_rag import CollectionError, EmbeddingModel, InvalidOptionError, ModelMismatchError
from qdrant_mgte import HybridCollection, move, writing
from qdrant_mgte.documents import point_id

LONG = "\n\n".join(f"A paragraph about {topic}. " * 40 for topic in ("cats", "birds", "fish"))
DOCUMENTS = [
    {"id": "long", "text": LONG, "metadata": {"share": 0.1, "deep": {"er": [1 / 3, None]}}},
    *({"id": str(i), "text": f"Document {i} about number {i}.", "metadata": {"n": i}} for i in range(100)),
]


@pytest.fixture
def opened(engine: str, tmp_path: Path, mini: EmbeddingModel) -> Iterator[Callable[..., HybridCollection]]:
    """Opens collections of an engine by name."""
    handles: list[HybridCollection] = []
    run = uuid.uuid4().hex[:8]

    def open_one(name: str, **options: Any) -> HybridCollection:
        location = tmp_path / name if engine == "embedded" else engine
        handles.append(HybridCollection.open(location, name=f"{name}-{run}", **{"model": mini, **options}))
        return handles[-1]

    yield open_one
    for handle in handles:
        handle.close()


def same_answers(one: HybridCollection, other: HybridCollection) -> None:
    for mode in ("dense", "sparse", "hybrid", "late_interaction"):
        scores = [
            {
                hit.chunk_id: hit.score
                for hit in each.search("number 7 about cats", mode=mode, limit=1000, candidates=1000)
            }
            for each in (one, other)  # all of them: of nearly equal scores either may come first
        ]
        assert scores[0] == pytest.approx(scores[1], rel=2e-3)
    ids = [document["id"] for document in DOCUMENTS]
    assert one.get(ids) == other.get(ids)


def test_a_copy_from_any_engine_to_a_folder_and_to_a_server_answers_the_same(
    opened: Callable[..., HybridCollection], tmp_path: Path, mini: EmbeddingModel, stub: Any
) -> None:
    original = opened("original")
    original.upsert(DOCUMENTS)
    points = original._store.count()
    report = original.copy_to(tmp_path / "copy")
    assert (report.copied, report.already_there, len(report.checksum)) == (points, 0, 64)
    with HybridCollection.open(tmp_path / "copy", model=mini) as copy:
        same_answers(original, copy)
        assert copy.upsert(DOCUMENTS).unchanged == len(DOCUMENTS)
        there_and_back = copy.copy_to(stub.url, name="copied")
        assert there_and_back.checksum == report.checksum
    with HybridCollection.open(stub.url, name="copied", model=mini) as on_server:
        same_answers(original, on_server)


def test_an_interrupted_copy_goes_on_where_it_stopped(
    opened: Callable[..., HybridCollection], tmp_path: Path, mini: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = opened("original")
    original.upsert(DOCUMENTS)
    check = move._check_vectors
    pages = []

    def stop_at_the_third(*arguments: Any) -> None:
        pages.append(1)
        if len(pages) == 3:
            raise KeyboardInterrupt
        check(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(move, "_check_vectors", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            original.copy_to(tmp_path / "copy")
    original.update_metadata({"3": {"new": True}})
    report = original.copy_to(tmp_path / "copy")
    assert report.already_there >= 64
    assert report.copied + report.already_there == original._store.count()
    with HybridCollection.open(tmp_path / "copy", model=mini) as copy:
        same_answers(original, copy)


def test_a_copy_to_what_is_no_copy_is_refused(
    tmp_path: Path, mini: EmbeddingModel, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HybridCollection.open(tmp_path / "a", model=mini) as original:
        original.upsert(DOCUMENTS[1:4])
        with pytest.raises(InvalidOptionError, match="in memory would be gone"):
            original.copy_to(":memory:")
        with pytest.raises(InvalidOptionError, match="copied to itself"):
            original.copy_to(tmp_path / "a")
        with HybridCollection.open(tmp_path / "b", model=mini) as other:
            other.upsert(DOCUMENTS[3:6])
            with pytest.raises(CollectionError, match=r"holds documents that .* does not have"):
                original.copy_to(tmp_path / "b")
            assert other.count() == 3
        with EmbeddingModel.load(str(tiny_bert)) as tiny:
            HybridCollection.open(tmp_path / "d", model=tiny).close()
        with pytest.raises(CollectionError, match="another model or layout"):
            original.copy_to(tmp_path / "d")
        monkeypatch.setattr(move, "_is_close", lambda *vectors: False)
        with pytest.raises(CollectionError, match="did not store the vector"):
            original.copy_to(tmp_path / "e")
        monkeypatch.undo()
        count = original._store.count
        monkeypatch.setattr(original._store, "count", lambda *filter: count(*filter) + 1)
        with pytest.raises(CollectionError, match=r"has 3 points with checksum .*, the original 4 with"):
            original.copy_to(tmp_path / "f")


def test_a_backup_opens_like_the_original(tmp_path: Path, mini: EmbeddingModel) -> None:
    with HybridCollection.open(tmp_path / "a", model=mini) as original:
        original.upsert(DOCUMENTS)
        original.backup(tmp_path / "backups" / "monday")
        original.upsert([{"id": "later", "text": "after the backup"}])
        with pytest.raises(CollectionError, match="is not empty"):
            original.backup(tmp_path / "backups" / "monday")
        with pytest.raises(InvalidOptionError, match="lies in the collection itself"):
            original.backup(tmp_path / "a" / "backup")
        with pytest.raises(InvalidOptionError, match="a backup goes to a folder"):
            original.backup("http://localhost:6333")
    shutil.rmtree(tmp_path / "a")
    with HybridCollection.open(tmp_path / "backups" / "monday", model=mini) as restored:
        assert restored.count() == len(DOCUMENTS)
        assert restored.get("later") == [None]
        assert restored.get("long")[0].text == LONG
    with HybridCollection.open(":memory:", model=mini) as memory, pytest.raises(InvalidOptionError, match="no folder"):
        memory.backup(tmp_path / "other")


@pytest.fixture
def tiny(tiny_bert: Path) -> Iterator[EmbeddingModel]:
    with EmbeddingModel.load(str(tiny_bert)) as model:
        yield model


def test_migrating_embeds_again_with_the_new_model_behind_the_same_location(
    engine: str, opened: Callable[..., HybridCollection], tmp_path: Path, mini: EmbeddingModel, tiny: EmbeddingModel
) -> None:
    if engine == ":memory:":
        pytest.skip("a collection in memory is always a new one")
    old = opened("moving", indexes={"n": "integer"}, preset="exact")
    old.upsert(DOCUMENTS[:30])
    location, name = (tmp_path / "moving", "") if engine == "embedded" else (engine, _name(old))
    with HybridCollection.migrate(location, name=name or "documents", model=tiny) as new:
        assert new.count() == 30
        assert new.outputs == ("dense",)
        assert new._store.schema.dense == 32
        assert (new._store.schema.preset, new._store.schema.indexes["metadata.n"]) == ("exact", "integer")
        assert new.get("long")[0].text == LONG
        assert new.get("long")[0].metadata == DOCUMENTS[0]["metadata"]
        assert new.search("anything", limit=3)
        with pytest.raises(ModelMismatchError, match="was migrated to another model while this handle was open"):
            old.search("anything")
        with pytest.raises(ModelMismatchError, match="written with the model"):
            opened("moving")
    with HybridCollection.migrate(location, name=name or "documents", model=mini, outputs=("dense", "sparse")) as back:
        assert back.outputs == ("dense", "sparse")
        assert back.search("document number 7")[0].id == "7"


def _name(collection: HybridCollection) -> str:
    return collection.location.split("'")[1]


def test_an_interrupted_migration_serves_the_old_version_and_goes_on(
    tmp_path: Path, mini: EmbeddingModel, tiny: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_GROUP", 10)
    with HybridCollection.open(tmp_path, model=mini) as old:
        old.upsert(DOCUMENTS)

    class Interrupted:
        encoded = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny, name)

        def encode_document(self, texts: list[str], **options: Any) -> Any:
            if Interrupted.encoded > 50:
                raise KeyboardInterrupt
            Interrupted.encoded += len(texts)
            return tiny.encode_document(texts, **options)

    with pytest.raises(KeyboardInterrupt):
        HybridCollection.migrate(tmp_path, model=Interrupted())
    with HybridCollection.open(tmp_path, model=mini) as old:
        assert old.search("Document 7 about number 7", mode="dense", limit=1)[0].id == "7"
        old.delete("5")
        old.upsert([{"id": "new", "text": "written after the interruption"}])
    with HybridCollection.migrate(tmp_path, model=tiny) as new:
        assert new.count() == len(DOCUMENTS)
        assert new.get(["5", "new"])[0] is None
        assert new.get("new")[0].text == "written after the interruption"
        assert [item.name for item in sorted(tmp_path.glob("shard*"))] == ["shard-2"]


def test_migrating_to_what_is_there_changes_nothing_and_where_nothing_is_there_is_an_error(
    tmp_path: Path, mini: EmbeddingModel
) -> None:
    with HybridCollection.open(tmp_path / "a", model=mini) as collection:
        collection.upsert(DOCUMENTS[1:3])
    with HybridCollection.migrate(tmp_path / "a", model=mini) as same:
        assert same.count() == 2
        assert (tmp_path / "a" / "shard").is_dir()
    with HybridCollection.migrate(tmp_path / "a", model=mini, token_dim=32, preset="compact") as smaller:
        assert smaller._store.schema.multi_vector == 32
        assert smaller.search("number", mode="late_interaction")
    with pytest.raises(InvalidOptionError, match="there is no collection"):
        HybridCollection.migrate(tmp_path / "b", model=mini)


def test_a_folder_of_the_first_release_is_read_by_migrating_it(tmp_path: Path, mini: EmbeddingModel) -> None:
    parameters = edge.EdgeVectorParams(size=384, distance=edge.Distance.Cosine)
    shard = edge.EdgeShard.create(str(tmp_path / "shard"), edge.EdgeConfig(vectors={"dense": parameters}))
    payload = {"id": "a", "text": "Birds can fly.", "metadata": {"n": 1}, "content_hash": "h"}
    point = edge.Point(point_id("a"), {"dense": np.ones(384, dtype=np.float32)}, payload)
    shard.update(edge.UpdateOperation.upsert_points([point]))
    shard.flush()
    shard.close()
    model = {"name": "mini", "revision": None, "fingerprint": mini.identity.fingerprint}
    manifest = {"format": "mgte-rag collection", "schema_version": 1, "state": "ready", "model": model, "dim": 384}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelMismatchError, match=r"has schema version 1, this release writes 2.*migrate"):
        HybridCollection.open(tmp_path, model=mini)
    with HybridCollection.migrate(tmp_path, model=mini) as migrated:
        assert migrated.get("a")[0].metadata == {"n": 1}
        assert migrated.search("birds", mode="late_interaction")[0].id == "a"
