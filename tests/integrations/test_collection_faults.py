"""What happens to a collection when its process is killed, its files are damaged, or another process comes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import qdrant_edge as edge

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import CollectionError, CollectionLockedError, CorruptCollectionError, EmbeddingModel
from qdrant_mgte import HybridCollection, edge_shards

INDEXER = """
import json, sys
from mgte_rag import EmbeddingModel
from qdrant_mgte import HybridCollection

folder, documents = sys.argv[1], json.load(open(sys.argv[2]))
with EmbeddingModel.load() as model, HybridCollection.open(folder, model=model) as collection:
    print("READY", flush=True)
    for start in range(0, len(documents), 20):
        collection.upsert(documents[start : start + 20])
        print("ACKNOWLEDGED", start + 20, flush=True)
    print("DONE", flush=True)
"""


@pytest.fixture
def documents_file(tmp_path: Path, stdlib_docs: list[DocEntry]) -> Path:
    path = tmp_path / "documents.json"
    path.write_text(json.dumps([entry.to_document() for entry in stdlib_docs[:1500]]))
    return path


def start_indexer(folder: Path, documents: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", INDEXER, str(folder), str(documents)], stdout=subprocess.PIPE, text=True
    )


def wait_for(process: "subprocess.Popen[str]", word: str) -> list[str]:
    """The lines up to the first that starts with the word."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(word):
            return lines
    raise AssertionError(f"the process ended without {word}: {lines}")


def stop(process: "subprocess.Popen[str]", how: signal.Signals) -> list[str]:
    """Send the signal; the lines printed until the end."""
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    return output.splitlines()


def acknowledged(lines: list[str]) -> int:
    return max([int(line.split()[1]) for line in lines if line.startswith("ACKNOWLEDGED")], default=0)


def test_kills_while_indexing_lose_no_acknowledged_document(
    tmp_path: Path, documents_file: Path, mini: EmbeddingModel, request: pytest.FixtureRequest
) -> None:
    folder, documents = tmp_path / "index", json.loads(documents_file.read_text())
    chance = random.Random(0)
    most = 0
    for trial in range(30 if request.config.getoption("--run-slow") else 3):
        process = start_indexer(folder, documents_file)
        lines = wait_for(process, "ACKNOWLEDGED" if trial % 2 else "READY")
        time.sleep(chance.uniform(0, 0.8))
        most = max(most, acknowledged(lines + stop(process, signal.SIGKILL)))
        with HybridCollection.open(folder, model=mini) as collection:
            stored = collection.get([document["id"] for document in documents[:most]])
            assert [document.text for document in stored] == [document["text"] for document in documents[:most]]
    assert 0 < most < len(documents)
    with HybridCollection.open(folder, model=mini) as collection:
        report = collection.upsert(documents)
        assert report.unchanged >= most
        assert collection.count() == len({document["id"] for document in documents})


def test_ctrl_c_leaves_a_usable_collection(tmp_path: Path, documents_file: Path, mini: EmbeddingModel) -> None:
    process = start_indexer(tmp_path / "index", documents_file)
    lines = wait_for(process, "ACKNOWLEDGED")
    lines += stop(process, signal.SIGINT)
    assert process.returncode != 0
    with HybridCollection.open(tmp_path / "index", model=mini) as collection:
        assert collection.count() >= acknowledged(lines) > 0
        assert collection.search("a question")


