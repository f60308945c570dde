"""Encoders of every family, as published, learn to mark answers, and know where in their inputs the context is."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgte_training.evaluation.tasks.fine_tuning import EncoderWithHead, FineTuning
from mgte_training.evaluation.tasks.spans import Question, fine_tune_spans, read_questions, read_windows, target

FILL = ["the", "sat", "ran", "on", "mat", "under", "tree", "and", "then", "a"]
# Different pair markers, positions, gates and pre-norm; local attention; a pickle.
FAMILIES = ["gte-multilingual-base", "bge-m3", "jina-colbert-v2", "gte-modernbert-base", "bge-small-en-v1.5"]
OPTIONS = FineTuning(epochs=5, learning_rate=2e-3, max_length=24, device="cpu")


def squad(count: int, words: int) -> list[dict[str, Any]]:
    """Contexts with one cat."""
    chance = random.Random(words)
    rows = []
    for _ in range(count):
        context = chance.choices(FILL, k=words)
        context.insert(chance.randrange(words + 1), "cat")
        text = " ".join(context)
        answers = {"text": ["cat"], "answer_start": [text.index("cat")]}
        rows.append({"question": "the cat", "context": text, "answers": answers})
    return rows


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], Path]:
    """Writes JSON Lines."""

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", FAMILIES)
def test_an_encoder_of_that_family_learns_to_mark_answers_in_texts_longer_than_it_reads(
    published: Callable[[str], Any], write_jsonl: Callable[..., Any], name: str
) -> None:
    train, test = write_jsonl("train.jsonl", squad(160, 10)), write_jsonl("test.jsonl", squad(30, 40))
    scores = fine_tune_spans(published(name).folder, train, test, options=OPTIONS)
    assert scores[0].value > 0.9

    encoder = EncoderWithHead(published(name).folder, 2, OPTIONS)
    questions: list[Question] = read_questions(test)
    tokens, windows = read_windows(encoder, questions)
    held = 0
    for ids, window in zip(tokens.ids, windows, strict=True):
        context = questions[window.question].context
        tokenizer = encoder.checkpoint.tokenizer
        pieces = [tokenizer.token(int(i)).strip("▁Ġ").removeprefix("##") for i in ids[window.first : window.last + 1]]
        assert all(piece in context for piece in pieces)
        first, last = target(window, questions[window.question])
        if first:
            held += 1
            begin, end = window.offsets[first - window.first, 0], window.offsets[last - window.first, 1]
            assert context[begin:end].strip() == "cat"
    assert held >= len(questions) < len(windows)
