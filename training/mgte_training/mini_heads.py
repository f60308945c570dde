"""The embedded default's first heads: linear sparse and late-interaction heads on the frozen all-MiniLM-L6-v2.

    python -m mgte_training.mini_heads --data "$MGTE_DATA" --out mgte_rag/mini

Hidden states are computed once; the heads then train on them in minutes on two cores. The backbone is never touched, so
the dense output stays exactly all-MiniLM-L6-v2's. One seed decides everything.
"""

import argparse
import gzip
import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from mgte_rag import scoring
from mgte_rag.batching import plan_batches
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.checkpoints.loading import Checkpoint
from mgte_rag.config import HybridWeights, ModelConfig, MultiVectorConfig
from mgte_rag.nn.heads import MultiVectorHead, SparseHead
from mgte_rag.nn.packing import pack
from mgte_rag.token_rules import Inputs, TokenRules
from mgte_rag.types import Role

# Openly licensed English pairs: file, pairs taken. Documents that share words with a retrieval set are left out.
SOURCES = {"arxiv": 10_000, "medquad": 6_000, "msdocs": 8_000, "qamr": 8_000, "tldr": 2_000}
HELD_OUT = 0.05
LENGTH = 160
TOKEN_DIMS = (32, 64, 96, 128)
PUNCTUATION = tuple("""!"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~""")
BATCH = 128
LATE_BATCH = 48  # of each batch, for late interaction: its scores are token by token
EPOCHS = 3
LEARNING_RATE = 5e-3
SPARSE_TEMPERATURE = 0.2
MULTI_VECTOR_TEMPERATURE = 0.02
FIRST_SPARSE_BIAS = 0.3  # from zero, all weights may die at once
WEIGHTS_TRIED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)

MULTI_VECTOR = MultiVectorConfig(dims=TOKEN_DIMS, first_token=False, skipped=PUNCTUATION, mean=True)


@dataclass(frozen=True, slots=True)
class Side:
    """One side of all pairs, frozen.

    Attributes:
        hidden: bf16 [length, hidden] per text.
        ids: int64 [length] per text.
        terms: bool [length] per text, tokens that are terms.
        vectors: bool [length] per text, tokens that have a vector.
        dense: fp32 [texts, hidden], L2-normalised.
    """

    hidden: list[Tensor]
    ids: list[Tensor]
    terms: list[Tensor]
    vectors: list[Tensor]
    dense: Tensor


def main() -> None:
    """Train, choose the fusion weights on held-out pairs, write the heads and their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pairs/*.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder for heads.safetensors and config.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="share of the pairs, for a quick try")
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    evaluated = read_evaluated(options.data / "retrieval")
    pairs = {
        name: read_pairs(
            options.data / "pairs" / f"{name}.jsonl.gz", round(count * options.share), options.seed, evaluated
        )
        for name, count in SOURCES.items()
    }
    checkpoint = load_checkpoint(find_model(None))
    started = time.perf_counter()
    queries = encode(checkpoint, [query for source in pairs.values() for query, _ in source], "query")
    documents = encode(checkpoint, [document for source in pairs.values() for _, document in source], "document")
    _say(f"hidden states of {len(queries.ids):,} pairs: {time.perf_counter() - started:.0f} s")

    same = [hashlib.sha256(document.encode()).digest() for source in pairs.values() for _, document in source]
    train_sets, held_out_sets = split([len(source) for source in pairs.values()], same)
    sparse, multi_vector = train(queries, documents, train_sets, same, seed=options.seed)
    _say(f"trained: {time.perf_counter() - started:.0f} s")
    weights, figures = choose_weights(queries, documents, held_out_sets, same, sparse, multi_vector)
    sources = {name: len(source) for name, source in pairs.items()}
    write(options.out, sparse, multi_vector, weights, {"seed": options.seed, "sources": sources, "held_out": figures})
    _say(json.dumps(figures, indent=2))


def read_evaluated(folder: Path) -> set[str]:
    """The passages of ``_passages`` of every retrieval set's documents; empty where there is no such folder."""
    rows = (row for path in sorted(folder.glob("*/corpus.jsonl.gz")) for row in _read_lines(path))
    return {passage for row in rows for passage in _passages(row["text"])}


def _passages(text: str) -> Iterator[str]:
    """Every eight words in a row, or all of a shorter text."""
    words = text.split()
    for start in range(max(1, len(words) - 7)):
        yield " ".join(words[start : start + 8])


def read_pairs(path: Path, count: int, seed: int, evaluated: set[str]) -> list[tuple[str, str]]:
    """English pairs of query and positive, a seeded choice; none whose positive shares a passage with ``evaluated``."""
    pairs = [(row["query"], row["positive"]) for row in _read_lines(path) if row["language"] == "en"]
    chosen = random.Random(seed).sample(pairs, min(count, len(pairs)))
    return [(query, document) for query, document in chosen if evaluated.isdisjoint(_passages(document))]


