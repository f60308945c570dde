"""The encoder fine-tuned on extractive question answering, as SQuAD and XTREME-R measure encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown
from mgte_rag.tokenization import TextTokenizer, TokenizedTexts
from mgte_rag.types import Integers
from mgte_training.evaluation.tasks.answers import exact_match, f1
from mgte_training.evaluation.tasks.fine_tuning import EncoderWithHead, FineTuning, ModelName, fine_tune
from mgte_training.evaluation.tasks.measures import mean_score
from mgte_training.evaluation.tasks.rows import Row, by_language, read_rows, task_name
from mgte_training.evaluation.tasks.scores import TaskScore

GROUP = "fine-tuned spans"
LONGEST_ANSWER = 30  # tokens
OVERLAP = 128  # tokens that neighbouring windows of a long context share


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the text that answers it and where.

    Attributes:
        question: the question.
        context: the text.
        answers: what people marked in it, at least one.
        starts: the first character of each.
        language: of the question.
    """

    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    language: str


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A part of a context as one input with its question.

    Attributes:
        question: the question's place.
        first: place of the first context token in the input.
        offsets: int32 [context tokens, 2], first character in the whole context and one after the last.
    """

    question: int
    first: int
    offsets: Integers

    @property
    def last(self) -> int:
        """Place of the last context token."""
        return self.first + len(self.offsets) - 1


def read_questions(path: str | Path, *, split: str | None = None) -> list[Question]:
    """Lines of {"question", "context", "answers": {"text": [...], "answer_start": [...]}}, perhaps with "language".

    Raises:
        DataError: the file cannot be used, an answer does not stand where it says, or a question has none; the
            message names file and line.
    """
    return [_question(row) for row in read_rows(path, split=split)]


def _question(row: Row) -> Question:
    context = row.text("context")
    answers = row.fields.get("answers")
    texts = answers.get("text") if isinstance(answers, dict) else None
    starts = answers.get("answer_start") if isinstance(answers, dict) else None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise row.error(
            f'"answers" must be {{"text": [...], "answer_start": [...]}}, two lists of one length, not {shown(answers)}'
        )
    if not texts:
        raise row.error("the question has no answer; leave unanswerable questions (SQuAD 2.0) out")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text or isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise row.error(f"an answer must be a text and its start in characters, not {shown((text, start))}")
        if context[start : start + len(text)] != text:
            raise row.error(
                f"the context has {shown(context[start : start + len(text)])} at character {start}, not the answer "
                f"{shown(text)}; starts count characters (code points) from 0"
            )
    return Question(row.text("question"), context, tuple(texts), tuple(starts), row.language)


def fine_tune_spans(
    model: ModelName,
    train: str | Path,
    test: str | Path,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    options: FineTuning | None = None,
    task: str | None = None,
    show_progress: bool = False,
) -> list[TaskScore]:
    """Fine-tune a model's encoder to mark answers in texts, and measure exact match and F1 for every language.

    A linear head gives each token a score as start and as end of the answer. A context longer than the model reads is
    read in windows that overlap; in training a window without the answer points at its first token, and the answer
    found is the best of all windows.

    Args:
        model: a hub id, a folder, or None for the embedded default; rerankers and language models too.
        train: SQuAD as JSON Lines: {"question", "context", "answers": {"text": [...], "answer_start": [...]}},
            perhaps with "language" and "split". The first answer is learned.
        test: the same; the answer that fits best counts.
        train_split: take only training rows of this split.
        test_split: take only test rows of this split.
        options: how to train.
        task: what to call it; None is the test file's name.
        show_progress: draw a progress bar on standard error.

    Raises:
        DataError: a file cannot be used; the message names file and line.
        UnknownModelError, CheckpointError: the model cannot be loaded.
        TrainingError: the loss is no longer a finite number.

    Source: SQuAD, arXiv 1606.05250; Devlin et al. 2019, arXiv 1810.04805, section 4.2; XQuAD, arXiv 1910.11856.
    """
    options = options or FineTuning()
    learned, tested = read_questions(train, split=train_split), read_questions(test, split=test_split)
    trained = EncoderWithHead(model, 2, options)
    tokens, windows = read_windows(trained, learned)
    targets = torch.tensor([target(window, learned[window.question]) for window in windows])

    def loss(places: list[int]) -> Tensor:
        logits = _logits(trained, tokens, windows, places)
        wanted = targets[places].to(logits.device)
        return (F.cross_entropy(logits[:, 0], wanted[:, 0]) + F.cross_entropy(logits[:, 1], wanted[:, 1])) / 2

    fine_tune(trained, [len(ids) for ids in tokens.ids], loss, options, show_progress=show_progress)
    found = find_answers(trained, tested)
    return _scores(tested, found, task or task_name(test))


def _scores(questions: Sequence[Question], found: Sequence[str], task: str) -> list[TaskScore]:
    measures = {"exact match": exact_match, "F1": f1}
    return [
        mean_score(
            np.array([measure(found[i], questions[i].answers, language) for i in places]),
            task=task,
            group=GROUP,
            language=language,
            measure=name,
        )
        for language, places in by_language(questions, lambda question: question.language).items()
        for name, measure in measures.items()
    ]


def read_windows(trained: EncoderWithHead, questions: Sequence[Question]) -> tuple[TokenizedTexts, list[Window]]:
    """Every question with every part of its context, and where in each input the context is.

    Raises:
        InvalidOptionError: max_length leaves no room for a context beside a question.
    """
    tokenizer, max_length = trained.checkpoint.tokenizer, trained.max_length
    room = max_length - tokenizer.min_pair_length
    longest_question = max(1, room // 2)
    if room < 2:
        raise InvalidOptionError(f"max_length={max_length}: a question and a context need {room + 2} tokens at least")
    asked = [
        min(len(places) - tokenizer.min_length, longest_question)
        for places in tokenizer.offsets([question.question for question in questions], prompt="")
    ]
    pairs, owners, begins = [], [], []
    for number, (question, places) in enumerate(zip(questions, _context_offsets(tokenizer, questions), strict=True)):
        for begin, end in _parts(places, room - asked[number]):
            pairs.append((question.question, question.context[begin:end]))
            owners.append(number)
            begins.append(begin)
    tokens = tokenizer.tokenize_pairs(pairs, max_length=max_length, query_max_length=longest_question)
    windows = []
    read = _own_offsets(tokenizer, [text for _, text in pairs])
    for ids, owner, begin, places in zip(tokens.ids, owners, begins, read, strict=True):
        count = len(ids) - tokenizer.min_pair_length - asked[owner]
        windows.append(Window(owner, len(ids) - tokenizer.pair_suffix_length - count, places[:count] + begin))
    return tokens, windows


def _context_offsets(tokenizer: TextTokenizer, questions: Sequence[Question]) -> list[Integers]:
    """The offsets of each question's context; a context that many questions share is read once."""
    contexts = list(dict.fromkeys(question.context for question in questions))
    found = dict(zip(contexts, _own_offsets(tokenizer, contexts), strict=True))
    return [found[question.context] for question in questions]


