"""Domain fine-tuning from a folder of documents to a model and its figures; what was done is never done again."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from mgte_rag import EmbeddingModel, Reranker
from mgte_rag.errors import InvalidOptionError, MissingExtraError
from mgte_rag.types import Floats
from mgte_training.data import Example, Source, SourceData, example_to_row
from mgte_training.domain.comparison import Comparison, compare, measure
from mgte_training.domain.documents import read_documents
from mgte_training.domain.forgetting import choose_share, write_mixture
from mgte_training.domain.judged import Judged
from mgte_training.domain.options import NEW_RERANKER, TuningOptions
from mgte_training.domain.pairs import Asked, Pairs, make_pairs
from mgte_training.domain.plot import draw
from mgte_training.domain.recipes import model_recipe, reranker_recipe
from mgte_training.domain.reranking import ALONE, BESIDE, Candidates
from mgte_training.domain.stored import stored, stored_scores, write_text
from mgte_training.finetune.run import run_recipe
from mgte_training.negatives import MiningOptions, mine

SETTINGS, EXAMPLES, MINED, RUN, MODEL, RERANKER = (
    "tuning.json", "examples.jsonl", "mined.jsonl", "run", "model", "reranker")  # fmt: skip
REPORT, PLOT = "report.txt", "comparison.svg"

HELD_OUT = "held-out documents"
CHOSEN_ON = "other set, half that the share was chosen on"
NOT_CHOSEN_ON = "other set, the other half"
RERANKED = "best results of held-out queries, reranked"
TUNED = {ALONE: "alone, tuned", BESIDE: "beside, tuned"}

# Negatives are among the 50 best; what scores within 5 % of the answer may be an answer too.
_RANKS = (0, 50)
_RELATIVE_MARGIN = 0.05
# Held-out queries whose best results a reranker is measured on, and the sections these are found among.
_RERANKED, _RERANKED_AMONG = 200, 2000


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a domain fine-tuning has made.

    Attributes:
        folder: of the model, for ``EmbeddingModel.load`` and everything that takes a model's name.
        reranker: of the reranker, for ``Reranker.load``; None where none was asked for.
        rerank_weight: what gives its scores equal say beside the model's: "rerank" in ``weighted({...})`` of a
            collection's search. None where there is none.
        share: of the tuned weights in the model; the rest are the base's.
        comparisons: before and after by title, those below: always on the held-out documents, on both halves of the
            other set where there is one, and of the ranking before and after the reranker.
        plot: a picture of them.
        report: the same in words.
    """

    folder: Path
    reranker: Path | None
    rerank_weight: float | None
    share: float
    comparisons: Mapping[str, Comparison]
    plot: Path
    report: str


