"""The embedded engine when its process is killed, its disk is full, its files are damaged or another process comes."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge

from mgte_rag import (
    ClosedError,
    CollectionError,
    CollectionLockedError,
    CorruptCollectionError,
    InvalidOptionError,
    SparseVector,
)
from qdrant_mgte.edge import EdgeStore
from qdrant_mgte.schema import Point, Schema
from qdrant_mgte.store import Stage

SCHEMA = Schema(dense=16, sparse=True, multi_vector=8, preset="balanced", indexes={"n": "integer"})
BATCH = 20

# Run in a process of its own: writes batches until it is stopped, and says what was acknowledged.
WRITER = """
import sys
from pathlib import Path
from qdrant_mgte.edge import EdgeStore
sys.path.insert(0, sys.argv[2])
from test_embedded_faults import BATCH, SCHEMA, batch, restrict_file_size

limit = int(sys.argv[3])
store = EdgeStore.open(Path(sys.argv[1]), SCHEMA, {"model": "m"})
print("READY", flush=True)
number = store.count() // BATCH
if limit:
    restrict_file_size(limit)
while True:
    try:
        store.upsert(batch(number))
    except Exception as error:
        print("ERROR", type(error).__name__, error, flush=True)
        break
    number += 1
    print("ACKNOWLEDGED", number, flush=True)
    if number % 7 == 3 and not limit:
        store.optimize()
try:
    store.close()
except Exception as error:
    print("ERROR", type(error).__name__, error, flush=True)
print("CLOSED", flush=True)
"""


def batch(number: int, tokens: int = 5) -> list[Point]:
    """The n-th twenty points; always the same."""
    chance = np.random.default_rng(number)
    points = []
    for place in range(BATCH):
        n = number * BATCH + place
        vectors = {
            "dense": chance.normal(size=16).astype(np.float32),
            "sparse": SparseVector(np.array([1, 5 + place], np.int32), np.array([0.5, 1.0], np.float32)),
            "multi_vector": chance.normal(size=(tokens, 8)).astype(np.float32),
        }
        points.append(Point(uuid.UUID(int=n + 1), vectors, {"n": n, "text": f"text {n}"}))
    return points


def restrict_file_size(limit: int) -> None:
    """Let no file grow beyond that; the kernel then fails writes as it does on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def start_writer(folder: Path, limit: int = 0) -> "subprocess.Popen[str]":
    code = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parent), str(limit)]
    return subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: "subprocess.Popen[str]", word: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(word):
            return lines
    assert process.stderr is not None
    raise AssertionError(f"the process ended without {word}: {lines}, {process.stderr.read()}")


def acknowledged(lines: list[str]) -> int:
    """Batches that the writer was told are stored."""
    return max([int(line.split()[1]) for line in lines if line.startswith("ACKNOWLEDGED")], default=0)


def assert_complete(store: EdgeStore, batches: int) -> None:
    """All those batches are there whole, of the next one all or nothing, and searches are answered."""
    assert batches * BATCH <= store.count() <= (batches + 1) * BATCH
    assert store.count() % BATCH == 0
    numbers = sorted(point.payload["n"] for point in store.scroll(limit=1_000_000, fields=["n"])[0])
    assert numbers == list(range(store.count()))
    for number in {0, batches - 1} - {-1}:
        stored = store.retrieve([point.id for point in batch(number)], vectors=["dense", "multi_vector", "sparse"])
        for point in batch(number) if batches else []:
            assert stored[point.id].payload == point.payload
            assert stored[point.id].vectors["sparse"] == point.vectors["sparse"]
            assert np.asarray(stored[point.id].vectors["multi_vector"]).shape == (5, 8)
    if batches:
        [found] = store.query([Stage(query=np.ones(16, np.float32), using="dense", limit=10)])
        assert len(found) == 10


