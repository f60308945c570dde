"""A small retrieval set made of the standard library's documentation, and ways to write sets down."""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel, Encodings
from mgte_training.evaluation import Evaluation, Options, RetrievalSet, evaluate, read_folder

Lines = Iterable[Mapping[str, object] | str]


def write_lines(path: Path, lines: Lines) -> None:
    text = "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines)
    if path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def write_set(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder in the BEIR layout; what is not given is one document, one query and a judgment."""

    def write(
        corpus: Lines = ({"_id": "d", "title": "Cats", "text": "Cats sleep."},),
        queries: Lines = ({"_id": "q", "text": "who sleeps?"},),
        qrels: Sequence[str] = ("query-id\tcorpus-id\tscore", "q\td\t1"),
        name: str = "small",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_lines(folder / "corpus.jsonl", corpus)
        write_lines(folder / "queries.jsonl", queries)
        (folder / "qrels.tsv").write_text("".join(line + "\n" for line in qrels), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def docs_folder(tmp_path_factory: pytest.TempPathFactory, stdlib_docs: list[DocEntry]) -> Path:
    """120 functions of the standard library: the first line of a docstring asks for the rest; one text is long."""
    chosen = []
    for entry in stdlib_docs:
        heading, _, body = entry.text.partition("\n\n")
        if entry.kind == "function" and len(body) > 150 and len(heading) > 20:
            chosen.append((entry, heading, body))
    chosen = chosen[:: max(1, len(chosen) // 120)][:120]
    folder = tmp_path_factory.mktemp("sets") / "stdlib"
    folder.mkdir()
    corpus = [{"_id": f"d{i}", "title": "", "text": body[:400]} for i, (_, _, body) in enumerate(chosen)]
    # Longer than the model reads, with texts that nobody asks for.
    corpus[0]["text"] = " ".join([corpus[0]["text"], *(entry.text for entry, _, _ in chosen[100:108])])
    write_lines(folder / "corpus.jsonl.gz", corpus)
    queries = [{"_id": f"q{i}", "text": heading} for i, (_, heading, _) in enumerate(chosen[:60])]
    write_lines(folder / "queries.jsonl.gz", queries)
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(60)))
    return folder


@pytest.fixture(scope="session")
def docs_set(docs_folder: Path) -> RetrievalSet:
    return read_folder(docs_folder)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of encodings for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def encoded(docs_set: RetrievalSet, mini_fp32: EmbeddingModel) -> tuple[Encodings, Encodings]:
    """All outputs of the set's queries and documents, by the model itself."""
    outputs = mini_fp32.outputs
    return (
        mini_fp32.encode_query(docs_set.queries, outputs=outputs),
        mini_fp32.encode_document(docs_set.documents, outputs=outputs),
    )


@pytest.fixture(scope="session")
def evaluated(docs_set: RetrievalSet, mini_fp32: EmbeddingModel, cache: Path) -> Evaluation:
    """Everything there is, once, in fp32."""
    options = Options(dims=(64, 128), sampled="compare", sample_depth=3, lengths=(16, 256), cache=cache)
    return evaluate(mini_fp32, [docs_set], options=options)
