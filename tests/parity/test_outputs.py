"""Dense, sparse and token vectors against the published conventions, written out naively."""

import asyncio
import json
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sentence_transformers import MultiVectorEncoder
from tokenizers import Tokenizer

from mgte_rag import EmbeddingModel, InvalidOptionError, UnsupportedOutputError

TEXTS = [
    "the cat sat on the mat.",
    "a dog ran, then sat!",
    "",
    "cat",
    "the dog and the cat under the tree " * 4,
    "猫 xyz",
]
ALL = ("dense", "sparse", "multi_vector")


def encode_ids(case: Any, text: str) -> np.ndarray:
    tokenizer = Tokenizer.from_file(str(case.folder / "tokenizer.json"))
    return np.array(tokenizer.encode(text).ids, dtype=np.int32)


def strongest(ids: np.ndarray, weights: torch.Tensor, dropped: set[int]) -> dict[int, float]:
    """The released scripts' loop: the largest positive weight of every id that is no marker."""
    found: dict[int, float] = {}
    for index, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        if index not in dropped and weight > 0:
            found[index] = max(found.get(index, 0.0), weight)
    return found


def assert_sparse_equal(vector: Any, expected: dict[int, float]) -> None:
    assert vector.indices.dtype == np.int32
    assert vector.values.dtype == np.float32
    assert vector.indices.tolist() == sorted(expected)
    np.testing.assert_allclose(vector.values, [expected[i] for i in sorted(expected)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [32, 64, None])
def test_mgte_dense_vectors_are_the_first_tokens_state_cut_and_then_normalised(
    published: Callable[[str], Any], dim: int | None
) -> None:
    case = published("gte-multilingual-base")
    states = case.hidden([encode_ids(case, text) for text in TEXTS])
    expected = F.normalize(torch.stack([state[0, : dim or 64] for state in states]), dim=-1)
    with EmbeddingModel.load(str(case.folder), dtype="float32") as model:
        np.testing.assert_allclose(model.encode_document(TEXTS, dim=dim).dense, expected, atol=1e-5)


def test_mgte_sparse_weights_equal_the_token_classifiers(published: Callable[[str], Any]) -> None:
    case = published("gte-multilingual-base")
    ids = [encode_ids(case, text) for text in TEXTS]
    logits = case.logits(ids)
    with EmbeddingModel.load(str(case.folder), dtype="float32") as model:
        vectors = model.encode_document(TEXTS, outputs=["sparse"]).sparse
    for vector, row, row_ids in zip(vectors, logits, ids, strict=True):
        assert_sparse_equal(vector, strongest(row_ids, F.relu(row[: len(row_ids), 0]), {0, 1, 2, 3}))
    assert sum(map(len, vectors)) > 10


def test_bge_m3_gives_all_three_outputs_as_flagembedding_does(published: Callable[[str], Any]) -> None:
    case = published("bge-m3")
    heads = {name: torch.load(case.folder / f"{name}_linear.pt") for name in ("sparse", "colbert")}
    ids = [encode_ids(case, text) for text in TEXTS]
    with EmbeddingModel.load(str(case.folder), dtype="float32") as model:
        encoded = model.encode_document(TEXTS, outputs=ALL)
    for i, state in enumerate(case.hidden(ids)):
        project = {name: F.linear(state, h["weight"].float(), h["bias"].float()) for name, h in heads.items()}
        np.testing.assert_allclose(encoded.dense[i], F.normalize(state[0], dim=-1), atol=1e-5)
        assert_sparse_equal(encoded.sparse[i], strongest(ids[i], F.relu(project["sparse"][:, 0]), {0, 1, 2, 3}))
        np.testing.assert_allclose(encoded.multi_vector[i], F.normalize(project["colbert"][1:], dim=-1), atol=1e-5)


def late_interaction_ids(case: Any, text: str, role: str) -> np.ndarray:
    """Ids with the role's marker in second place."""
    markers = {"gte": ("[Q] ", "[D] "), "jina": ("[QueryMarker]", "[DocumentMarker]")}
    query, document = markers["jina" if "jina" in case.folder.name else "gte"]
    tokenizer = Tokenizer.from_file(str(case.folder / "tokenizer.json"))
    ids = tokenizer.encode(text).ids
    return np.array([ids[0], tokenizer.token_to_id(query if role == "query" else document), *ids[1:]], dtype=np.int32)


def projected(case: Any, states: torch.Tensor) -> torch.Tensor:
    head = case.folder / "1_Dense" / "model.safetensors"
    weight = load_file(head if head.exists() else case.folder / "model.safetensors")["linear.weight"]
    return F.normalize(F.linear(states, weight), dim=-1)


@pytest.mark.parametrize(
    ("name", "attend"),
    [
        ("jina-colbert-v2", None),
        ("jina-colbert-v2", False),
        ("jina-colbert-without-a-base", None),
        ("GTE-ModernColBERT-v1", None),
        ("GTE-ModernColBERT-v1", True),
    ],
)
def test_queries_are_filled_up_with_mask_tokens_to_32_vectors(
    published: Callable[[str], Any], name: str, attend: bool | None
) -> None:
    case = published(name)
    tokenizer = Tokenizer.from_file(str(case.folder / "tokenizer.json"))
    mask = tokenizer.token_to_id("<mask>") or tokenizer.token_to_id("[MASK]")
    attends = attend if attend is not None else "jina" in name
    with EmbeddingModel.load(str(case.folder), dtype="float32", attend_to_mask=attend) as model:
        ours = model.encode_query(["the cat sat", "猫"], outputs=["multi_vector"]).multi_vector
    for text, rows in zip(["the cat sat", "猫"], ours, strict=True):
        real = late_interaction_ids(case, text, "query")
        ids = torch.tensor([[*real, *[mask] * (32 - len(real))]])
        attention = torch.ones_like(ids) if attends else (torch.arange(32) < len(real)).long()[None]
        with torch.inference_mode():
            states = case.reference(input_ids=ids, attention_mask=attention).last_hidden_state[0]
        assert rows.shape == (32, 32)
        np.testing.assert_allclose(rows, projected(case, states), atol=1e-5)


@pytest.mark.parametrize("name", ["jina-colbert-v2", "GTE-ModernColBERT-v1"])
def test_documents_have_a_marker_and_no_vector_for_punctuation(published: Callable[[str], Any], name: str) -> None:
    case = published(name)
    tokenizer = Tokenizer.from_file(str(case.folder / "tokenizer.json"))
    punctuation = {tokenizer.token_to_id(mark) for mark in string.punctuation}
    ids = [late_interaction_ids(case, text, "document") for text in TEXTS]
    with EmbeddingModel.load(str(case.folder), dtype="float32") as model:
        assert model.outputs == ("multi_vector",)
        assert model.token_dims == (32,)
        ours = model.encode_document(TEXTS).multi_vector
    for rows, row_ids, states in zip(ours, ids, case.hidden(ids), strict=True):
        kept = [i for i, index in enumerate(row_ids.tolist()) if index not in punctuation]
        np.testing.assert_allclose(rows, projected(case, states)[kept], atol=1e-5)
    assert len(ours[0]) < len(ids[0])


def test_pylates_layout_gives_the_vectors_that_sentence_transformers_gives(copy_of: Callable[..., Any]) -> None:
    folder = copy_of("GTE-ModernColBERT-v1").folder
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    content = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    peer = MultiVectorEncoder(str(folder), device="cpu")
    with EmbeddingModel.load(str(folder), dtype="float32") as model:
        queries, documents = (encode(TEXTS).multi_vector for encode in (model.encode_query, model.encode_document))
    theirs = [*peer.encode_query(TEXTS), *peer.encode_document(TEXTS)]
    for rows, expected in zip([*queries, *documents], theirs, strict=True):
        np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_a_query_longer_than_32_tokens_is_cut_unless_max_length_says_otherwise(published: Callable[[str], Any]) -> None:
    case = published("jina-colbert-v2")
    with EmbeddingModel.load(str(case.folder)) as model:
        usual = model.encode_query("the cat sat " * 30)
        longer = model.encode_query("the cat sat " * 30, max_length=60)
        shorter = model.encode_query("the cat sat " * 30, max_length=10)
    assert [len(e.multi_vector[0]) for e in (usual, longer, shorter)] == [32, 60, 32]
    assert usual.truncated[0]
    assert longer.truncated[0]


@pytest.mark.parametrize(
    ("name", "query_prompt", "document_prompt"),
    [
        ("bge-small-en-v1.5", "Represent this sentence for searching relevant passages: ", ""),
        ("multilingual-e5-base", "query: ", "passage: "),
        ("gte-multilingual-base", "", ""),
        ("bge-m3", "", ""),
    ],
)
def test_prompts_are_those_the_model_was_published_with(
    published: Callable[[str], Any], name: str, query_prompt: str, document_prompt: str
) -> None:
    with EmbeddingModel.load(str(published(name).folder), dtype="float32") as model:
        assert model.prompts == {"query": query_prompt, "document": document_prompt}
        by_hand = model.encode_document(query_prompt + "the cat", prompt="").dense
        np.testing.assert_allclose(model.encode_query("the cat").dense, by_hand, atol=1e-6)


@pytest.mark.parametrize("prompt", ["query: ", "the tree and the ", "a query "])
def test_prompt_tokens_have_neither_terms_nor_vectors_of_their_own(
    published: Callable[[str], Any], prompt: str
) -> None:
    case = published("bge-m3")
    with EmbeddingModel.load(str(case.folder), dtype="float32") as model:
        whole = model.encode_document(prompt + "cat sat", outputs=ALL, prompt="")
        prompted = model.encode_document("cat sat", outputs=ALL, prompt=prompt)
        bare = model.encode_document("cat sat", outputs=ALL)
    np.testing.assert_allclose(prompted.dense, whole.dense, atol=1e-6)
    assert set(prompted.sparse[0].indices) <= set(bare.sparse[0].indices)
    assert len(prompted.multi_vector[0]) == len(bare.multi_vector[0])
    np.testing.assert_allclose(prompted.multi_vector[0], whole.multi_vector[0][-3:], atol=1e-6)


def test_all_outputs_come_from_one_forward_pass(published: Callable[[str], Any]) -> None:
    with EmbeddingModel.load(str(published("bge-m3").folder), dtype="float32") as model:
        encoded = model.encode_document(TEXTS, outputs=ALL)
        assert model.forwards == 1
    assert encoded.dense is not None
    assert len(encoded.sparse) == len(encoded.multi_vector) == len(TEXTS)


@pytest.mark.parametrize(
    "name",
    [
        "gte-multilingual-base",
        "bge-small-en-v1.5",
        "bge-m3",
        "jina-colbert-v2",
        "GTE-ModernColBERT-v1",
        "gte-modernbert-base",
    ],
)
@pytest.mark.parametrize("role", ["query", "document"])
def test_order_batch_size_and_token_budget_change_nothing(
    published: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str, role: str
) -> None:
    with EmbeddingModel.load(str(published(name).folder), dtype="float32") as model:
        encode = getattr(model, f"encode_{role}")
        together = encode(TEXTS, outputs=model.outputs)
        backwards = encode(TEXTS[::-1], outputs=model.outputs)
        alone = [encode(text, outputs=model.outputs) for text in TEXTS]
        monkeypatch.setattr(model._engine, "_token_budget", 12)
        in_many_batches = encode(TEXTS, outputs=model.outputs)
        for i in range(len(TEXTS)):
            for other, j in ((backwards, -1 - i), (alone[i], 0), (in_many_batches, i)):
                assert_same_encoding(together, i, other, j)


def assert_same_encoding(a: Any, i: int, b: Any, j: int) -> None:
    assert a.token_counts[i] == b.token_counts[j]
    if a.dense is not None:
        np.testing.assert_allclose(a.dense[i], b.dense[j], atol=1e-5)
    if a.sparse is not None:
        assert a.sparse[i].indices.tolist() == b.sparse[j].indices.tolist()
        np.testing.assert_allclose(a.sparse[i].values, b.sparse[j].values, atol=1e-5)
    if a.multi_vector is not None:
        np.testing.assert_allclose(a.multi_vector[i], b.multi_vector[j], atol=1e-5)


def test_no_texts_give_empty_results_and_an_empty_text_no_terms(published: Callable[[str], Any]) -> None:
    with EmbeddingModel.load(str(published("bge-m3").folder)) as model:
        nothing = model.encode_document([], outputs=ALL)
        empty = model.encode_document("", outputs=ALL)
    assert nothing.dense.shape == (0, 64)
    assert nothing.sparse == nothing.multi_vector == []
    assert len(empty.sparse[0]) == 0
    assert empty.multi_vector[0].shape == (1, 64)
    assert np.isfinite(empty.dense).all()


def test_one_token_texts_score_against_empty_ones(published: Callable[[str], Any]) -> None:
    with EmbeddingModel.load(str(published("bge-m3").folder)) as model:
        similarity = model.similarity(model.encode_query("cat", outputs=ALL), model.encode_document("", outputs=ALL))
    assert similarity.sparse[0, 0] == 0
    assert np.isfinite(similarity.hybrid).all()


def test_hybrid_scores_use_the_published_weights_unless_others_are_given(published: Callable[[str], Any]) -> None:
    with EmbeddingModel.load(str(published("gte-multilingual-base").folder), dtype="float32") as model:
        q, d = (encode(TEXTS, outputs=model.outputs) for encode in (model.encode_query, model.encode_document))
        s = model.similarity(q, d)
        np.testing.assert_allclose(s.hybrid, s.dense + 0.1 * s.sparse, rtol=1e-5)
        own = model.similarity(q, d, weights={"sparse": 2.0})
        np.testing.assert_allclose(own.hybrid, 2 * s.sparse, rtol=1e-5)
    with EmbeddingModel.load(str(published("bge-m3").folder), dtype="float32") as model:
        q, d = (encode(TEXTS, outputs=ALL) for encode in (model.encode_query, model.encode_document))
        s = model.similarity(q, d)
        np.testing.assert_allclose(s.hybrid, (s.dense + s.sparse + s.multi_vector) / 3, rtol=1e-5)


@pytest.mark.parametrize(("name", "divided"), [("bge-m3", True), ("jina-colbert-v2", False)])
def test_max_sim_is_a_mean_for_bge_m3_and_a_sum_for_colbert(
    published: Callable[[str], Any], name: str, divided: bool
) -> None:
    with EmbeddingModel.load(str(published(name).folder), dtype="float32") as model:
        q = model.encode_query("the cat sat", outputs=["multi_vector"])
        d = model.encode_document(["a dog ran", "the mat"], outputs=["multi_vector"])
        scores = model.similarity(q, d).multi_vector
    by_hand = [(q.multi_vector[0] @ rows.T).max(1).sum() for rows in d.multi_vector]
    np.testing.assert_allclose(scores[0], np.array(by_hand) / (len(q.multi_vector[0]) if divided else 1), rtol=1e-5)


def test_a_sparse_vector_can_be_read_as_tokens_heaviest_first(published: Callable[[str], Any]) -> None:
    with EmbeddingModel.load(str(published("bge-m3").folder), dtype="float32") as model:
        vector = model.encode_document(TEXTS[4], outputs=["sparse"]).sparse[0]
        tokens = model.tokens(vector)
    assert {token for token, _ in tokens} <= {"▁the", "▁dog", "▁and", "▁cat", "▁under", "▁tree", "▁"}
    assert [weight for _, weight in tokens] == sorted(vector.values.tolist(), reverse=True)


@pytest.mark.parametrize("dim", [0, 33, 65, 768, True])
def test_a_size_the_model_was_not_trained_for_is_an_error_listing_those_it_was(
    published: Callable[[str], Any], dim: int
) -> None:
    with (
        EmbeddingModel.load(str(published("gte-multilingual-base").folder)) as model,
        pytest.raises(InvalidOptionError, match="allows 32, 64"),
    ):
        model.encode_query("cat", dim=dim)


def test_a_token_size_without_a_head_is_an_error(published: Callable[[str], Any]) -> None:
    with EmbeddingModel.load(str(published("bge-m3").folder)) as model:
        with pytest.raises(InvalidOptionError, match=r"token_dim=32.*allows 64"):
            model.encode_query("cat", outputs=["multi_vector"], token_dim=32)
        with pytest.raises(UnsupportedOutputError, match="dense, sparse, multi_vector"):
            model.encode_query("cat", outputs=["no such"])


def test_attention_to_mask_tokens_is_an_error_for_a_model_without_them(published: Callable[[str], Any]) -> None:
    with pytest.raises(InvalidOptionError, match="does not fill its queries"):
        EmbeddingModel.load(str(published("bge-m3").folder), attend_to_mask=False)


@pytest.mark.parametrize("name", ["gte-multilingual-base", "bge-m3", "jina-colbert-v2", "gte-modernbert-base"])
def test_bf16_stays_close_to_fp32(published: Callable[[str], Any], name: str) -> None:
    folder = str(published(name).folder)
    with EmbeddingModel.load(folder, dtype="float32") as a, EmbeddingModel.load(folder, dtype="bfloat16") as b:
        exact, fast = (model.encode_document(TEXTS[:2], outputs=a.outputs) for model in (a, b))
    if exact.dense is not None:
        assert (exact.dense * fast.dense).sum(1).min() > 0.999
    for rows, fast_rows in zip(exact.multi_vector or [], fast.multi_vector or [], strict=True):
        assert (rows * fast_rows).sum(1).min() > 0.99


async def test_async_methods_give_all_outputs(published: Callable[[str], Any]) -> None:
    with EmbeddingModel.load(str(published("bge-m3").folder), dtype="float32") as model:
        several = await asyncio.gather(*(model.aencode_query(text, outputs=ALL) for text in TEXTS))
        for text, encoded in zip(TEXTS, several, strict=True):
            assert_same_encoding(encoded, 0, model.encode_query(text, outputs=ALL), 0)