def tune(
    folder: str | Path,
    out: str | Path,
    *,
    other: Judged | None = None,
    options: TuningOptions | None = None,
    show_progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> Tuned:
    """Fine-tune a model on a folder of documents and compare it with what it was.

    Headings become queries for their sections; a share of the documents is held out with all of theirs. Negatives are
    mined with the model itself among all of the other documents' sections. All outputs are trained together. The result
    is mixed with the base model so far that on another set no way of searching loses more than the bound, which is
    checked on a half of that set and reported on the other. Stopped at any moment, the same call goes on where it was.

    Args:
        folder: with documents; ``read_documents`` says in which formats.
        out: folder of all results: the model in "model", report.txt, comparison.svg.
        other: what forgetting is measured on; None takes the tuned weights as they are and measures none.
        options: what is done; None is the defaults.
        show_progress: draw progress bars on standard error.
        say: told what happens, in sentences.

    Raises:
        MissingExtraError: a package that training needs is not installed.
        DataError: no documents, or none with headings.
        CheckpointError: there is no such model or reranker.
        InvalidOptionError: ``out`` has a finished run, or one of other documents or options, or is among the documents.
    """
    for package in ("transformers", "accelerate", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "domain fine-tuning")
    if Path(out).resolve().is_relative_to(Path(folder).resolve()):
        raise InvalidOptionError(f"{out} is in {folder}: results would become documents; give a folder elsewhere")
    options, say = options or TuningOptions(), say or (lambda _: None)
    if options.reranker not in (None, NEW_RERANKER):
        Reranker.load(options.reranker).close()  # a wrong name is an error before anything is done
    out, tuned = Path(out), Path(out) / RUN / MODEL
    pairs = _read(folder, options, say)
    train, asked = pairs.split(options.held_out, options.seed)
    whole = Judged.of_sections(asked, pairs.sections)
    held_out = whole.limited(options.max_queries, options.max_sections, options.seed)
    halves = None if other is None else other.halves(options.seed)
    with EmbeddingModel.load(options.model) as base:
        _claim(out, base, pairs, other, options)
        say(f"{len(train):,} queries to train on, {len(asked):,} held out")
        say(f"the figures are of {len(held_out.queries):,} queries in {len(held_out.documents):,} sections")
        before = stored(out / "before.npz", lambda: measure(base, held_out, show_progress=show_progress))
        mined = _mined(out, base, train, pairs, options, show_progress, say)
        recipe = model_recipe(base, options, mined)
        remembered = [stored(out / f"other-before-{i}.npz", partial(measure, base, half))
                      for i, half in enumerate(halves or ())]  # fmt: skip
    if not tuned.exists():
        run_recipe(recipe, tuned.parent, show_progress=show_progress, say=say)
    share, weight, panels = 1.0, None, dict[str, Comparison]()
    if halves is not None:
        share, panels[CHOSEN_ON] = choose_share(
            options.model, tuned, halves[0], remembered[0], bound=options.forgetting, folder=out / "mixed", say=say
        )
    if not (out / MODEL).exists():
        write_mixture(options.model, tuned, share, out / MODEL)
    with EmbeddingModel.load(str(out / MODEL)) as model:
        after = stored(out / "after.npz", lambda: measure(model, held_out, show_progress=show_progress))
        panels = {HELD_OUT: compare(before, after, held_out)} | panels
        if halves is not None:
            rest = stored(out / "other-after-1.npz", lambda: measure(model, halves[1]))
            panels[NOT_CHOSEN_ON] = compare(remembered[1], rest, halves[1])
        if options.reranker is not None:
            weight, panels[RERANKED] = _reranked(out, model, held_out, options, mined, show_progress, say)
    reranker = None if options.reranker is None else out / RERANKER / MODEL
    return Tuned(out / MODEL, reranker, weight, share, panels, out / PLOT, _reported(out, share, weight, panels))


def _read(folder: str | Path, options: TuningOptions, say: Callable[[str], None]) -> Pairs:
    documents = read_documents(folder)
    pairs = make_pairs(documents.documents, min_words=options.min_words, questions=options.questions)
    say(f"{len(documents.documents):,} documents, {documents.others:,} files of other formats")
    for problem in documents.problems:
        say(f"  not read: {problem}")
    say(pairs.describe())
    return pairs


def _claim(out: Path, base: EmbeddingModel, pairs: Pairs, other: Judged | None, options: TuningOptions) -> None:
    """Make the folder of this tuning, or find that it is this one's."""
    texts = json.dumps([pairs.sections, [asdict(each) for each in pairs.asked]])
    content = {
        "options": asdict(options),
        "model": base.identity.fingerprint,
        "documents": hashlib.sha256(texts.encode()).hexdigest(),
        "other": None if other is None else hashlib.sha256(repr(other).encode()).hexdigest(),
    }
    text = json.dumps(content, indent=2, default=str, sort_keys=True)
    path = out / SETTINGS
    if (out / REPORT).exists():
        raise InvalidOptionError(f"{out} has a finished run, see {out / REPORT}; give another folder")
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise InvalidOptionError(
                f"{path} is of other documents, options or another model; give another folder, or delete {out}"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise InvalidOptionError(f"{out} is not empty and no tuning of these documents; give another folder")
    write_text(path, text)


def _mined(
    out: Path,
    base: EmbeddingModel,
    train: Sequence[Asked],
    pairs: Pairs,
    options: TuningOptions,
    show_progress: bool,
    say: Callable[[str], None],
) -> Path:
    """The training examples with negatives, none of them a section of a held-out document."""
    if (out / MINED).exists():
        return out / MINED
    if not (out / EXAMPLES).exists():
        chosen = random.Random(options.seed).sample(range(len(train)), min(options.max_pairs, len(train)))
        examples = [Example(train[place].query, tuple(pairs.sections[section] for section in train[place].sections))
                    for place in sorted(chosen)]  # fmt: skip
        rows = map(example_to_row, examples)
        write_text(out / EXAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    trained_on = {each.document for each in train}
    corpus = [text for text, owner in zip(pairs.sections, pairs.owners, strict=True) if owner in trained_on]
    count = max(options.negatives, options.reranker_negatives if options.reranker else 0)
    report = mine(
        base,
        SourceData.read(Source("documents", str(out / EXAMPLES))),
        corpus,
        out / MINED,
        options=MiningOptions(
            rank_range=_RANKS,
            count=count,
            relative_margin=_RELATIVE_MARGIN,
            max_length=options.max_length,
            seed=options.seed,
        ),
        show_progress=show_progress,
    )
    say(f"{report.taken:,} negatives mined; {report.without:,} queries have none")
    return out / MINED


def _reranked(
    out: Path,
    model: EmbeddingModel,
    held_out: Judged,
    options: TuningOptions,
    mined: Path,
    show_progress: bool,
    say: Callable[[str], None],
) -> tuple[float, Comparison]:
    """Train the reranker, and compare its ranking with the one it is given and, unless it is new, with what it was."""
    folder = out / RERANKER
    if not (folder / MODEL).exists():
        run_recipe(reranker_recipe(options, mined, out / MODEL), folder, show_progress=show_progress, say=say)
    some = held_out.limited(_RERANKED, _RERANKED_AMONG, options.seed)
    candidates = Candidates.find(model, some)

    def scores(name: str) -> Floats:
        with Reranker.load(name) as reranker:
            return candidates.score(reranker)

    tuned = stored_scores(out / "reranked-after.npy", lambda: scores(str(folder / MODEL)))
    first, last = dict(candidates.measure(None)), dict(candidates.measure(tuned))
    if options.reranker != NEW_RERANKER:
        base = stored_scores(out / "reranked-before.npy", lambda: scores(str(options.reranker)))
        for way, figures in candidates.measure(base).items():
            first[TUNED[way]], last[TUNED[way]] = figures, last[way]
    return candidates.weight(tuned), compare(first, last, some)


def _reported(out: Path, share: float, weight: float | None, panels: Mapping[str, Comparison]) -> str:
    """Write the picture and the report; the report, which comes last and marks the run as finished."""
    draw(panels, out / PLOT)
    parts = [f"{title}\n{comparison}" for title, comparison in panels.items()]
    parts.append(f"share of the tuned weights: {share:.0%}")
    if weight is not None:
        parts[-1] += f"\nweight of the reranker's scores beside the others: {weight:.3f}"
    report = "\n\n".join(parts)
    write_text(out / REPORT, report + "\n")
    return report
