"""Sparse heads with a lexicon: how it begins, and that training and inference read it alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_rag.nn.heads import SparseHead
from mgte_training.finetune.lexicon import LexiconChoice, first_lexicon
from mgte_training.finetune.objective import HeadLoss, Objective
from mgte_training.finetune.representations import joined
from mgte_training.finetune.steps import Lengths, ModelSteps
from mgte_training.finetune.trainable import NewHeads, TrainableModel
from mgte_training.finetune.trainer import ModelTrainer


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    documents = ["the cat sat", "the cats sat on the mat", "a tree"]
    path.write_text("".join(json.dumps({"query": "q", "positive": text}) + "\n" for text in documents))
    return str(path)


@pytest.fixture(scope="module")
def mini_checkpoint(mini: EmbeddingModel) -> TrainableModel:
    return TrainableModel.open(trained="heads", dtype="float32")


def test_words_of_one_stem_are_one_term_and_begin_with_their_idf(texts: str, mini_checkpoint: TrainableModel) -> None:
    tokenizer = mini_checkpoint.checkpoint.tokenizer
    vocabulary = tokenizer.vocabulary
    weights, terms = first_lexicon(tokenizer, vocabulary, LexiconChoice(texts=(texts,), language="english", scale=2.0))
    cat, cats, tree = (tokenizer.token_id(word) or 0 for word in ("cat", "cats", "tree"))
    assert terms[cat] == terms[cats] == min(cat, cats)
    assert weights[cat].item() == weights[cats].item() == pytest.approx(2 * np.sqrt(np.log(4 / 3)))  # in 2 of 3 texts
    assert weights[tree].item() == pytest.approx(2 * np.sqrt(np.log(4 / 2)))
    assert weights[tokenizer.token_id("zebra") or 0].item() == pytest.approx(2 * np.sqrt(np.log(4)))
    pieces = [number for number in range(vocabulary) if tokenizer.token(number).startswith("##")]
    assert terms[pieces].tolist() == pieces  # parts of words stay what they are


def test_without_a_language_every_token_is_a_term(texts: str, mini_checkpoint: TrainableModel) -> None:
    tokenizer = mini_checkpoint.checkpoint.tokenizer
    _, terms = first_lexicon(tokenizer, tokenizer.vocabulary + 3, LexiconChoice(texts=(texts,)))
    assert terms.tolist() == list(range(tokenizer.vocabulary + 3))


def test_a_language_without_a_stemmer_is_an_error_that_names_those_that_have_one(
    texts: str, mini_checkpoint: TrainableModel
) -> None:
    with pytest.raises(InvalidOptionError, match=r"'klingon' has no stemmer; allowed are .*english"):
        first_lexicon(mini_checkpoint.checkpoint.tokenizer, 10, LexiconChoice(texts=(texts,), language="klingon"))


def test_a_lexicon_needs_a_sparse_head_and_texts() -> None:
    with pytest.raises(InvalidOptionError, match="set sparse = true"):
        NewHeads(lexicon=LexiconChoice(texts=("a.jsonl",)))
    with pytest.raises(InvalidOptionError, match="at least one file"):
        LexiconChoice(texts=())


@pytest.fixture
def head() -> SparseHead:
    """Of two-dimensional states, whose first component counts, and four tokens, two of which are one term."""
    head = SparseHead(hidden=2, vocabulary=4)
    assert head.lexicon is not None
    with torch.no_grad():
        head.projection.weight.copy_(torch.tensor([[1.0, 0.0]]))
        head.projection.bias.fill_(0.5)
        head.lexicon.weight.copy_(torch.tensor([0.0, 2.0, -9.0, 0.0]))
        head.lexicon.term.copy_(torch.tensor([0, 1, 2, 1], dtype=torch.int32))
    return head


def test_a_weight_is_the_states_and_the_terms_and_never_below_zero(head: SparseHead) -> None:
    hidden = torch.tensor([[1.0, 7.0], [1.0, 7.0], [-3.0, 7.0]])
    found = head(hidden, torch.tensor([3, 2, 0]), torch.tensor([0, 0, 0]), torch.tensor([True]))
    assert [side.tolist() for side in found] == [[0, 0, 0], [0, 1, 2], [0.0, 3.5, 0.0]]


def test_terms_count_as_in_bm25(head: SparseHead) -> None:
    """A query's as often as they are there, a document's less with every time and with its length."""
    assert head.lexicon is not None
    ids = torch.tensor([3, 1, 1, 0] + [1, 3, 0] + [1] + [0] * 149)
    texts = torch.tensor([0] * 4 + [1] * 3 + [2] * 150)
    with torch.no_grad():
        found = head(torch.zeros(len(ids), 2), ids, texts, torch.tensor([True, False, False]))
    weights = {(text, term): weight for text, term, weight in zip(*(side.tolist() for side in found), strict=True)}
    k1, b = 1.2, 0.75

    def counted(times: int, length: int) -> float:
        return times * (1 + k1) / (times + k1 * (1 - b + b * length / 100))

    assert weights[0, 1] == pytest.approx(2.5 * 3)
    assert weights[1, 1] == pytest.approx(2.5 * counted(2, 3), rel=1e-5)
    assert weights[2, 1] == pytest.approx(2.5 * counted(1, 150), rel=1e-5)
    assert weights[2, 0] == pytest.approx(0.5 * counted(149, 150), rel=1e-5)
    head.lexicon.counted(torch.tensor([2]), torch.tensor([50]), torch.tensor([False])).sum().backward()
    assert head.lexicon.log_k1.grad is not None
    assert head.lexicon.logit_b.grad is not None


def test_a_trained_lexicon_is_saved_and_inference_gives_the_same_vectors(
    tiny_bert: Path, texts: str, tmp_path: Path, open_model: Callable[..., TrainableModel]
) -> None:
    model = TrainableModel.open(
        tiny_bert, new_heads=NewHeads(sparse=True, lexicon=LexiconChoice(texts=(texts,), language="english"))
    ).wanting(("sparse",))
    inputs = model.read(["the cat sat on the mat"], "document", prompt=None, max_length=None)
    found = model.eval()(inputs)
    found.terms().weights.sum().backward()
    lexicon = model.model.sparse.lexicon if model.model.sparse is not None else None
    assert lexicon is not None
    assert lexicon.weight.grad is not None
    assert lexicon.weight.grad.abs().sum() > 0
    model.save(tmp_path / "saved")
    asked = model(model.read(["the cat sat on the mat"], "query", prompt=None, max_length=None))
    with EmbeddingModel.load(tmp_path / "saved", dtype="float32") as loaded:
        document = loaded.encode_document(["the cat sat on the mat"], outputs=("sparse",)).sparse[0]
        query = loaded.encode_query(["the cat sat on the mat"], outputs=("sparse",)).sparse[0]
    for vector, terms in ((document, found.terms()), (query, asked.terms())):
        np.testing.assert_array_equal(vector.indices, terms.ids.numpy())
        np.testing.assert_allclose(vector.values, terms.weights.detach().numpy(), atol=1e-6)
    assert not np.allclose(document.values, query.values)


def test_in_a_step_queries_count_as_queries_and_documents_as_documents(
    tiny_bert: Path, texts: str, plan: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    lexicon = LexiconChoice(texts=(texts,), language="english")
    model = TrainableModel.open(tiny_bert, new_heads=NewHeads(sparse=True, lexicon=lexicon)).wanting(("sparse",)).eval()
    batch = make_batch(5, 3, sub_batch=2)
    step = ModelSteps(plan(batch), model, Lengths())[0]
    assert len(step.parts) == 3
    for number, (part, queries) in enumerate(zip(step.parts, step.queries, strict=True)):
        here = slice(2 * number, 2 * number + queries)
        own = [("query", batch.queries[here]), ("document", [text for group in batch.groups[here] for text in group])]
        alone = joined([model(model.read(some, role, prompt=None, max_length=None)) for role, some in own])
        together = model(part)
        assert torch.equal(together.ids, alone.ids)
        torch.testing.assert_close(together.weights, alone.weights)


def test_a_lexicon_in_parts_has_the_gradient_of_the_whole_batch(
    tiny_bert: Path, texts: str, plan: Callable[..., Any], make_batch: Callable[..., Any], arguments: Callable[..., Any]
) -> None:
    ends = []
    for sub_batch in (64, 2):
        lexicon = LexiconChoice(texts=(texts,), language="english")
        model = TrainableModel.open(tiny_bert, new_heads=NewHeads(sparse=True, lexicon=lexicon))
        args = arguments(optim="sgd", learning_rate=0.1, max_grad_norm=0.0)
        objective = Objective(heads={"sparse": HeadLoss(temperature=0.1)})
        ModelTrainer(model, args, plan(make_batch(5, 3, sub_batch=sub_batch)), objective).train()
        assert model.model.sparse is not None
        ends.append({name: value.detach().clone() for name, value in model.model.sparse.named_parameters()})
    assert ends[0]["lexicon.log_k1"].item() != pytest.approx(np.log(1.2), abs=1e-6)
    assert ends[0]["lexicon.logit_b"].item() != pytest.approx(np.log(3.0), abs=1e-6)
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], atol=1e-6, rtol=1e-5)