def test_kills_while_writing_and_optimizing_lose_nothing_acknowledged_and_leave_nothing_partial(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, chance, most = tmp_path / "c", random.Random(0), 0
    for trial in range(30 if request.config.getoption("--run-slow") else 5):
        writer = start_writer(folder)
        lines = wait_for(writer, "ACKNOWLEDGED" if trial % 2 else "READY")
        time.sleep(chance.uniform(0, 0.5))
        writer.send_signal(signal.SIGKILL)
        output, _ = writer.communicate(timeout=60)
        most = max(most, acknowledged(lines + output.splitlines()))
        store = EdgeStore.open(folder, SCHEMA, {})
        assert_complete(store, most)
        assert store.metadata == {"model": "m"}
        most = store.count() // BATCH
        store.close()
    assert most > 5


def test_a_second_process_is_refused_and_does_the_first_no_harm(tmp_path: Path) -> None:
    store = EdgeStore.open(tmp_path / "c", SCHEMA, {})
    store.upsert(batch(0))
    for _ in range(3):
        other = start_writer(tmp_path / "c")
        _, problems = other.communicate(timeout=60)
        assert "CollectionLockedError" in problems
        assert "open in another process" in problems
    for number in range(1, 5):
        store.upsert(batch(number))
    store.close()
    store = EdgeStore.open(tmp_path / "c", SCHEMA, {})
    assert_complete(store, 5)
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_refused_and_does_the_parent_no_harm(tmp_path: Path) -> None:
    store = EdgeStore.open(tmp_path / "c", SCHEMA, {})
    store.upsert(batch(0))
    child = os.fork()
    if not child:
        try:
            store.count()
        except CollectionLockedError:
            store.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    store.upsert(batch(1))
    assert_complete(store, 2)
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with 600 MB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    result = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(mounted)], capture_output=True)
    if result.returncode:
        pytest.skip("mounting a tmpfs needs rights that this user does not have; the file size limit is tested instead")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_a_full_disk_is_an_error_and_keeps_what_was_acknowledged(small_disk: Path) -> None:
    store = EdgeStore.open(small_disk / "c", SCHEMA, {})
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 70_000_000))
    written = 0
    while shutil.disk_usage(small_disk).free > 68_000_000 and written < 1_000:
        store.upsert(batch(written))
        written += 1
    with pytest.raises(CollectionError, match=r"the disk of .* is full: .* MB are needed\. Nothing was written"):
        store.upsert([Point(p.id, p.vectors, {"pad": "p" * 100_000}) for p in batch(written)])
    assert 10 < written < 1_000
    assert_complete(store, written)
    with filler.open("ab") as file:
        file.write(b"x" * 10_000_000)
    for use in (store.optimize, lambda: store.start_version(Schema(dense=2), {})):
        with pytest.raises(CollectionError, match="is full"):
            use()
    with pytest.raises(CollectionError, match="is full"):
        EdgeStore.open(small_disk / "another", SCHEMA, {})
    assert_complete(store, written)
    store.close()
    filler.unlink()  # this file system gives files with holes their room when they are read
    store = EdgeStore.open(small_disk / "c", SCHEMA, {})
    assert_complete(store, written)
    store.upsert(batch(written))
    assert_complete(store, written + 1)
    store.close()


