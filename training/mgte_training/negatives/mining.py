"""Hard negatives: what the current model ranks high and is no answer."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mgte_rag import EmbeddingModel, Reranker
from mgte_rag.errors import DataError, InvalidOptionError
from mgte_rag.progress import Progress
from mgte_rag.tokenization import check_texts
from mgte_training.data import Example
from mgte_training.negatives.options import MiningOptions
from mgte_training.negatives.report import MiningReport, Sample
from mgte_training.negatives.resumable import ResumableLines, fingerprint_of
from mgte_training.negatives.search import Known, Ranking, check_model, search
from mgte_training.negatives.selection import Selection, check_scores, check_with_reranker, take

_EXAMPLES = 256  # written together


@dataclass(frozen=True, slots=True)
class _Texts:
    """All texts by number.

    Attributes:
        queries: each once.
        documents: each once, the corpus first.
        candidates: how many of them are the corpus.
        query_numbers: text to number.
        document_numbers: text to number.
        known: positives of each query, of all examples that have it, and documents that are its own text.
        labels: of documents that are positives of examples with a label.
    """

    queries: list[str]
    documents: list[str]
    candidates: int
    query_numbers: dict[str, int]
    document_numbers: dict[str, int]
    known: Known
    labels: dict[int, set[str]]


def mine(
    model: EmbeddingModel,
    examples: Sequence[Example],
    corpus: Iterable[str] | None,
    output: str | Path,
    *,
    options: MiningOptions | None = None,
    reranker: Reranker | None = None,
    show_progress: bool = False,
) -> MiningReport:
    """Write every example with hard negatives that the model finds in the whole corpus.

    The search is exact and memory is bounded by the texts, the queries' vectors and the rankings; documents' vectors
    are not kept. Neither a positive of the query, in any example that has the same query, nor a document with the text
    of one or of the query is ever a negative. An example's own negatives are replaced. Stopped at any moment, the same
    call goes on where it was. For another round call again with the new model and another output.

    Args:
        model: ranks the corpus.
        examples: a list, or ``SourceData``.
        corpus: documents to search; texts that are repeated count once. None is the examples' positives.
        output: a new .jsonl file; examples in their order as n-tuples ``{query, positives, negatives, label}``, those
            without negatives too, with ``positive_scores`` and ``negative_scores`` of the model (not of the reranker)
            where the options say scored. The report stands beside it in ``<output>.report.json``.
        options: what counts as a hard negative; None is the defaults.
        reranker: for ``max_relevance`` and ``reranker_margin``.
        show_progress: draw progress bars on standard error.

    Returns:
        What was taken, what was dropped and why, with samples.

    Raises:
        InvalidOptionError: an option needs a reranker or a reranker no option, no document has a rank in the range, the
            model cannot do what the options ask, or the output is no .jsonl file.
        InputTypeError: a document is not a string.
        DataError: there is no example, a document is empty, the output exists, or another run is under way there.

    Source: ranges as in FlagEmbedding 7ed43d6 ``hn_mine.py``; margins to the positive as in NV-Retriever, arXiv
    2407.15831; mining with the current model as in ANCE, arXiv 2007.00808.
    """
    options = options or MiningOptions()
    texts = _number_texts(examples, corpus)
    _check(options, reranker, texts.candidates)
    check_model(model, options)
    settings = {
        "model": model.identity.fingerprint,
        "reranker": None if reranker is None else reranker.identity.fingerprint,
        "options": asdict(options),
        "candidates": texts.candidates,
    }
    lines = ResumableLines(Path(output), fingerprint_of(settings, examples, texts.documents))
    saved = lines.beside(".search.npz")
    ranking = search(
        model,
        texts.queries,
        texts.documents,
        candidates=texts.candidates,
        known=texts.known,
        options=options,
        saved=saved,
        show_progress=show_progress,
    )
    report = MiningReport.from_json(lines.state) if lines.state else MiningReport()
    report.documents = texts.candidates
    report.excluded = int((texts.known.documents < texts.candidates).sum())
    positive_scores = _positive_scores(texts, ranking)
    with Progress("selecting", unit="examples", total=len(examples), show=show_progress) as progress:
        progress.advance(lines.done, 0)
        while lines.done < len(examples):
            window = range(lines.done, min(lines.done + _EXAMPLES, len(examples)))
            selections = [
                _select(examples[number], number, texts, ranking, positive_scores, options, report) for number in window
            ]
            if reranker is None:
                for selection in selections:
                    take(selection, options)
            else:
                check_with_reranker(selections, reranker, documents=texts.documents, options=options, report=report)
            mined = [_finished(selection, texts, options, report) for selection in selections]
            lines.append(mined, report.to_json())
            progress.advance(len(mined), 0)
    lines.finish(saved)
    return report


def _number_texts(examples: Sequence[Example], corpus: Iterable[str] | None) -> _Texts:
    if not len(examples):
        raise DataError("there is no example to mine negatives for")
    positives = [text for example in examples for text in example.positives]
    own = dict.fromkeys(positives if corpus is None else check_texts(corpus))
    if any(not text.strip() for text in own):
        raise DataError("the corpus has an empty text; leave such documents out")
    documents = list(dict.fromkeys([*own, *positives]))
    numbers = {text: number for number, text in enumerate(documents)}
    queries = list(dict.fromkeys(example.query for example in examples))
    query_numbers = {text: number for number, text in enumerate(queries)}
    pairs = {(numbers[query], query_numbers[query]) for query in queries if query in numbers}
    labels: dict[int, set[str]] = {}
    for example in examples:
        for text in example.positives:
            pairs.add((numbers[text], query_numbers[example.query]))
            if example.label is not None:
                labels.setdefault(numbers[text], set()).add(example.label)
    known = np.array(sorted(pairs), dtype=np.int64)
    return _Texts(queries, documents, len(own), query_numbers, numbers, Known(known[:, 1], known[:, 0]), labels)


def _check(options: MiningOptions, reranker: Reranker | None, candidates: int) -> None:
    if options.needs_reranker and reranker is None:
        raise InvalidOptionError("max_relevance and reranker_margin ask a reranker; give reranker=")
    if reranker is not None and not options.needs_reranker:
        raise InvalidOptionError("a reranker was given that checks nothing; set max_relevance or reranker_margin")
    if candidates <= options.rank_range[0]:
        raise InvalidOptionError(
            f"rank_range={options.rank_range!r}: the corpus has {candidates:,} documents, none of such a rank"
        )


def _positive_scores(texts: _Texts, ranking: Ranking) -> dict[tuple[int, int], float]:
    """The model's score of each known pair of query and document."""
    pairs = zip(texts.known.queries.tolist(), texts.known.documents.tolist(), strict=True)
    return dict(zip(pairs, ranking.known_scores.tolist(), strict=True))


