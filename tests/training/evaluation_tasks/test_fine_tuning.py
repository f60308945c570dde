"""Fine-tuning starts from the published weights, learns what can be learned, and repeats from its seed."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertModel

from mgte_rag import DataError, EmbeddingModel, InvalidOptionError, TrainingError
from mgte_rag.nn.heads import pool
from mgte_rag.nn.linear import can_prepare
from mgte_rag.nn.packing import PackedBatch, pack
from mgte_rag.tokenization import TokenizedTexts
from mgte_training.evaluation.tasks.classification import fine_tune_classification
from mgte_training.evaluation.tasks.fine_tuning import EncoderWithHead, FineTuning
from mgte_training.evaluation.tasks.rows import read_rows
from mgte_training.evaluation.tasks.scores import TaskScore
from mgte_training.evaluation.tasks.spans import (
    Question,
    Window,
    best_span,
    find_answers,
    fine_tune_spans,
    read_windows,
    target,
)

QUICK = FineTuning(epochs=4, batch_size=16, learning_rate=3e-3, device="cpu")
FILL = ["the", "sat", "ran", "on", "mat", "under", "tree", "and", "then", "a"]


def sentences(count: int, seed: int) -> list[list[str]]:
    """Word lists of 2 to 8, each with either a cat or a dog."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        words = chance.choices(FILL, k=chance.randrange(1, 8))
        words.insert(chance.randrange(len(words) + 1), chance.choice(["cat", "dog"]))
        made.append(words)
    return made


