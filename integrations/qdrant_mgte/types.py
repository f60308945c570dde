"""What a collection takes and gives back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mgte_rag import Encodings, InvalidDocumentError, ModelIdentity
from mgte_rag.types import Output


class EncodingModel(Protocol):
    """What a collection needs of a model; ``mgte_rag.EmbeddingModel`` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """What makes two models' vectors comparable."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes of the dense vector; the last is the default."""

    def encode_query(self, texts: str | Iterable[str], /, *, outputs: Sequence[Output] | None) -> Encodings:
        """Vectors of questions."""

    def encode_document(self, texts: str | Iterable[str], /, *, outputs: Sequence[Output] | None) -> Encodings:
        """Vectors of documents."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it was stored."""

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    Attributes:
        id: the document's id.
        text: its text.
        metadata: its metadata.
        score: of the last stage of the search, higher is better.
        scores: of every stage, by name.
    """

    id: str
    text: str
    metadata: Mapping[str, Any]
    score: float
    scores: Mapping[str, float]


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
        written: documents encoded and stored.
        unchanged: documents that were already there with the same text and metadata; not encoded again.
        rejected: documents that cannot be stored, with reasons.
        truncated: ids of those written whose text is longer than the model reads: their end cannot be found.
        tokens: tokens encoded.
    """

    written: int
    unchanged: int
    rejected: tuple[Rejection, ...]
    truncated: tuple[str, ...]
    tokens: int

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