def _read_lines(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def encode(checkpoint: Checkpoint, texts: Sequence[str], role: Role) -> Side:
    """The frozen backbone's hidden states and dense vectors of every text."""
    rules = TokenRules(_with_heads(checkpoint), checkpoint.tokenizer)
    inputs: Inputs = rules.read(texts, role, ("sparse", "multi_vector"), prompt="", max_length=LENGTH)
    assert inputs.sparse_tokens is not None, "asked for above"
    assert inputs.vector_tokens is not None, "asked for above"
    encoder = checkpoint.load_model(torch.device("cpu"), torch.bfloat16).encoder
    hidden: list[Tensor] = [torch.empty(0)] * len(texts)
    dense = torch.empty(len(texts), checkpoint.config.encoder.hidden)
    for indices in plan_batches([len(ids) for ids in inputs.ids], lambda: 8_192):
        with torch.inference_mode():
            batch = pack([inputs.ids[i] for i in indices], torch.device("cpu"))
            states = encoder(batch).split(batch.lengths.tolist())
        for index, rows in zip(indices, states, strict=True):
            hidden[index] = rows.bfloat16()
            dense[index] = F.normalize(rows.mean(0), dim=0)
    return Side(
        hidden=hidden,
        ids=[torch.from_numpy(ids).long() for ids in inputs.ids],
        terms=[torch.from_numpy(mask) for mask in inputs.sparse_tokens],
        vectors=[torch.from_numpy(mask) for mask in inputs.vector_tokens],
        dense=dense,
    )


def split(counts: Sequence[int], same: Sequence[bytes]) -> tuple[list[list[int]], list[list[int]]]:
    """Places of the training and of the held-out pairs, source by source.

    The document's hash decides, so that all pairs of a document are on one side.
    """
    train_sets, held_out_sets, start = [], [], 0
    for count in counts:
        places = range(start, start + count)
        held_out = [place for place in places if int.from_bytes(same[place][:4]) < HELD_OUT * 2**32]
        held_out_sets.append(held_out)
        kept_back = set(held_out)
        train_sets.append([place for place in places if place not in kept_back])
        start += count
    return train_sets, held_out_sets


def plan(train_sets: Sequence[Sequence[int]], seed: int) -> Iterator[list[int]]:
    """Batches of one source each, sources and pairs shuffled anew in every epoch."""
    chance = random.Random(seed)
    for _ in range(EPOCHS):
        batches = []
        for source in train_sets:
            places = chance.sample(list(source), len(source))
            batches += [places[i : i + BATCH] for i in range(0, len(places) - BATCH + 1, BATCH)]
        chance.shuffle(batches)
        yield from batches


def train(
    queries: Side, documents: Side, train_sets: Sequence[Sequence[int]], same: Sequence[bytes], *, seed: int
) -> tuple[SparseHead, MultiVectorHead]:
    """InfoNCE with in-batch negatives for each head; pairs with the same document are no negatives of each other."""
    width = documents.dense.shape[1]
    sparse = SparseHead(hidden=width)
    torch.nn.init.constant_(sparse.projection.bias, FIRST_SPARSE_BIAS)
    multi_vector = MultiVectorHead(hidden=width, dims=TOKEN_DIMS, sliced=False, bias=False)
    parameters = [*sparse.parameters(), *multi_vector.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    batches = list(plan(train_sets, seed))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches))
    for step, places in enumerate(batches):
        copies = find_copies(same, places)
        losses = [info_nce(sparse_scores(sparse, queries, documents, places, places), SPARSE_TEMPERATURE, copies)]
        late, late_copies = places[:LATE_BATCH], copies[:LATE_BATCH, :LATE_BATCH]
        losses += [
            info_nce(scores, MULTI_VECTOR_TEMPERATURE, late_copies)
            for scores in multi_vector_scores(multi_vector, queries, documents, late, late)
        ]
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(losses).sum())
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            _say(f"step {step}/{len(batches)}  " + "  ".join(f"{loss.item():.3f}" for loss in losses))
    return sparse.eval(), multi_vector.eval()


def find_copies(same: Sequence[bytes], places: Sequence[int]) -> Tensor:
    """Where another pair has the same document: bool [places, places], False on the diagonal."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(same[i] for i in places))}
    documents = torch.tensor([numbers[same[i]] for i in places])
    return (documents[:, None] == documents[None, :]).fill_diagonal_(False)


def info_nce(scores: Tensor, temperature: float, copies: Tensor) -> Tensor:
    """Cross-entropy of each query's own document among those of the batch, [batch, batch] -> scalar."""
    return F.cross_entropy((scores / temperature).masked_fill(copies, -torch.inf), torch.arange(len(scores)))


def sparse_scores(
    head: SparseHead, queries: Side, documents: Side, asked: Sequence[int], searched: Sequence[int]
) -> Tensor:
    """Sum of products over shared terms, fp32 [asked, searched]; as wide as the terms that occur, no wider."""
    terms = torch.unique(torch.cat([queries.ids[i][queries.terms[i]] for i in asked]))  # ascending
    return _term_weights(head, queries, asked, terms) @ _term_weights(head, documents, searched, terms).T


