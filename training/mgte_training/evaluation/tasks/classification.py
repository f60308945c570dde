"""The encoder fine-tuned on classes or scores of texts and text pairs, as GLUE and XTREME-R measure encoders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgte_rag import DataError
from mgte_rag.nn.heads import pool
from mgte_rag.tokenization import TokenizedTexts
from mgte_training.evaluation.tasks.fine_tuning import EncoderWithHead, FineTuning, ModelName, fine_tune
from mgte_training.evaluation.tasks.measures import classification_scores, correlation_scores
from mgte_training.evaluation.tasks.rows import Row, by_language, read_rows, task_name
from mgte_training.evaluation.tasks.scores import TaskScore

CLASSIFICATION = "fine-tuned classification"
REGRESSION = "fine-tuned regression"


_Loss = Callable[[Tensor, list[int]], Tensor]


@dataclass(frozen=True, slots=True)
class Example:
    """A text or a pair of texts and what is to be said of it.

    Attributes:
        texts: one text, or two.
        label: the class; None where there is a score.
        score: the score; None where there is a class.
        row: where it stands.
    """

    texts: tuple[str, ...]
    label: str | None
    score: float | None
    row: Row


def read_examples(path: str | Path, *, split: str | None = None) -> list[Example]:
    """Lines of {"text"} or {"sentence1", "sentence2"} with a "label" (a class) or a "score" (a number).

    Raises:
        DataError: the file cannot be used, or its lines are of different kinds; the message names file and line.
    """
    examples = [_example(row) for row in read_rows(path, split=split)]
    for example in examples:
        if _kind(example) != _kind(examples[0]):
            raise example.row.error(
                f"has {_kind(example)}, the first line has {_kind(examples[0])}; all lines must be of one kind"
            )
    return examples


def _example(row: Row) -> Example:
    if ("label" in row.fields) == ("score" in row.fields):
        raise row.error("needs a 'label' (a class) or a 'score' (a number), and not both")
    names = ("text",) if "text" in row.fields else ("sentence1", "sentence2")
    texts = tuple(row.text(name) for name in names)
    if "label" in row.fields:
        return Example(texts, row.label("label"), None, row)
    return Example(texts, None, row.number("score"), row)


def _kind(example: Example) -> str:
    texts = "a text" if len(example.texts) == 1 else "a pair of texts"
    return f"{texts} with a {'label' if example.label is not None else 'score'}"


def fine_tune_classification(
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
    """Fine-tune a model's encoder on labelled texts, or pairs of them, and measure it on others.

    Labels make a classification: cross-entropy; accuracy, macro F1, Matthews' correlation, and F1 of the label 1
    where the labels are 0 and 1. Scores make a regression: mean squared error; Spearman's and Pearson's correlation.
    A linear head stands on the model's own pooling. Test data in several languages gives figures for each: trained
    on English, that is the zero-shot transfer that XTREME-R measures.

    Args:
        model: a hub id, a folder, or None for the embedded default; rerankers and language models too.
        train: lines of {"text"} or {"sentence1", "sentence2"} with "label" or "score", perhaps "language", "split".
        test: the same.
        train_split: take only training rows of this split.
        test_split: take only test rows of this split.
        options: how to train.
        task: what to call it; None is the test file's name.
        show_progress: draw a progress bar on standard error.

    Raises:
        DataError: a file cannot be used, or a test label does not occur in training; the message names file and line.
        UnknownModelError, CheckpointError: the model cannot be loaded.
        TrainingError: the loss is no longer a finite number.

    Source: GLUE, arXiv 1804.07461; XTREME-R, arXiv 2104.07412; mGTE, arXiv 2407.19669, which reports both.
    """
    options = options or FineTuning()
    learned, tested = read_examples(train, split=train_split), read_examples(test, split=test_split)
    if _kind(learned[0]) != _kind(tested[0]):
        raise DataError(f"{train} has {_kind(learned[0])}, {test} has {_kind(tested[0])}; both must be of one kind")
    name = task or task_name(test)
    if learned[0].label is None:
        return _regression(model, learned, tested, options, name, show_progress)
    return _classification(model, learned, tested, options, name, show_progress)


def _classification(
    model: ModelName,
    learned: Sequence[Example],
    tested: Sequence[Example],
    options: FineTuning,
    task: str,
    show_progress: bool,
) -> list[TaskScore]:
    classes = tuple(sorted({str(example.label) for example in learned}))
    if len(classes) < 2:
        raise learned[0].row.error(f"every label of the file is {classes[0]!r}; two classes are needed at least")
    numbers = {label: number for number, label in enumerate(classes)}
    unknown = next((example for example in tested if example.label not in numbers), None)
    if unknown is not None:
        raise unknown.row.error(f"the label {unknown.label!r} does not occur in the training data")
    targets = torch.tensor([numbers[str(example.label)] for example in learned])

    def loss(outputs: Tensor, places: list[int]) -> Tensor:
        return F.cross_entropy(outputs, targets[places].to(outputs.device))

    outputs = _trained_outputs(model, learned, tested, len(classes), loss, options, show_progress)
    predicted = outputs.argmax(1).numpy()
    gold = np.array([numbers[str(example.label)] for example in tested])
    return [
        score
        for language, places in by_language(tested, lambda example: example.row.language).items()
        for score in classification_scores(
            predicted[places], gold[places], classes=classes, task=task, group=CLASSIFICATION, language=language
        )
    ]


def _regression(
    model: ModelName,
    learned: Sequence[Example],
    tested: Sequence[Example],
    options: FineTuning,
    task: str,
    show_progress: bool,
) -> list[TaskScore]:
    scores = torch.tensor([example.score for example in learned], dtype=torch.float32)
    if len(scores) < 2 or scores.std() == 0:
        raise learned[0].row.error("every score of the file is the same; there is nothing to learn")
    languages = by_language(tested, lambda example: example.row.language)
    for language, places in languages.items():
        if len({tested[place].score for place in places}) < 2:
            raise tested[places[0]].row.error(f"every score of language {language!r} is the same; nothing to rank")
    targets = (scores - scores.mean()) / scores.std()  # correlations do not see the scale, the optimizer does

    def loss(outputs: Tensor, places: list[int]) -> Tensor:
        return F.mse_loss(outputs.squeeze(1), targets[places].to(outputs.device))

    outputs = _trained_outputs(model, learned, tested, 1, loss, options, show_progress)
    predicted = outputs.squeeze(1).double().numpy()
    gold = np.array([example.score for example in tested], dtype=np.float64)
    return [
        score
        for language, places in languages.items()
        for score in correlation_scores(predicted[places], gold[places], task=task, group=REGRESSION, language=language)
    ]


def _trained_outputs(
    model: ModelName,
    learned: Sequence[Example],
    tested: Sequence[Example],
    width: int,
    loss: _Loss,
    options: FineTuning,
    show_progress: bool,
) -> Tensor:
    """What the trained head says of the test examples: fp32 [tested, width], on the CPU."""
    trained = EncoderWithHead(model, width, options)
    pooling = trained.checkpoint.config.pooling or "cls"

    def outputs(tokens: TokenizedTexts, places: list[int]) -> Tensor:
        hidden, batch = trained.hidden(tokens, places)
        result: Tensor = trained.head(pool(hidden, batch, pooling))
        return result

    tokens = _tokenize(trained, learned)
    lengths = [len(ids) for ids in tokens.ids]
    fine_tune(
        trained, lengths, lambda places: loss(outputs(tokens, places), places), options, show_progress=show_progress
    )
    tokens = _tokenize(trained, tested)
    found = torch.empty(len(tested), width)
    with torch.inference_mode():
        for places in trained.batches(tokens):
            found[places] = outputs(tokens, places).cpu()
    return found


def _tokenize(trained: EncoderWithHead, examples: Sequence[Example]) -> TokenizedTexts:
    """A pair that is too long loses the end of its second text, and of its first where that has more than half."""
    tokenizer = trained.checkpoint.tokenizer
    if len(examples[0].texts) == 1:
        return tokenizer.tokenize([each.texts[0] for each in examples], prompt="", max_length=trained.max_length)
    pairs = [(each.texts[0], each.texts[1]) for each in examples]
    half = max(1, (trained.max_length - tokenizer.min_pair_length) // 2)
    return tokenizer.tokenize_pairs(pairs, max_length=trained.max_length, query_max_length=half)