def animals(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts with a cat are 1, with a dog 0."""
    return [{"text": " ".join(words), "label": int("cat" in words)} for words in sentences(count, seed)]


def values(scores: list[TaskScore]) -> dict[str, float]:
    return {score.measure: score.value for score in scores}


def test_it_starts_from_the_published_weights(tiny_bert: Path, tiny_model: EmbeddingModel) -> None:
    started = EncoderWithHead(tiny_bert, 2, QUICK)
    texts = ["the cat", "a dog sat on the mat", "tree"]
    tokens = started.checkpoint.tokenizer.tokenize(texts, prompt="", max_length=32)
    with torch.inference_mode():
        hidden, batch = started.hidden(tokens, [0, 1, 2])
    vectors = F.normalize(pool(hidden, batch, "mean"), dim=-1)
    assert np.allclose(vectors, tiny_model.encode_document(texts).dense, atol=1e-5)


def test_its_gradients_are_those_of_the_reference_implementation(tiny_bert: Path) -> None:
    ours = EncoderWithHead(tiny_bert, 3, QUICK)
    texts = ["the cat", "a dog sat on the mat", "then the tree"]
    tokens = ours.checkpoint.tokenizer.tokenize(texts, prompt="", max_length=32)
    hidden, batch = ours.hidden(tokens, [0, 1, 2])
    loss = F.cross_entropy(ours.head(pool(hidden, batch, "mean")), torch.tensor([0, 1, 2]))
    loss.backward()

    theirs = BertModel.from_pretrained(tiny_bert, add_pooling_layer=False).eval()
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row).long() for row in tokens.ids], batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in tokens.ids])[:, None]
    states = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    pooled = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    expected = F.cross_entropy(F.linear(pooled, ours.head.weight, ours.head.bias), torch.tensor([0, 1, 2]))
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    embeddings, layer = theirs.embeddings, theirs.encoder.layer[1]
    pairs = [
        (ours.encoder.embeddings.word.weight, embeddings.word_embeddings.weight),
        (ours.encoder.embeddings.position.weight, embeddings.position_embeddings.weight),
        (ours.encoder.layers[1].attention.out.weight, layer.attention.output.dense.weight),
        (ours.encoder.layers[1].feed_forward_norm.weight, layer.output.LayerNorm.weight),
    ]
    for mine, reference in pairs:
        assert reference.grad.abs().max() > 1e-4
        assert torch.allclose(mine.grad, reference.grad, atol=1e-5)
    query = ours.encoder.layers[0].attention.qkv.weight.grad[:32]
    assert torch.allclose(query, theirs.encoder.layer[0].attention.self.query.weight.grad, atol=1e-5)


def test_it_learns_to_tell_texts_apart_and_repeats_from_its_seed(tiny_bert: Path, write_rows: Any) -> None:
    train, test = write_rows("train.jsonl", animals(160, 0)), write_rows("test.jsonl", animals(60, 1))
    scores = fine_tune_classification(tiny_bert, train, test, options=QUICK)
    assert values(scores)["accuracy"] > 0.95
    assert values(scores).keys() == {"accuracy", "macro F1", "matthews", "F1"}
    assert {(score.task, score.group, score.language, score.examples) for score in scores} == {
        ("test", "fine-tuned classification", "und", 60)
    }
    short = FineTuning(epochs=1, batch_size=16, learning_rate=3e-4, device="cpu")
    torch.manual_seed(1)
    once = fine_tune_classification(tiny_bert, train, test, options=short)
    torch.manual_seed(2)
    assert once == fine_tune_classification(tiny_bert, train, test, options=short)


def test_the_seed_decides_the_weights(tiny_bert: Path) -> None:
    first, same, other = (EncoderWithHead(tiny_bert, 2, FineTuning(seed=seed)).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_loaded_models_stay_as_they_are_while_a_copy_trains(
    tiny_bert: Path, tiny_model: EmbeddingModel, write_rows: Any
) -> None:
    before = tiny_model.encode_document("the cat sat").dense
    weights = (tiny_bert / "model.safetensors").read_bytes()
    rows = write_rows("rows.jsonl", animals(32, 0))
    fine_tune_classification(tiny_bert, rows, rows, options=QUICK)
    assert np.array_equal(tiny_model.encode_document("the cat sat").dense, before)
    assert (tiny_bert / "model.safetensors").read_bytes() == weights
    with EmbeddingModel.load(tiny_bert, dtype="float32") as again:
        assert np.array_equal(again.encode_document("the cat sat").dense, before)


def test_it_learns_from_pairs_with_scores(tiny_bert: Path, write_rows: Any) -> None:
    def pairs(count: int, seed: int) -> list[dict[str, Any]]:
        made = zip(sentences(count, seed), sentences(count, seed + 100), strict=True)
        return [
            {"sentence1": " ".join(a), "sentence2": " ".join(b), "score": 2.0 * ("cat" in a) + 10 * ("cat" in b)}
            for a, b in made
        ]

    train, test = write_rows("train.jsonl", pairs(200, 0)), write_rows("test.jsonl", pairs(60, 1))
    scores = fine_tune_classification(tiny_bert, train, test, options=QUICK)
    assert values(scores)["pearson"] > 0.9
    assert [score.measure for score in scores] == ["spearman", "pearson"]
    assert scores[0].group == "fine-tuned regression"


def test_what_is_learned_in_one_language_is_measured_in_each(tiny_bert: Path, write_rows: Any) -> None:
    train = write_rows("train.jsonl", animals(64, 0))
    rows = [row | {"language": ("de", "fr")[i % 2]} for i, row in enumerate(animals(30, 1))]
    scores = fine_tune_classification(tiny_bert, train, write_rows("test.jsonl", rows), options=QUICK, task="two")
    assert [(score.language, score.task, score.examples) for score in scores if score.measure == "F1"] == [
        ("de", "two", 15),
        ("fr", "two", 15),
    ]


def test_rerankers_and_language_models_are_encoders_too(tiny_reranker: Path, write_rows: Any) -> None:
    rows = write_rows("rows.jsonl", animals(64, 0))
    assert values(fine_tune_classification(tiny_reranker, rows, rows, options=QUICK))["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([("a", 1), ("b", 1)], [("a", 1)], "train.jsonl, line 1: every label of the file is '1'"),
        ([("a", 1), ("b", 2)], [("a", 1), ("b", 3)], "test.jsonl, line 2: the label '3' does not occur"),
    ],
)
def test_labels_that_cannot_be_learned_or_tested_are_errors(
    tiny_bert: Path, write_rows: Any, train: list[tuple[str, int]], test: list[tuple[str, int]], message: str
) -> None:
    files = [
        write_rows(name, [{"text": text, "label": label} for text, label in rows])
        for name, rows in (("train.jsonl", train), ("test.jsonl", test))
    ]
    with pytest.raises(DataError, match=message):
        fine_tune_classification(tiny_bert, *files)


def test_scores_that_are_all_the_same_and_files_of_two_kinds_are_errors(tiny_bert: Path, write_rows: Any) -> None:
    same = write_rows("same.jsonl", [{"text": "a", "score": 1}, {"text": "b", "score": 1}])
    good = write_rows("good.jsonl", [{"text": "a", "score": 1}, {"text": "b", "score": 2}])
    labelled = write_rows("labelled.jsonl", [{"text": "a", "label": 1}])
    with pytest.raises(DataError, match=r"same.jsonl, line 1: every score of the file is the same"):
        fine_tune_classification(tiny_bert, same, good)
    with pytest.raises(DataError, match=r"same.jsonl, line 1: every score of language 'und' is the same"):
        fine_tune_classification(tiny_bert, good, same)
    with pytest.raises(
        DataError, match=r"good.jsonl has a text with a score, .*labelled.jsonl has a text with a label"
    ):
        fine_tune_classification(tiny_bert, good, labelled)


def test_a_loss_that_is_no_number_stops_the_training(tiny_bert: Path, write_rows: Any) -> None:
    rows = write_rows("rows.jsonl", animals(64, 0))
    with pytest.raises(TrainingError, match=r"the loss became .* try a tenth"):
        fine_tune_classification(tiny_bert, rows, rows, options=FineTuning(learning_rate=1e30, device="cpu"))


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 1.5}, {"learning_rate": 0.0}, {"warmup": 2.0}, {"weight_decay": -1.0}]
)
def test_an_option_out_of_its_range_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(wrong))):
        FineTuning(**wrong)


def test_more_tokens_than_the_model_reads_are_an_error(tiny_bert: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"max_length=33: .* reads 5 to 32 tokens"):
        EncoderWithHead(tiny_bert, 2, FineTuning(max_length=33))


def test_projections_are_trained_as_they_were_published_not_prepared(tiny_bert: Path) -> None:
    assert EncoderWithHead(tiny_bert, 2, QUICK).encoder.layers[0].attention.qkv.weight.requires_grad
    assert can_prepare("cpu", torch.float32), "here inference would have prepared them"


# Spans -----------------------------------------------------------------------------------------------------------


def squad(count: int, seed: int, *, words: int = 8) -> list[dict[str, Any]]:
    """Contexts with a cat and a dog; the question names the one to mark."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        context = chance.choices(FILL, k=words - 2)
        for animal in chance.sample(["cat", "dog"], 2):
            context.insert(chance.randrange(len(context) + 1), animal)
        asked = chance.choice(["cat", "dog"])
        text = " ".join(context)
        rows.append(
            {
                "question": f"the {asked}",
                "context": text,
                "answers": {"text": [asked], "answer_start": [text.index(asked)]},
            }
        )
    return rows


def test_it_learns_to_mark_what_the_question_names_and_repeats_from_its_seed(tiny_bert: Path, write_rows: Any) -> None:
    train, test = write_rows("train.jsonl", squad(500, 0)), write_rows("test.jsonl", squad(60, 1))
    options = FineTuning(epochs=8, batch_size=32, learning_rate=3e-3, device="cpu")
    scores = fine_tune_spans(tiny_bert, train, test, options=options)
    assert values(scores)["exact match"] > 0.9
    assert [(score.group, score.measure, score.examples) for score in scores] == [
        ("fine-tuned spans", "exact match", 60),
        ("fine-tuned spans", "F1", 60),
    ]
    short = FineTuning(epochs=1, learning_rate=1e-4, device="cpu")
    assert fine_tune_spans(tiny_bert, train, test, options=short) == fine_tune_spans(
        tiny_bert, train, test, options=short
    )


def question_of(row: dict[str, Any]) -> Question:
    answers = row["answers"]
    return Question(row["question"], row["context"], tuple(answers["text"]), tuple(answers["answer_start"]), "en")


def test_windows_cover_a_long_context_and_know_where_their_tokens_are(tiny_bert: Path) -> None:
    started = EncoderWithHead(tiny_bert, 2, FineTuning(max_length=16, device="cpu"))
    questions = [question_of(row) for row in squad(5, 0, words=40)]
    tokens, windows = read_windows(started, questions)
    tokenizer = started.checkpoint.tokenizer
    for number, question in enumerate(questions):
        own = [window for window in windows if window.question == number]
        read = set()
        for window in own:
            ids = tokens.ids[windows.index(window)]
            assert len(ids) <= 16
            words = [tokenizer.token(int(i)) for i in ids[window.first : window.last + 1]]
            assert words == [question.context[begin:end] for begin, end in window.offsets]
            assert tokenizer.token(int(ids[window.first - 1])) == tokenizer.token(int(ids[-1])) == "[SEP]"
            read |= {(int(begin), int(end)) for begin, end in window.offsets}
        assert " ".join(question.context[begin:end] for begin, end in sorted(read)) == question.context
        targets = [target(window, question) for window in own]
        assert any(first for first, _ in targets)
        for window, (first, last) in zip(own, targets, strict=True):
            if first:
                begin, end = window.offsets[first - window.first, 0], window.offsets[last - window.first, 1]
                assert question.context[begin:end] == question.answers[0]


def test_the_target_is_the_smallest_run_of_tokens_that_holds_the_answer() -> None:
    window = Window(0, 3, np.array([[0, 3], [4, 7], [7, 9], [10, 14]], dtype=np.int32))

    def where(start: int, answer: str) -> tuple[int, int]:
        return target(window, Question("q", "the catty tree", (answer,), (start,), "en"))

    assert where(4, "cat") == (4, 4)
    assert where(4, "catty") == (4, 5)
    assert where(5, "atty t") == (4, 6)
    assert where(0, "the") == (3, 3)
    assert target(window, Question("q", "the catty tree and", ("and",), (15,), "en")) == (0, 0)


def test_the_best_span_is_that_of_a_naive_loop() -> None:
    chance = torch.Generator().manual_seed(0)
    for length in (1, 2, 29, 30, 31, 80):
        starts, ends = torch.randn(2, length, generator=chance)
        naive = max((float(starts[i] + ends[j]), i, j) for i in range(length) for j in range(i, min(i + 30, length)))
        assert best_span(starts, ends) == pytest.approx(naive)


def test_an_answer_in_any_window_is_found(tiny_bert: Path) -> None:
    started = EncoderWithHead(tiny_bert, 2, FineTuning(max_length=16, device="cpu"))
    questions = [question_of(row) for row in squad(6, 3, words=60)]
    cat = started.checkpoint.tokenizer.token_id("cat")

    def hidden(tokens: TokenizedTexts, places: Sequence[int]) -> tuple[torch.Tensor, PackedBatch]:
        """Hidden states that say which tokens are a cat."""
        batch = pack([tokens.ids[place] for place in places], started.device)
        return F.one_hot((batch.ids == cat).long(), 32).float(), batch

    started.hidden = hidden
    with torch.no_grad():
        started.head.weight.zero_()
        started.head.weight[:, 1] = 1.0
    assert find_answers(started, questions) == ["cat"] * 6


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="needs the data that MGTE_DATA names")
def test_the_embedded_default_learns_real_intents_from_few_examples(write_rows: Any) -> None:
    rows = read_rows(Path(os.environ["MGTE_DATA"]) / "pairs" / "banking77.jsonl.gz")
    wanted = ("card_arrival", "exchange_rate", "lost_or_stolen_card", "terminate_account")
    labelled = [{"text": row.text("query"), "label": row.text("label")} for row in rows if row.text("label") in wanted]
    chosen = random.Random(0).sample(labelled, 120)
    train, test = write_rows("train.jsonl", chosen[:80]), write_rows("test.jsonl", chosen[80:])
    options = FineTuning(epochs=2, batch_size=16, learning_rate=2e-4, device="cpu")
    scores = fine_tune_classification(None, train, test, options=options)
    assert values(scores)["accuracy"] > 0.9