def test_a_file_that_cannot_grow_is_an_error_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """What a quota does; the check for free room sees nothing of it."""
    store = EdgeStore.open(tmp_path / "c", SCHEMA, {"model": "m"})
    store.upsert(batch(0))
    store.close()
    writer = start_writer(tmp_path / "c", limit=100_000)
    output, problems = writer.communicate(timeout=60)
    lines = output.splitlines()
    assert lines[-1] == "CLOSED", problems
    assert any(line.startswith("ERROR CollectionError") and "File too large" in line for line in lines)
    store = EdgeStore.open(tmp_path / "c", SCHEMA, {})
    assert_complete(store, max(1, acknowledged(lines)))
    store.upsert(batch(store.count() // BATCH))
    store.close()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder of a closed collection with two segments of points."""
    store = EdgeStore.open(tmp_path / "c", SCHEMA, {"model": "m"})
    for number in range(3):
        store.upsert(batch(number))
    store.close()
    return tmp_path / "c"


def test_a_damaged_log_is_reported_and_without_it_everything_acknowledged_is_there(written: Path) -> None:
    for log in (written / "shard" / "wal").iterdir():
        if log.is_file():
            log.write_bytes(b"garbage" * 1_000)
    with pytest.raises(CorruptCollectionError, match=r"Without shard/wal it can be read and has 60 points: move that"):
        EdgeStore.open(written, None, {})
    shutil.move(written / "shard" / "wal", written.parent / "wal-aside")
    store = EdgeStore.open(written, None, {})
    assert_complete(store, 3)
    store.close()


def test_a_damaged_segment_is_reported_with_what_the_others_hold(written: Path) -> None:
    segments = [path for path in (written / "shard" / "segments").iterdir() if path.is_dir()]
    (segments[0] / "segment.json").write_text("not json")
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    with pytest.raises(CorruptCollectionError, match=r"Without shard/segments/\S+ it can be read and has \d+ points"):
        EdgeStore.open(written, None, {})
    assert {path: path.read_bytes() for path in written.rglob("*") if path.is_file()} == before, "nothing was changed"


def test_nothing_is_written_into_a_folder_that_was_deleted_or_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "collection"
    with contextlib.closing(EdgeStore.open(folder, SCHEMA, {})) as store:
        store.upsert(batch(0))
        shutil.rmtree(folder)
        with contextlib.closing(EdgeStore.open(folder, SCHEMA, {})) as new:
            writes: list[Callable[[], Any]] = [
                lambda: store.upsert(batch(1)),
                lambda: store.update_payload({batch(0)[0].id: {"n": 1}}),
                lambda: store.delete([batch(0)[0].id]),
                lambda: store.set_metadata({"n": 1}),
                store.optimize,
            ]
            for write in writes:
                with pytest.raises(CollectionError, match=r"deleted or replaced since .* open it again"):
                    write()
            new.upsert(batch(2))
            assert new.count() == BATCH
        shutil.rmtree(folder)
        with pytest.raises(CollectionError, match="deleted or replaced since"):
            store.upsert(batch(1))


@pytest.mark.parametrize("damage", ["deleted", "emptied", "everything"])
def test_files_without_anything_left_are_reported_as_such(written: Path, damage: str) -> None:
    shard = written / "shard"
    if damage == "everything":
        for path in shard.rglob("*"):
            if path.is_file():
                path.write_bytes(b"x")
    else:
        shutil.rmtree(shard)
        if damage == "emptied":
            shard.mkdir()
    with pytest.raises(
        CorruptCollectionError, match=r"Nothing in it could be recovered\. Restore the folder from a copy"
    ):
        EdgeStore.open(written, None, {})


def test_a_folder_of_the_first_release_is_opened_with_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    identity = {"name": "mini", "revision": None, "fingerprint": "f" * 64}
    manifest = {"format": "mgte-rag collection", "schema_version": 1, "state": "ready", "model": identity, "dim": 4}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    parameters = edge.EdgeVectorParams(size=4, distance=edge.Distance.Cosine)
    shard = edge.EdgeShard.create(str(folder / "shard"), edge.EdgeConfig(vectors={"dense": parameters}))
    first = edge.Point(uuid.UUID(int=1), {"dense": [1.0, 0, 0, 0]}, {"id": "a"})
    shard.update(edge.UpdateOperation.upsert_points([first]))
    shard.flush()
    shard.close()
    store = EdgeStore.open(folder, SCHEMA, {"ignored": True})
    assert store.schema == Schema(dense=4, preset="exact")
    assert store.metadata == {"schema_version": 1, "model": identity, "dim": 4}
    store.upsert([Point(uuid.UUID(int=2), {"dense": np.array([0, 1, 0, 0], np.float32)}, {"id": "b"})])
    [found] = store.query([Stage(query=np.array([0, 1, 0, 0], np.float32), using="dense", limit=2)])
    assert [hit.payload["id"] for hit in found] == ["b", "a"]
    assert json.loads((folder / "manifest.json").read_text()) == manifest, "the release that wrote it can still read it"
    store.set_metadata({"new": 1})
    store.close()
    store = EdgeStore.open(folder, None, {})
    assert (store.schema, store.metadata, store.count()) == (Schema(dense=4, preset="exact"), {"new": 1}, 2)
    store.close()


def test_searches_are_answered_while_the_collection_is_optimized(tmp_path: Path) -> None:
    schema = Schema(dense=256, preset="balanced")
    store = EdgeStore.open(tmp_path / "c", schema, {})
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(24_000, 256)).astype(np.float32)
    for start in range(0, len(vectors), 4_000):
        store.upsert([Point(uuid.UUID(int=n + 1), {"dense": vectors[n]}, {}) for n in range(start, start + 4_000)])
    optimizing = threading.Thread(target=store.optimize)
    optimizing.start()
    waits = []
    while optimizing.is_alive():
        started = time.perf_counter()
        [found] = store.query([Stage(query=vectors[len(waits)], using="dense", limit=1)])
        waits.append(time.perf_counter() - started)
        assert found[0].id == uuid.UUID(int=len(waits))
    assert len(waits) > 5
    assert float(np.median(waits)) < 1.0
    store.upsert([Point(uuid.UUID(int=70_000), {"dense": vectors[0]}, {})])
    assert store.count() == 24_001
    assert [path.name for path in (tmp_path / "c").glob("shard*")] == ["shard-2"]
    [found] = store.query([Stage(query=vectors[5], using="dense", limit=1, exact=True)])
    assert found[0].id == uuid.UUID(int=6)
    store.close()


def test_a_process_that_died_in_a_migration_or_while_optimizing_leaves_nothing_in_the_way(written: Path) -> None:
    shutil.copytree(written / "shard", written / "shard-7")
    store = EdgeStore.open(written, None, {})
    assert not (written / "shard-7").exists()
    following = store.start_version(Schema(dense=2), {"model": "new"})
    following.upsert([Point(uuid.UUID(int=1), {"dense": np.ones(2, np.float32)}, {})])
    store.close()
    with pytest.raises(ClosedError):
        following.count()
    store = EdgeStore.open(written, None, {})
    assert store.count() == 60
    assert store.start_version(Schema(dense=2), {"model": "new"}).count() == 1
    store.finish_version()
    assert (store.count(), store.metadata) == (1, {"model": "new"})
    store.close()


def test_a_folder_has_no_shards_and_must_be_there_without_a_schema(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="a folder has no shards and replicas"):
        EdgeStore.open(tmp_path / "c", Schema(dense=2, shards=2), {})
    for path in (tmp_path / "c", tmp_path):
        with pytest.raises(InvalidOptionError, match="there is no collection"):
            EdgeStore.open(path, None, {})
