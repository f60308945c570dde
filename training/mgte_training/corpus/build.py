"""From files to filtered pairs in shards: a stream that can be stopped at any moment and goes on."""

import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgte_rag.errors import DataError, InvalidOptionError
from mgte_rag.progress import Progress
from mgte_training.corpus.documents import (
    READ,
    CorpusFile,
    Document,
    Row,
    Unreadable,
    corpus_files,
    document_of,
    read_records,
)
from mgte_training.corpus.duplicates import Duplicates
from mgte_training.corpus.options import CorpusOptions
from mgte_training.corpus.pairs import Made, Pair, make_pairs_of
from mgte_training.corpus.quality import CODE, quality_filters
from mgte_training.corpus.semantic import SemanticFilter
from mgte_training.corpus.shards import Shards
from mgte_training.corpus.statistics import Statistics
from mgte_training.corpus.words import key_of
from mgte_training.languages import detect_language

if TYPE_CHECKING:
    from mgte_rag import EmbeddingModel

# Pairs that the model scores at once, at least; also the unit that a resumed run does again.
_BLOCK = 512
# A block ends before that where its texts are long.
_BLOCK_CHARACTERS = 4_000_000
_LANGUAGE_CHARACTERS = 1_000
_HEADINGS = "shared-headings.json"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the stream of records is: the number of a file and the records of it that are behind."""

    file: int
    records: int


def build_pairs(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    options: CorpusOptions | None = None,
    model: "EmbeddingModel | None" = None,
    show_progress: bool = False,
) -> Statistics:
    """Make pairs of documents, filter them, and write them to a folder.

    The folder gets ``pairs-00000.jsonl.gz`` and so on, rows that ``mgte_training.data`` reads, in the order of the
    files' names and of what stands in them; and ``report.html`` and ``report.json``, what was left out and why. The
    files are read twice, first for the headings that several documents have. In memory are one block of pairs, 64 bits
    of every heading and what ``Duplicates`` says. The model is asked last, about what no other filter left out; a
    duplicate of a pair of the same block that the model then rejects stays a duplicate. Stopped, the same call goes on
    after the last whole shard and ends with the same bytes; the file where it stopped may be mended in between, those
    before it may not change.

    Args:
        sources: folders and files; see ``make_pairs_of`` for what stands in them.
        out: an empty or a new folder, or one that was begun with the same arguments.
        options: what becomes a pair and what is left out.
        model: what the semantic filter asks; needed where ``options.min_score`` is given.
        show_progress: draw a progress bar.

    Raises:
        DataError: a file cannot be read (unless they are skipped) or written, there is none or no pair is left; the
            message names it. Shards that are whole are kept.
        InvalidOptionError: a minimum score without a model, or one without dense output.
    """
    options = options or CorpusOptions()
    if (model is None) != (options.min_score is None):
        raise InvalidOptionError(f"min_score={options.min_score!r}, model={model!r}: give both or none of them")
    files, others = _files(sources, Path(out).absolute())
    shards = Shards(Path(out), options.shard_rows, _fingerprint(options, model))
    work = _Work(files, options, model, shards)
    if not shards.is_complete:
        try:
            with Progress("reading", unit="records", total=None, show=show_progress) as progress:
                work.run(_shared_headings(files, Path(out), shards), progress)
            work.statistics.others = others
            _finish(work, shards, ", ".join(Path(source).name for source in sources), options)
        finally:
            shards.close()
    return work.statistics


def _finish(work: "_Work", shards: Shards, name: str, options: CorpusOptions) -> None:
    """Check the counts and write the report and the last shard."""
    from mgte_training.corpus.report import page  # on use: the evaluation's style comes with all of the evaluation

    statistics = work.statistics
    statistics.check()
    if not statistics.kept:
        raise DataError(f"no pair is left; there is nothing to train on:\n{statistics}")
    shards.write("report.json", json.dumps(statistics.to_json(), indent=2))
    shards.write("report.html", page(statistics, name, options))
    shards.finish_shard(work.state(_Place(len(work.files), 0), statistics.to_json(), rows=0), is_last=True)
    shards.remove(_HEADINGS)


class _Work:
    """The way of records through the filters into the shards, from where the shards end."""

    def __init__(
        self, files: Sequence[CorpusFile], options: CorpusOptions, model: "EmbeddingModel | None", shards: Shards
    ) -> None:
        self.files = files
        self.statistics = Statistics(seed=options.seed, files=len(files))
        self._options, self._shards = options, shards
        self._quality = quality_filters(options)
        self._duplicates = Duplicates(options.near_duplicates, options.max_repeats, options.seed)
        self._semantic = None
        if model is not None and options.min_score is not None:
            self._semantic = SemanticFilter(model, options.min_score, options.score_languages, options.score_tokens)
        self._place, self._behind = _Place(0, 0), 0
        if shards.state is not None:
            self._go_on_from(shards.state)

    def run(self, shared_headings: Container[int], progress: Progress) -> None:
        """Take every record through."""
        for place, records in self._blocks(shared_headings):
            before = self.statistics.to_json()
            for number, pair in enumerate(self._kept(records), start=1):
                if number > self._behind and self._shards.add(pair.to_row()):
                    self._shards.finish_shard(self.state(place, before, rows=number))
            self._behind = 0
            progress.advance(len(records), 0)

    def state(self, place: _Place, statistics: dict[str, Any], *, rows: int) -> dict[str, Any]:
        """What going on needs: the place of a block, the statistics before it, and the rows of it that are written."""
        return {**asdict(place), "behind": self._behind_of(place), "rows": rows, "statistics": statistics}

    def _behind_of(self, place: _Place) -> str:
        """What stands for the files before a place."""
        return _digest([[file.name, file.path.stat().st_size] for file in self.files[: place.file]])

    def _go_on_from(self, state: dict[str, Any]) -> None:
        self._place, self._behind = _Place(state["file"], state["records"]), state["rows"]
        self.statistics = Statistics.from_json(state["statistics"])
        if state["behind"] != self._behind_of(self._place) or self._place.file > len(self.files):
            raise DataError("files that were read before have changed since, or are others; choose another folder")
        if self._shards.is_complete and self._place.file < len(self.files):
            raise DataError(
                f"the pairs of {self._place.file:,} files are there already, and there are {len(self.files):,} files "
                f"now; choose another folder"
            )
        for row in islice(self._shards.rows(), 0 if self._shards.is_complete else self.statistics.kept):
            self._duplicates.add(Pair(row["query"], row["positive"], row["task"], row["source"]))

    def _blocks(self, shared_headings: Container[int]) -> Iterator[tuple[_Place, list[Made | Unreadable]]]:
        """Records with what they give, in blocks with enough pairs, each with the place where it begins."""
        start, block, pairs, characters = self._place, list[Made | Unreadable](), 0, 0
        for number in range(start.file, len(self.files)):
            skip = start.records if number == start.file else 0
            for behind, record in enumerate(read_records(self.files[number], skip=skip), start=skip + 1):
                block.append(self._made(record, shared_headings))
                for pair in block[-1].pairs if isinstance(block[-1], Made) else ():
                    pairs, characters = pairs + 1, characters + len(pair.positive)
                if pairs >= _BLOCK or characters >= _BLOCK_CHARACTERS:
                    yield start, block
                    start, block, pairs, characters = _Place(number, behind), [], 0, 0
        if block:
            yield start, block

    def _made(self, record: Document | Row | Unreadable, shared_headings: Container[int]) -> Made | Unreadable:
        try:
            if isinstance(record, Unreadable):
                raise DataError(record.reason)
            made = make_pairs_of(record, shared_headings, body_words=self._options.body_words)
        except DataError as error:
            if self._options.skip_unreadable:
                return Unreadable(record.name, str(error))
            raise DataError(
                f"{record.name}: {error}. {self._shards.count} finished shards are kept; mend or remove it and give "
                f"the same command again, or have what cannot be read skipped"
            ) from error
        wanted = [pair for pair in made.pairs if pair.task in self._options.tasks or _is_given(record)]
        return replace(made, pairs=tuple(_with_language(wanted)))

    def _kept(self, records: Sequence[Made | Unreadable]) -> Iterator[Pair]:
        """The pairs of a block that pass every filter; everything is counted."""
        passed: list[Pair] = []
        for record in records:
            if isinstance(record, Unreadable):
                self.statistics.add_unreadable(record.name, record.reason)
                continue
            self.statistics.add_record(len(record.pairs), record.cut)
            passed += [pair for pair in record.pairs if self._passes(pair)]
        if self._semantic is None:
            for pair in passed:
                self.statistics.add_kept(pair)
            yield from passed
            return
        kept = []
        for pair, score in zip(passed, self._semantic.scores(passed), strict=True):
            if self._semantic.passes(score):
                self.statistics.add_kept(pair, score, asked=True)
                kept.append(pair)
            else:
                self.statistics.add_dropped(pair, "semantic", f"score {score:.2f}", score)
                self._duplicates.remove(pair)
        yield from kept

    def _passes(self, pair: Pair) -> bool:
        """Whether nothing but perhaps the model speaks against a pair."""
        for reason, look in self._quality.items():
            if detail := look(pair):
                self.statistics.add_dropped(pair, reason, detail)
                return False
        reason, detail = self._duplicates.add(pair)
        if reason:
            self.statistics.add_dropped(pair, reason, detail)
        return not reason


def _files(sources: Sequence[str | Path], out: Path) -> tuple[list[CorpusFile], int]:
    """The files that are read, in order, and how many others there are; the output may be in a source's folder."""
    every = [
        file
        for source in sources
        for file in corpus_files(source)
        if out == Path(source).absolute() or out not in file.path.absolute().parents
    ]
    files = [file for file in every if file.kind]
    if not files:
        raise DataError(
            f"{', '.join(map(str, sources)) or 'no source'}: no document; files that end in {', '.join(READ)} (also "
            f".gz) are read, {len(every)} others are there"
        )
    return files, len(every) - len(files)