def _select(
    example: Example,
    number: int,
    texts: _Texts,
    ranking: Ranking,
    positive_scores: dict[tuple[int, int], float],
    options: MiningOptions,
    report: MiningReport,
) -> Selection:
    query = texts.query_numbers[example.query]
    candidates = ranking.documents[query, slice(*options.rank_range)]
    there = candidates >= 0
    return check_scores(
        example,
        candidates[there],
        ranking.scores[query, slice(*options.rank_range)][there],
        [positive_scores[query, texts.document_numbers[text]] for text in example.positives],
        documents=texts.documents,
        labels=texts.labels,
        options=options,
        chance=np.random.default_rng([options.seed, number]),
        report=report,
    )


def _finished(selection: Selection, texts: _Texts, options: MiningOptions, report: MiningReport) -> Example:
    """The example with what was taken, counted."""
    example = selection.example
    negatives = tuple(texts.documents[document] for document, _ in selection.taken)
    report.examples += 1
    report.taken += len(negatives)
    report.not_needed += len(selection.waiting)
    report.without += not negatives
    report.fewer += 0 < len(negatives) < options.count
    for text, (_, score) in zip(negatives, selection.taken, strict=True):
        report.show("taken", Sample(example.query, selection.positive, text, score, selection.positive_score))
    if not options.scored:
        return Example(example.query, example.positives, negatives, label=example.label)
    scores = tuple(score for _, score in selection.taken)
    return Example(example.query, example.positives, negatives, selection.positive_scores, scores, example.label)