def _own_offsets(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[Integers]:
    """Where in each text its tokens are, markers left out."""
    prefix = tokenizer.prefix_length
    suffix = tokenizer.min_length - prefix
    return [places[prefix : len(places) - suffix] for places in tokenizer.offsets(texts, prompt="")]


def _parts(places: Integers, room: int) -> list[tuple[int, int]]:
    """First character and one after the last of each part of a context that has room in one input."""
    if not len(places):
        return [(0, 0)]
    step = room - min(OVERLAP, room // 2)
    starts = range(0, max(1, len(places) - room + step), step)
    return [(int(places[start, 0]), int(places[min(start + room, len(places)) - 1, 1])) for start in starts]


def target(window: Window, question: Question) -> tuple[int, int]:
    """Places of the first and the last token of the first answer in the input; (0, 0) where the window lacks it."""
    begin = question.starts[0]
    end = begin + len(question.answers[0])
    offsets = window.offsets
    if not len(offsets) or offsets[0, 0] > begin or offsets[-1, 1] < end:
        return 0, 0
    first = int(np.argmax(offsets[:, 1] > begin))
    last = int(np.nonzero(offsets[:, 0] < end)[0][-1])
    return window.first + first, window.first + max(first, last)


def _logits(
    trained: EncoderWithHead, tokens: TokenizedTexts, windows: Sequence[Window], places: Sequence[int]
) -> Tensor:
    """Scores as start and as end, fp32 [places, 2, longest]; -inf but at the first token and in the context."""
    hidden, batch = trained.hidden(tokens, places)
    scores = trained.head(hidden).split(batch.lengths.tolist())
    padded = torch.nn.utils.rnn.pad_sequence(list(scores), batch_first=True)  # [places, longest, 2]
    allowed = torch.zeros(padded.shape[:2], dtype=torch.bool)
    allowed[:, 0] = True
    for row, place in enumerate(places):
        allowed[row, windows[place].first : windows[place].last + 1] = True
    return padded.masked_fill(~allowed.to(padded.device)[:, :, None], -torch.inf).transpose(1, 2)


def find_answers(trained: EncoderWithHead, questions: Sequence[Question]) -> list[str]:
    """The part of each question's context that the trained encoder marks."""
    tokens, windows = read_windows(trained, questions)
    best = [(-np.inf, 0, 0)] * len(questions)
    with torch.inference_mode():
        for places in trained.batches(tokens):
            logits = _logits(trained, tokens, windows, places).cpu()
            for row, place in enumerate(places):
                window = windows[place]
                inside = logits[row, :, window.first : window.last + 1]
                if inside.shape[1]:
                    score, first, last = best_span(inside[0], inside[1])
                    found = (score, int(window.offsets[first, 0]), int(window.offsets[last, 1]))
                    best[window.question] = max(best[window.question], found, key=lambda each: each[0])
    return [question.context[begin:end].strip() for question, (_, begin, end) in zip(questions, best, strict=True)]


def best_span(starts: Tensor, ends: Tensor) -> tuple[float, int, int]:
    """The highest sum of a start's and an end's score, the end not before the start nor too far after it.

    Args:
        starts: fp32 [tokens].
        ends: fp32 [tokens].

    Returns:
        The sum, the place of the start and the place of the end; of equal sums the shorter and earlier span.
    """
    best = (-np.inf, 0, 0)
    for extra in range(min(LONGEST_ANSWER, len(starts))):
        sums = starts[: len(starts) - extra] + ends[extra:]
        place = int(sums.argmax())
        if float(sums[place]) > best[0]:
            best = (float(sums[place]), place, place + extra)
    return best