def _term_weights(head: SparseHead, side: Side, places: Sequence[int], terms: Tensor) -> Tensor:
    """The largest weight of every term in every text, fp32 [places, terms]."""
    ids = torch.cat([side.ids[i][side.terms[i]] for i in places])
    weights = head(torch.cat([side.hidden[i][side.terms[i]] for i in places]).float())
    rows = torch.repeat_interleave(torch.arange(len(places)), torch.tensor([int(side.terms[i].sum()) for i in places]))
    columns = torch.searchsorted(terms, ids).clamp(max=len(terms) - 1)
    wanted = terms[columns] == ids
    flat = torch.zeros(len(places) * len(terms))
    slots = rows[wanted] * len(terms) + columns[wanted]
    return flat.scatter_reduce(0, slots, weights[wanted], "amax").view(len(places), len(terms))


def multi_vector_scores(
    head: MultiVectorHead, queries: Side, documents: Side, asked: Sequence[int], searched: Sequence[int]
) -> Iterator[Tensor]:
    """Mean MaxSim for each of the head's sizes, fp32 [asked, searched]."""
    query_hidden, query_mask = _padded(queries, asked)
    document_hidden, document_mask = _padded(documents, searched)
    for size in TOKEN_DIMS:
        scores = scoring.max_sim(
            _projected(head, query_hidden, size), query_mask, _projected(head, document_hidden, size), document_mask
        )
        yield scores / query_mask.sum(1, keepdim=True).clamp(min=1)


def _projected(head: MultiVectorHead, hidden: Tensor, size: int) -> Tensor:
    """Token vectors of padded texts, fp32 [texts, longest, size]."""
    vectors: Tensor = head(hidden.flatten(0, 1), size)
    return vectors.view(*hidden.shape[:2], size)


def _padded(side: Side, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Hidden states of the tokens that have a vector, fp32 [places, longest, hidden], and their mask."""
    kept = [side.hidden[i][side.vectors[i]].float() for i in places]
    hidden = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
    return hidden, torch.arange(hidden.shape[1]) < torch.tensor([len(rows) for rows in kept])[:, None]


@torch.inference_mode()
def choose_weights(
    queries: Side,
    documents: Side,
    held_out: Sequence[Sequence[int]],
    same: Sequence[bytes],
    sparse: SparseHead,
    multi_vector: MultiVectorHead,
) -> tuple[HybridWeights, dict[str, dict[str, float]]]:
    """The factors beside the dense score with the best mean reciprocal rank on held-out pairs, and all figures."""
    scores, copies = [], []
    for places in held_out:
        copies.append(find_copies(same, places))
        late = list(multi_vector_scores(multi_vector, queries, documents, places, places))
        scores.append(
            {
                "dense": scoring.cosine(queries.dense[places], documents.dense[places]),
                "sparse": sparse_scores(sparse, queries, documents, places, places),
                **{f"multi_vector_{size}": late[i] for i, size in enumerate(TOKEN_DIMS)},
            }
        )
    best = max(
        ((s, m) for s in WEIGHTS_TRIED for m in WEIGHTS_TRIED),
        key=lambda w: np.mean([_mrr(_hybrid(each, *w), twins) for each, twins in zip(scores, copies, strict=True)]),
    )
    figures = {
        name: {
            **{output: round(_mrr(matrix, twins), 4) for output, matrix in each.items()},
            "dense + sparse": round(_mrr(_hybrid(each, best[0], 0.0), twins), 4),
            "hybrid": round(_mrr(_hybrid(each, *best), twins), 4),
        }
        for name, each, twins in zip(SOURCES, scores, copies, strict=True)
    }
    return HybridWeights(dense=1.0, sparse=best[0], multi_vector=best[1]), figures


def _hybrid(scores: dict[str, Tensor], sparse: float, multi_vector: float) -> Tensor:
    return scores["dense"] + sparse * scores["sparse"] + multi_vector * scores[f"multi_vector_{TOKEN_DIMS[-1]}"]


def _mrr(scores: Tensor, copies: Tensor) -> float:
    """Mean reciprocal rank of each row's diagonal element, ties counted against it, copies of it not at all."""
    ranks = ((scores >= scores.diagonal()[:, None]) & ~copies).sum(1)
    return float((1.0 / ranks).mean())


def write(
    folder: Path, sparse: SparseHead, multi_vector: MultiVectorHead, weights: HybridWeights, recipe: dict[str, object]
) -> None:
    """heads.safetensors, and config.json with the switches that go with them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"sparse.{name}": tensor for name, tensor in sparse.state_dict().items()}
    tensors |= {f"multi_vector.{name}": tensor for name, tensor in multi_vector.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "heads.safetensors")
    config = {"sparse": True, "multi_vector": asdict(MULTI_VECTOR), "weights": asdict(weights)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")


def _with_heads(checkpoint: Checkpoint) -> ModelConfig:
    return replace(checkpoint.config, sparse=True, multi_vector=MULTI_VECTOR)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command line program


if __name__ == "__main__":
    main()
