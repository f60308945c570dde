"""One's own labelled data as tasks of the package mteb, measured as its own are and without the network.

The files are JSON Lines, ``.jsonl`` or ``.jsonl.gz``; every function checks every line, and names file and line where
one cannot be used. The tasks go to ``mteb.evaluate`` beside mteb's own.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgte_rag import DataError, InvalidOptionError, MissingExtraError
from mgte_training.evaluation.tasks.classification import Example, read_examples
from mgte_training.evaluation.tasks.rows import read_rows, task_name
from mgte_training.evaluation.tasks.sts import read_scored_pairs

try:
    from datasets import Dataset, DatasetDict  # type: ignore[import-untyped]
    from mteb.abstasks.abstask import AbsTask
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.clustering import AbsTaskClustering
    from mteb.abstasks.pair_classification import AbsTaskPairClassification
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata
except ImportError as missing:
    raise MissingExtraError("mteb", "evaluating with MTEB's tasks") from missing

TEST = "test"

# mteb's names of languages; others are given as mteb has them, "swe-Latn".
LANGUAGES = {
    "ar": "ara-Arab",
    "bn": "ben-Beng",
    "cs": "ces-Latn",
    "de": "deu-Latn",
    "el": "ell-Grek",
    "en": "eng-Latn",
    "es": "spa-Latn",
    "fa": "fas-Arab",
    "fi": "fin-Latn",
    "fr": "fra-Latn",
    "he": "heb-Hebr",
    "hi": "hin-Deva",
    "id": "ind-Latn",
    "it": "ita-Latn",
    "ja": "jpn-Jpan",
    "ko": "kor-Hang",
    "nl": "nld-Latn",
    "pl": "pol-Latn",
    "pt": "por-Latn",
    "ro": "ron-Latn",
    "ru": "rus-Cyrl",
    "sw": "swa-Latn",
    "te": "tel-Telu",
    "th": "tha-Thai",
    "tr": "tur-Latn",
    "uk": "ukr-Cyrl",
    "vi": "vie-Latn",
    "zh": "zho-Hans",
}


class LocalSTS(AbsTaskSTS):
    """Sentence pairs with scores."""

    def __init__(self, metadata: TaskMetadata, rows: Any, scale: tuple[float, float]) -> None:
        self.metadata = metadata
        self.min_score, self.max_score = scale  # type: ignore[assignment]  # mteb says int and computes with either
        _hold(self, rows)
        super().__init__()


class LocalClassification(AbsTaskClassification):
    """Texts with labels, for logistic regression on a few vectors of each label."""

    def __init__(self, metadata: TaskMetadata, rows: Any) -> None:
        self.metadata = metadata
        _hold(self, rows)
        super().__init__()


class LocalPairClassification(AbsTaskPairClassification):
    """Sentence pairs that belong together or do not."""

    def __init__(self, metadata: TaskMetadata, rows: Any) -> None:
        self.metadata = metadata
        _hold(self, rows)
        super().__init__()


class LocalClustering(AbsTaskClustering):
    """Texts with the groups that clusters of their vectors should be."""

    max_fraction_of_documents_to_embed = None

    def __init__(self, metadata: TaskMetadata, rows: Any) -> None:
        self.metadata = metadata
        _hold(self, rows)
        self.max_documents_per_cluster = min(self.max_documents_per_cluster, len(rows[TEST]))
        super().__init__()


class LocalRetrieval(AbsTaskRetrieval):
    """Queries, documents and which of them belong together; with candidates it is a reranking."""

    def __init__(self, metadata: TaskMetadata, rows: Any) -> None:
        self.metadata = metadata
        _hold(self, rows)
        super().__init__()


def _hold(task: AbsTask, rows: Any) -> None:
    task.dataset = {"default": rows}
    task.data_loaded = True


def local_sts(path: str | Path, *, split: str | None = None, language: str = "en", name: str | None = None) -> AbsTask:
    """Lines of {"sentence1", "sentence2", "score"}; Spearman's correlation of cosines with scores.

    Args:
        path: the file.
        split: take only rows of this split.
        language: ISO 639-1, or mteb's own such as "swe-Latn".
        name: what to call it; None is the file's name.

    Raises:
        DataError: the file cannot be used; the message names file and line.
    """
    pairs = read_scored_pairs(path, split=split)
    scores = [pair.score for pair in pairs]
    if min(scores) == max(scores):
        raise DataError(f"{path}: all {len(scores)} scores are the same; nothing to rank")
    columns = {
        "sentence1": [pair.sentence1 for pair in pairs],
        "sentence2": [pair.sentence2 for pair in pairs],
        "score": scores,
    }
    rows = DatasetDict({TEST: Dataset.from_dict(columns)})
    return LocalSTS(
        _metadata("STS", "cosine_spearman", name or task_name(path), language, columns),
        rows,
        (min(scores), max(scores)),
    )


def local_classification(
    train: str | Path, test: str | Path, *, language: str = "en", name: str | None = None
) -> AbsTask:
    """Lines of {"text", "label"}; accuracy of logistic regression on 8 vectors per label, the mean of 10 draws.

    Args:
        train: the file that the 8 are drawn from.
        test: the file to measure on.
        language: ISO 639-1, or mteb's own such as "swe-Latn".
        name: what to call it; None is the test file's name.

    Raises:
        DataError: a file cannot be used, or a test label does not occur in training; the message names file and line.
    """
    learned, tested = _labelled(train), _labelled(test)
    numbers = {label: number for number, label in enumerate(sorted({str(each.label) for each in learned}))}
    for example in tested:
        if example.label not in numbers:
            raise example.row.error(f"the label {example.label!r} does not occur in {train}")
    if len(numbers) < 2:
        raise DataError(f"{train}: every label is {learned[0].label!r}; two are needed at least")
    columns = {
        split: {
            "text": [each.texts[0] for each in examples],
            "label": [numbers[str(each.label)] for each in examples],  # mteb's measures of two labels take 0 and 1 only
        }
        for split, examples in (("train", learned), (TEST, tested))
    }
    rows = DatasetDict({split: Dataset.from_dict(part) for split, part in columns.items()})
    return LocalClassification(
        _metadata("Classification", "accuracy", name or task_name(test), language, columns), rows
    )


def _labelled(path: str | Path) -> list[Example]:
    examples = read_examples(path)
    if len(examples[0].texts) > 1 or examples[0].label is None:
        raise examples[0].row.error('needs {"text", "label"}')
    return examples


def local_clustering(path: str | Path, *, language: str = "en", name: str | None = None) -> AbsTask:
    """Lines of {"text", "label"}; V-measure of k-means with as many clusters as labels, the mean of 10 draws.

    Args:
        path: the file.
        language: ISO 639-1, or mteb's own such as "swe-Latn".
        name: what to call it; None is the file's name.

    Raises:
        DataError: the file cannot be used; the message names file and line.
    """
    labelled = _labelled(path)
    columns = {"sentences": [each.texts[0] for each in labelled], "labels": [str(each.label) for each in labelled]}
    rows = DatasetDict({TEST: Dataset.from_dict(columns)})
    return LocalClustering(_metadata("Clustering", "v_measure", name or task_name(path), language, columns), rows)


def local_pair_classification(path: str | Path, *, language: str = "en", name: str | None = None) -> AbsTask:
    """Lines of {"sentence1", "sentence2", "label"}, the label 1 or 0; average precision of the similarity.

    Args:
        path: the file.
        language: ISO 639-1, or mteb's own such as "swe-Latn".
        name: what to call it; None is the file's name.

    Raises:
        DataError: the file cannot be used; the message names file and line.
    """
    examples = read_examples(path)
    if len(examples[0].texts) != 2 or examples[0].label is None:
        raise examples[0].row.error('needs {"sentence1", "sentence2", "label"}')
    for example in examples:
        if example.label not in ("0", "1"):
            raise example.row.error(f"the label must be 1 (they belong together) or 0, not {example.label!r}")
    if len({example.label for example in examples}) < 2:
        raise DataError(f"{path}: every label is {examples[0].label}; both are needed")
    columns = {
        "sentence1": [example.texts[0] for example in examples],
        "sentence2": [example.texts[1] for example in examples],
        "labels": [int(str(example.label)) for example in examples],
    }
    rows = DatasetDict({TEST: Dataset.from_dict(columns)})
    metadata = _metadata("PairClassification", "max_ap", name or task_name(path), language, columns)
    return LocalPairClassification(metadata, rows)


def local_reranking(path: str | Path, *, language: str = "en", name: str | None = None) -> AbsTask:
    """Lines of {"query", "positives": [...], "negatives": [...]}; mean average precision of each line's own texts.

    Args:
        path: the file.
        language: ISO 639-1, or mteb's own such as "swe-Latn".
        name: what to call it; None is the file's name.

    Raises:
        DataError: the file cannot be used; the message names file and line.
    """
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    candidates: dict[str, list[str]] = {}
    for place, row in enumerate(read_rows(path)):
        query, positives, negatives = row.text("query"), row.texts("positives"), row.texts("negatives")
        if not positives or not negatives:
            raise row.error("needs a positive and a negative at least; there is nothing to rank")
        both = set(positives) & set(negatives)
        if both:
            raise row.error(f"a text is both a positive and a negative: {sorted(both)[0][:80]!r}")
        number = f"q{place}"
        queries[number] = query
        # One text, one document, whatever the number of lines that have it; none counts twice in a line.
        texts = {_document_id(text): text for text in (*positives, *negatives)}
        corpus |= texts
        relevant[number] = {_document_id(text): 1 for text in positives}
        # By id, that is in no order: ties must not favour positives for standing first.
        candidates[number] = sorted(texts)
    return _retrieval(
        "Reranking", "map_at_1000", name or task_name(path), language, corpus, queries, relevant, candidates
    )


def _document_id(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def local_retrieval(
    corpus: Mapping[str, str],
    queries: Mapping[str, str],
    relevant: Mapping[str, Mapping[str, int]],
    *,
    name: str,
    language: str = "en",
) -> AbsTask:
    """Documents, queries and judgments in memory; nDCG@10 of searching all documents.

    Args:
        corpus: text by document id; a title stands before its text.
        queries: text by query id.
        relevant: for each query id the document ids with their grades.
        name: what to call it.
        language: ISO 639-1, or mteb's own such as "swe-Latn".

    Raises:
        DataError: a judgment names a query or a document that is not there.
    """
    for query, judged in relevant.items():
        missing = next((document for document in judged if document not in corpus), None)
        if query not in queries or missing is not None:
            what = f"document {missing!r}" if query in queries else f"query {query!r}"
            raise DataError(f"{name}: a judgment of query {query!r} names {what}, which is not there")
    return _retrieval("Retrieval", "ndcg_at_10", name, language, corpus, queries, relevant, None)


def _retrieval(
    kind: str,
    main_score: str,
    name: str,
    language: str,
    corpus: Mapping[str, str],
    queries: Mapping[str, str],
    relevant: Mapping[str, Mapping[str, int]],
    candidates: Mapping[str, Sequence[str]] | None,
) -> AbsTask:
    content = {"corpus": dict(corpus), "queries": dict(queries), "relevant": dict(relevant), "candidates": candidates}
    split = {
        "corpus": Dataset.from_list([{"id": each, "text": text, "title": ""} for each, text in corpus.items()]),
        "queries": Dataset.from_list([{"id": each, "text": text} for each, text in queries.items()]),
        "relevant_docs": {query: dict(judged) for query, judged in relevant.items()},
        "top_ranked": None if candidates is None else {query: list(each) for query, each in candidates.items()},
    }
    return LocalRetrieval(_metadata(kind, main_score, name, language, content), {TEST: split})


def _metadata(kind: str, main_score: str, name: str, language: str, content: Any) -> TaskMetadata:
    """What mteb wants to know; the revision is a hash of the data: no result is taken for that of other data."""
    code = LANGUAGES.get(language, language)
    if not re.fullmatch("[a-z]{3}-[A-Z][a-z]{3}", code):
        raise InvalidOptionError(
            f"the language {language!r} of the task {name!r}: give one of {', '.join(LANGUAGES)}, or a language and "
            f"its script as mteb has them, such as 'swe-Latn'"
        )
    revision = hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()
    return TaskMetadata.model_validate(
        {
            "name": name,
            "description": "local data",
            "dataset": {"path": f"local/{name}", "revision": revision},
            "type": kind,
            "category": "t2c" if kind in ("Classification", "Clustering") else "t2t",
            "eval_splits": [TEST],
            "eval_langs": [code],
            "main_score": main_score,
        }
    )