def _shared_headings(files: Sequence[CorpusFile], folder: Path, shards: Shards) -> Container[int]:
    """Keys of the headings that several documents have; found once and kept beside the shards."""
    path = folder / _HEADINGS
    if path.exists():
        return frozenset(json.loads(path.read_text()))
    seen, shared = set[int](), set[int]()
    for file in files:
        for record in read_records(file):
            keys = _heading_keys(record)
            shared |= keys & seen
            seen |= keys
    shards.write(_HEADINGS, json.dumps(sorted(shared)))
    return shared


def _heading_keys(record: Document | Row | Unreadable) -> set[int]:
    if isinstance(record, Row) and "text" in record.fields:
        try:
            record = document_of(record)
        except DataError:  # the next reading deals with it
            return set()
    sections = record.sections if isinstance(record, Document) else ()
    return {key_of(section.heading) for section in sections if section.heading}


def _with_language(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Pairs of a record with its language, detected where it was not given."""
    if any(not pair.language for pair in pairs):
        prose = CODE.sub("", "\n".join(pair.positive[: 2 * _LANGUAGE_CHARACTERS] for pair in pairs))
        language = detect_language((prose.strip() or pairs[0].positive)[:_LANGUAGE_CHARACTERS])
        pairs = [pair if pair.language else replace(pair, language=language) for pair in pairs]
    yield from pairs


def _is_given(record: Document | Row | Unreadable) -> bool:
    """Whether a record is a pair already."""
    return isinstance(record, Row) and "query" in record.fields


def _fingerprint(options: CorpusOptions, model: "EmbeddingModel | None") -> str:
    """Of all but the files that decides the rows."""
    settings = {name: value for name, value in asdict(options).items() if name != "skip_unreadable"}
    return _digest([settings, model and model.identity.fingerprint])


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
