"""What a collection takes and gives back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mgte_rag import Encodings, InvalidDocumentError, ModelIdentity
from mgte_rag.types import Floats, Integers, Output, Role


class EncodingModel(Protocol):
    """What a collection needs of a model; ``mgte_rag.EmbeddingModel`` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """What makes two models' vectors comparable."""

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What it can return."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes of the dense vector; the last is the default."""

    @property
    def token_dims(self) -> tuple[int, ...]:
        """Sizes of a token's vector; the last is the default."""

    @property
    def max_length(self) -> int:
        """Tokens read of one text at most, markers and prompt included."""

    @property
    def prompts(self) -> Mapping[Role, str]:
        """Text put before every text of that role."""

    def encode_query(
        self,
        texts: str | Iterable[str],
        /,
        *,
        outputs: Sequence[Output] | None,
        dim: int | None,
        token_dim: int | None,
    ) -> Encodings:
        """Vectors of questions."""

    def encode_document(
        self,
        texts: str | Iterable[str],
        /,
        *,
        outputs: Sequence[Output] | None,
        dim: int | None,
        token_dim: int | None,
    ) -> Encodings:
        """Vectors of documents, all outputs from one forward pass."""

    def token_offsets(self, texts: str | Iterable[str], /) -> Sequence[Integers]:
        """Where the tokens of documents are, int32 [tokens, 2] per text; more than ``max_length`` of them are cut."""


class ScoringModel(Protocol):
    """What reranking needs of a cross-encoder; ``mgte_rag.Reranker`` is one."""

    def score(self, pairs: Sequence[tuple[str, str]], /) -> Floats:
        """A logit for each pair of query and document, higher is better."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it was stored, put together again from its pieces."""

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result: a document, or one piece of a document that was split.

    Attributes:
        id: the document's id.
        text: its text, or the piece's.
        metadata: the document's metadata.
        score: of the last stage of the search, higher is better.
        scores: of the last stage, by its name; of every stage with ``all_scores=True``.
        chunk_no: which piece of the document this is, from 0.
        chunks: pieces of the document; 1 where it is whole.
        start: where in the document's text the piece starts, in characters.
        relevance: the score as 0 to 1: the sigmoid of a cross-encoder's logit, MaxSim divided by the query's tokens,
            or the cosine of dense vectors. None where the score says nothing by itself: fused, sparse, MMR.
    """

    id: str
    text: str
    metadata: Mapping[str, Any]
    score: float
    scores: Mapping[str, float]
    chunk_no: int = 0
    chunks: int = 1
    start: int = 0
    relevance: float | None = None

    @property
    def chunk_id(self) -> str:
        """A name for the piece, "id#3"; the document's id where it is whole."""
        return self.id if self.chunks == 1 else f"{self.id}#{self.chunk_no}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A document that was not stored.

    Attributes:
        position: its place among the documents given, from 0.
        id: its id as text, None where it has none.
        reason: what is wrong with it and what is allowed.
    """

    position: int
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReport:
    """What became of the documents given; written + unchanged + rejected is all of them.

    Attributes:
        written: documents stored, new or changed.
        unchanged: documents that were already there with the same text and metadata; not encoded again.
        rejected: documents that cannot be stored, with reasons.
        truncated: ids of those written whose text is longer than the model reads and was not split: their end cannot
            be found.
        metadata_only: how many of those written had only new metadata; not encoded again.
        chunks: pieces encoded; more than documents where some were split.
        tokens: tokens encoded.
    """

    written: int
    unchanged: int
    rejected: tuple[Rejection, ...] = ()
    truncated: tuple[str, ...] = ()
    metadata_only: int = 0
    chunks: int = 0
    tokens: int = 0

    def raise_for_rejected(self) -> None:
        """Turn rejections into an error, for callers that must not lose a document.

        Raises:
            InvalidDocumentError: with the first reasons; all other documents were stored.
        """
        if self.rejected:
            reasons = "; ".join(f"documents[{r.position}]: {r.reason}" for r in self.rejected[:3])
            raise InvalidDocumentError(
                f"{len(self.rejected)} of {self.written + self.unchanged + len(self.rejected)} documents were not "
                f"stored, the others were: {reasons}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What ``copy_to`` did.

    Attributes:
        copied: points written; a document that was split is several.
        already_there: points that were there unchanged.
        checksum: SHA-256 over ids and payloads, the same on both sides.
    """

    copied: int
    already_there: int
    checksum: str
