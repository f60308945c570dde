"""The pairs that the embedded default is trained on: openly licensed, English, apart from what is evaluated."""

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SENTENCES = "arxiv-sentences"
"""One or two sentences of an abstract as the query, the rest of it as the document (inverse cloze task)."""

PAIRS: Mapping[str, int] = {
    "arxiv": 5_000,
    SENTENCES: 2_500,
    "medquad": 3_000,
    "msdocs": 4_000,
    "qamr": 5_000,
    "react-vue": 2_000,
    "tldr": 1_500,
}
"""Pairs that the heads are trained on, of each source at most."""

RERANKED: Mapping[str, int] = {
    "arxiv": 6_000,
    SENTENCES: 3_000,
    "medquad": 5_000,
    "msdocs": 5_000,
    "qamr": 14_000,
    "react-vue": 2_000,
    "tldr": 4_000,
}
"""Pairs that the reranker is trained on."""

HELD_OUT = 0.05
_FEWEST_SENTENCES = 4
_FEWEST_SHARED = 8
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")

Pair = tuple[str, str]


def write_pairs(
    data: Path, out: Path, wanted: Mapping[str, int], *, share: float = 1.0, seed: int = 0
) -> dict[str, int]:
    """Write ``<source>.jsonl``, trained on, and ``<source>.held-out.jsonl`` for every source.

    All pairs of a document are on one side. Documents that share eight words in a row with one of a retrieval set are
    left out, and so is a document whose text another source has.

    Args:
        data: folder with pairs/*.jsonl.gz, and retrieval/*/corpus.jsonl.gz where there are sets to stay apart from.
        out: folder for the files; those that are there are kept.
        wanted: pairs of each source, at most.
        share: of the pairs, for a quick try.
        seed: decides what is taken.

    Returns:
        Pairs trained on by source.
    """
    evaluated = read_evaluated(data / "retrieval")
    out.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    counts = {}
    for source, count in wanted.items():
        pairs = choose_pairs(data / "pairs", source, round(count * share), seed=seed, evaluated=evaluated, taken=taken)
        held_out = [pair for pair in pairs if is_held_out(pair[1])]
        trained = [pair for pair in pairs if not is_held_out(pair[1])]
        _write(out / f"{source}.held-out.jsonl", held_out)
        _write(out / f"{source}.jsonl", trained)
        counts[source] = len(trained)
    return counts


def choose_pairs(
    folder: Path, source: str, count: int, *, seed: int, evaluated: set[str], taken: set[str]
) -> list[Pair]:
    """So many English pairs of a source, a seeded choice; ``taken`` grows by their documents."""
    path = folder / f"{'arxiv' if source == SENTENCES else source}.jsonl.gz"
    chance = random.Random(seed)
    rows = [(row["query"], row["positive"]) for row in _read_lines(path) if row["language"] == "en"]
    chance.shuffle(rows)
    pairs: list[Pair] = []
    before = set(taken)
    for query, document in rows:
        if len(pairs) == count:
            break
        if document in before or not evaluated.isdisjoint(passages(document)):
            continue
        pair = sentences_apart(document, chance) if source == SENTENCES else (query, document)
        if pair is not None:
            pairs.append(pair)
            taken.add(document)
    return pairs


def sentences_apart(document: str, chance: random.Random) -> Pair | None:
    """One or two sentences of a document, and the rest of it; None for a document of few sentences.

    Source: Lee et al. 2019, arXiv 1906.00300, section 6 (inverse cloze task).
    """
    sentences = _SENTENCE_END.split(document)
    if len(sentences) < _FEWEST_SENTENCES:
        return None
    width = chance.choice((1, 1, 2))
    start = chance.randrange(len(sentences) - width + 1)
    rest = sentences[:start] + sentences[start + width :]
    return " ".join(sentences[start : start + width]), " ".join(rest)


def is_held_out(document: str) -> bool:
    """Whether a document's pairs are held out; its hash decides."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:4]) < HELD_OUT * 2**32


def read_evaluated(folder: Path) -> set[str]:
    """The passages of every retrieval set's documents; empty where there is no such folder."""
    rows = (row for path in sorted(folder.glob("*/corpus.jsonl.gz")) for row in _read_lines(path))
    return {passage for row in rows for passage in passages(row["text"])}


def passages(text: str) -> Iterator[str]:
    """Every eight words in a row, or all of a shorter text."""
    words = text.split()
    for start in range(max(1, len(words) - _FEWEST_SHARED + 1)):
        yield " ".join(words[start : start + _FEWEST_SHARED])


def _read_lines(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write(path: Path, pairs: Sequence[Pair]) -> None:
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for query, document in pairs:
            file.write(json.dumps({"query": query, "positive": document}, ensure_ascii=False) + "\n")
    partial.replace(path)
