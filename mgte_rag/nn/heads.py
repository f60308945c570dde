"""Hidden states to vectors and scores. Every head computes in fp32."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgte_rag.config import Activation, Pooling
from mgte_rag.nn.linear import Linear
from mgte_rag.nn.packing import PackedBatch

_ORDINARY_LENGTH = 100.0  # tokens; BM25 takes the average of its collection, which a model does not know


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
    """What a sparse head knows of every token of the vocabulary apart from the text it stands in, and how it counts.

    Args:
        vocabulary: how many tokens there are.

    Attributes:
        weight: fp32 [vocabulary], what a term counts by itself, as inverse document frequency does.
        term: int32 [vocabulary], the term that a token is a form of: the smallest token of the same stem.
        log_k1: fp32 scalar, the logarithm of BM25's k1: how much it matters how often a document has a term.
        logit_b: fp32 scalar, the logit of BM25's b: how much a document's length matters.

    Source: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework, section 3.4 (counting). The rest is this
    project's own.
    """

    term: Tensor

    def __init__(self, *, vocabulary: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocabulary))
        self.log_k1 = nn.Parameter(torch.tensor(math.log(1.2)))
        self.logit_b = nn.Parameter(torch.tensor(math.log(0.75 / 0.25)))
        self.register_buffer("term", torch.arange(vocabulary, dtype=torch.int32))

    def counted(self, times: Tensor, lengths: Tensor, asked: Tensor) -> Tensor:
        """What it counts that a text has a term so many times: in a query that often, in a document BM25's share.

        Args:
            times: int64 [terms].
            lengths: int64 [terms], the tokens of the text that each is in.
            asked: bool [terms], whether that text is a query.

        Returns:
            fp32 [terms]; 1 for a term that a document of ordinary length has once.
        """
        k1, b = self.log_k1.exp(), self.logit_b.sigmoid()
        saturated = times * (1 + k1) / (times + k1 * (1 - b + b * lengths / _ORDINARY_LENGTH))
        return torch.where(asked, times, saturated)


class SparseHead(nn.Module):
    """A weight for every token of a text, and from them one for every term.

    Args:
        hidden: width of the residual stream.
        vocabulary: tokens of its lexicon; 0 is no lexicon: every token is a term, and its state alone decides.

    Source: BGE-M3, arXiv 2402.03216, section 3.2; mGTE, arXiv 2407.19669 (a term counts as its strongest token).
    """

    def __init__(self, *, hidden: int, vocabulary: int = 0) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden, 1)
        self.lexicon = Lexicon(vocabulary=vocabulary) if vocabulary else None

    def forward(self, hidden: Tensor, ids: Tensor, texts: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The weight of every term of every text: its strongest token's, with a lexicon times how often it is there.

        Args:
            hidden: fp32 [tokens, hidden].
            ids: int64 [tokens].
            texts: int64 [tokens], the text of each token.
            asked: bool [texts], which of them are queries; the others are documents.

        Returns:
            Of all terms, ascending by text and then by term: text, int64 [terms]; term, int64 [terms]; weight, fp32
            [terms], none below 0 and many at 0.
        """
        weights = self.projection(hidden).squeeze(-1)
        if self.lexicon is not None:
            ids = self.lexicon.term[ids].long()
            weights = weights + self.lexicon.weight[ids]
        vocabulary = int(ids.max()) + 1 if len(ids) else 1
        keys, places, times = torch.unique(texts * vocabulary + ids, return_inverse=True, return_counts=True)  # sorted
        strongest = torch.zeros(len(keys), device=weights.device).scatter_reduce(0, places, F.relu(weights), "amax")
        texts_of, terms = keys // vocabulary, keys % vocabulary
        if self.lexicon is not None:
            lengths = torch.bincount(texts, minlength=len(asked))[texts_of]
            strongest = strongest * self.lexicon.counted(times, lengths, asked[texts_of])
        return texts_of, terms, strongest


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