def test_a_second_process_is_refused_and_does_the_first_no_harm(
    tmp_path: Path, documents_file: Path, mini: EmbeddingModel
) -> None:
    with HybridCollection.open(tmp_path / "index", model=mini) as collection:
        collection.upsert([{"id": "mine", "text": "written by the owner"}])
        other = subprocess.run(
            [sys.executable, "-c", INDEXER, str(tmp_path / "index"), str(documents_file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "CollectionLockedError" in other.stderr
        assert "open in another process" in other.stderr
        collection.upsert([{"id": "later", "text": "written after that"}])
    with HybridCollection.open(tmp_path / "index", model=mini) as collection:
        assert collection.count() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_refused_and_does_the_parent_no_harm(collection: HybridCollection) -> None:
    collection.upsert([{"id": "mine", "text": "written by the parent"}])
    child = os.fork()
    if not child:
        try:
            collection.count()
        except CollectionLockedError:
            collection.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    collection.upsert([{"id": "later", "text": "written after that"}])
    assert collection.count() == 2


def test_a_panic_inside_the_engine_is_an_ordinary_error(tmp_path: Path) -> None:
    multi = edge.EdgeVectorParams(
        size=2, distance=edge.Distance.Dot, multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
    )
    scratch = edge.EdgeShard.create(str(tmp_path / "scratch"), edge.EdgeConfig(vectors={"tokens": multi}))
    ragged = edge.UpdateOperation.upsert_points([edge.Point(1, {"tokens": [[1.0, 2.0], [3.0]]})])
    with pytest.raises(CollectionError, match="could not write"), edge_shards.guarded("write", tmp_path):
        scratch.update(ragged)


@pytest.fixture
def written(tmp_path: Path, mini: EmbeddingModel) -> Path:
    """The folder of a closed collection with a document."""
    folder = tmp_path / "index"
    with HybridCollection.open(folder, model=mini) as collection:
        collection.upsert([{"id": "a", "text": "some text"}])
    return folder


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path, mini: EmbeddingModel) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(CorruptCollectionError, match=r"has files \(thesis\.txt\) but no manifest\.json"):
        HybridCollection.open(tmp_path, model=mini)
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [("thesis.txt", "ten years of work")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        ("{}", "no manifest of an mgte-rag collection"),
        ('{"format": "mgte-rag collection", "schema_version": 99}', "schema version 99, this release reads up to 2"),
        ('{"format": "mgte-rag collection", "schema_version": 1}', "incomplete"),
        (
            '{"format": "mgte-rag collection", "schema_version": 1, "state": "odd", "dim": 384, '
            '"model": {"name": "mini", "revision": null, "fingerprint": "f"}}',
            "changed by hand",
        ),
    ],
)
def test_a_damaged_manifest_is_reported_and_the_documents_stay(
    written: Path, mini: EmbeddingModel, content: str, message: str
) -> None:
    manifest = (written / "manifest.json").read_text()
    (written / "manifest.json").write_text(content)
    with pytest.raises(CorruptCollectionError, match=message):
        HybridCollection.open(written, model=mini)
    (written / "manifest.json").write_text(manifest)
    with HybridCollection.open(written, model=mini) as collection:
        assert collection.count() == 1


def test_a_deleted_manifest_never_makes_the_documents_disappear(written: Path, mini: EmbeddingModel) -> None:
    (written / "manifest.json").unlink()
    with pytest.raises(CorruptCollectionError, match=r"no manifest\.json"):
        HybridCollection.open(written, model=mini)
    assert (written / "shard").is_dir()


@pytest.mark.parametrize("damage", ["deleted", "emptied", "segment config"])
def test_damaged_engine_files_are_reported_saying_what_to_do(written: Path, mini: EmbeddingModel, damage: str) -> None:
    if damage == "deleted":
        shutil.rmtree(written / "shard")
    elif damage == "emptied":
        shutil.rmtree(written / "shard")
        (written / "shard").mkdir()
    else:
        next((written / "shard").rglob("segment.json")).write_text("not json")
    with pytest.raises(CorruptCollectionError, match=r"cannot be read.*Restore the folder from a copy, or delete it"):
        HybridCollection.open(written, model=mini)


def test_a_process_that_died_while_creating_the_collection_leaves_nothing_in_the_way(
    written: Path, mini: EmbeddingModel
) -> None:
    manifest = json.loads((written / "manifest.json").read_text())
    (written / "manifest.json").write_text(json.dumps({**manifest, "state": "creating"}))
    with HybridCollection.open(written, model=mini) as collection:
        assert collection.upsert([{"id": "b", "text": "text"}]).written == 1


def test_a_process_that_died_before_its_first_manifest_leaves_nothing_in_the_way(
    tmp_path: Path, mini: EmbeddingModel
) -> None:
    (tmp_path / "manifest.tmp").write_text('{"format": "mg')
    with HybridCollection.open(tmp_path, model=mini) as collection:
        assert collection.count() == 0
