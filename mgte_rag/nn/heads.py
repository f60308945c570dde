"""Hidden states to vectors and scores. Every head computes in fp32."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgte_rag.config import Activation, Pooling
from mgte_rag.nn.linear import Linear
from mgte_rag.nn.packing import PackedBatch


def pool(hidden: Tensor, batch: PackedBatch, how: Pooling) -> Tensor:
    """One hidden state per text.

    Args:
        hidden: fp32 [tokens, hidden].
        batch: the texts' places on the token axis.
        how: "cls", the first token, or "mean", over all tokens of the text, markers included.

    Returns:
        fp32 [texts, hidden].
    """
    if how == "cls":
        starts = batch.lengths.cumsum(0) - batch.lengths
        return hidden[starts]
    return torch.cat([hidden[run.tokens].unflatten(0, (run.texts, run.length)).mean(1) for run in batch.runs])


def dense(pooled: Tensor, dim: int) -> Tensor:
    """The first ``dim`` components, L2-normalised after the cut: fp32 [texts, hidden] -> fp32 [texts, dim].

    Source: Kusupati et al. 2022, arXiv 2205.13147 (Matryoshka prefixes are renormalised for retrieval).
    """
    return F.normalize(pooled[:, :dim], dim=-1)


class Lexicon(nn.Module):
    """What a sparse head knows of every token of the vocabulary apart from the text it stands in.

    Args:
        vocabulary: how many tokens there are.

    Attributes:
        weight: fp32 [vocabulary], what a term counts by itself, as inverse document frequency does.
        term: int32 [vocabulary], the term that a token is a form of: the smallest token of the same stem.
    """

    term: Tensor

    def __init__(self, *, vocabulary: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocabulary))
        self.register_buffer("term", torch.arange(vocabulary, dtype=torch.int32))


class SparseHead(nn.Module):
    """A weight for every token of a text, and from them one for every term.

    Args:
        hidden: width of the residual stream.
        vocabulary: tokens of its lexicon; 0 is no lexicon: every token is a term, and its state alone decides.

    Source: BGE-M3, arXiv 2402.03216, section 3.2; mGTE, arXiv 2407.19669. The lexicon is this project's own.
    """

    def __init__(self, *, hidden: int, vocabulary: int = 0) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden, 1)
        self.lexicon = Lexicon(vocabulary=vocabulary) if vocabulary else None

    def terms(self, ids: Tensor) -> Tensor:
        """The term of each token: int64 [tokens] -> int64 [tokens]."""
        return ids if self.lexicon is None else self.lexicon.term[ids].long()

    def forward(self, hidden: Tensor, terms: Tensor) -> Tensor:
        """Fp32 [tokens, hidden] and their terms, int64 [tokens] -> weights, fp32 [tokens], none below 0."""
        weights = self.projection(hidden).squeeze(-1)
        return F.relu(weights if self.lexicon is None else weights + self.lexicon.weight[terms])


def strongest_terms(weights: Tensor, ids: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest weight of every term of every text; weights of 0 are left out.

    Args:
        weights: fp32 [tokens].
        ids: int64 [tokens], the terms.
        texts: int64 [tokens], the text of each token.

    Returns:
        Of all terms found, ascending by text and then by term: text, int64 [terms]; term, int64 [terms]; weight, fp32.
    """
    positive = weights > 0
    weights, ids, texts = weights[positive], ids[positive], texts[positive]
    vocabulary = int(ids.max()) + 1 if len(ids) else 1
    keys, places = torch.unique(texts * vocabulary + ids, return_inverse=True)  # sorted
    strongest = torch.zeros(len(keys), device=weights.device).scatter_reduce(0, places, weights, "amax")
    return keys // vocabulary, keys % vocabulary, strongest


class MultiVectorHead(nn.Module):
    """A vector for every token.

    Args:
        hidden: width of the residual stream.
        dims: sizes that a vector may have, ascending.
        sliced: one projection to the largest size whose first components are the smaller ones; else one for each.
        bias: whether the projections have a bias.

    Source: Khattab and Zaharia 2020, arXiv 2004.12832, section 3.2; Jina-ColBERT-v2, arXiv 2408.16672, section 3.
    """

    def __init__(self, *, hidden: int, dims: Sequence[int], sliced: bool, bias: bool) -> None:
        super().__init__()
        self.sliced = sliced
        sizes = dims[-1:] if sliced else dims
        self.projections = nn.ModuleDict({str(size): Linear(hidden, size, bias=bias) for size in sizes})

    def forward(self, hidden: Tensor, token_dim: int) -> Tensor:
        """Fp32 [tokens, hidden] -> fp32 [tokens, token_dim], rows L2-normalised after the cut."""
        projection = next(iter(self.projections.values())) if self.sliced else self.projections[str(token_dim)]
        return F.normalize(projection(hidden)[:, :token_dim], dim=-1)


class ClassifierHead(nn.Module):
    """A pooled hidden state to one logit.

    Args:
        hidden: width of the residual stream.
        activation: after the first projection.
        bias: whether the first projection has a bias.
        norm_eps: epsilon of the layer norm after the activation; None is no norm.
        norm_bias: whether that norm has a bias.
    """

    def __init__(
        self, *, hidden: int, activation: Activation, bias: bool, norm_eps: float | None, norm_bias: bool
    ) -> None:
        super().__init__()
        self.activation = activation
        self.dense = Linear(hidden, hidden, bias=bias)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(hidden, eps=norm_eps, bias=norm_bias)
        self.out = nn.Linear(hidden, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        """Fp32 [texts, hidden] -> raw logits, fp32 [texts]."""
        inner = self.dense(pooled)
        inner = torch.tanh(inner) if self.activation == "tanh" else F.gelu(inner)
        return self.out(self.norm(inner)).squeeze(-1)


class LanguageHead(nn.Module):
    """Which token a masked one was; the output table is the word embeddings'.

    Args:
        hidden: width of the residual stream.
        vocabulary: rows of the word embedding table.
        norm_eps: epsilon of the layer norm.

    Source: Devlin et al. 2019, arXiv 1810.04805, section 3.1.
    """

    def __init__(self, *, hidden: int, vocabulary: int, norm_eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Fp32 [tokens, hidden] and the word table [vocabulary, hidden] -> logits, fp32 [tokens, vocabulary]."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), words.float(), self.bias)
