"""What goes in and comes out, and the names of the axes used in every shape comment.

texts      the caller's inputs, in the caller's order
tokens     all tokens of a packed batch, texts one after the other, without padding
hidden     the encoder's width
heads      attention heads; head_dim = hidden / heads
dim        components of a dense vector
token_dim  components of one token's vector in a multi-vector
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Output = Literal["dense", "sparse", "multi_vector"]
Role = Literal["query", "document"]

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """The non-zero terms of one text.

    Attributes:
        indices: int32 [terms], token ids, ascending and unique.
        values: float32 [terms], all above zero.
    """

    indices: Integers
    values: Floats

    def __len__(self) -> int:
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseVector):
            return NotImplemented
        return np.array_equal(self.indices, other.indices) and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.indices.tobytes(), self.values.tobytes()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encodings:
    """What a model made of a list of texts; every field is in the order of the texts.

    Attributes:
        dense: float32 [texts, dim], L2-normalised. None where not asked for.
        sparse: one SparseVector per text. None where not asked for.
        multi_vector: one float32 [tokens, token_dim] per text, rows L2-normalised. None where not asked for.
        truncated: bool [texts], True where the text was longer than max_length and its end was not read.
        token_counts: int32 [texts], tokens read, markers such as [CLS] included.
    """

    truncated: Bools
    token_counts: Integers
    dense: Floats | None = None
    sparse: Sequence[SparseVector] | None = None
    multi_vector: Sequence[Floats] | None = None

    def __len__(self) -> int:
        return len(self.truncated)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Similarity:
    """Scores of every query against every document, float32 [queries, documents] each.

    Attributes:
        dense: cosine. None where either side lacks the output; so below.
        sparse: dot product over shared terms.
        multi_vector: MaxSim.
        hybrid: weighted sum of those that are there.
    """

    hybrid: Floats
    dense: Floats | None = None
    sparse: Floats | None = None
    multi_vector: Floats | None = None


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranking.

    Attributes:
        index: its place in the list that was ranked.
        score: the reranker's raw logit; sort by this.
        relevance: its sigmoid, 0 to 1.
        truncated: the query or the document was too long and its end was not read.
    """

    index: int
    score: float
    relevance: float
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What must agree for two models' vectors to be comparable.

    Attributes:
        name: the hub id, folder or short name the model was loaded by; for people, not compared.
        revision: the hub's commit, where there is one; for people, not compared.
        fingerprint: SHA-256 over the weights, the tokenizer and every setting that changes a vector.
    """

    name: str
    revision: str | None
    fingerprint: str
