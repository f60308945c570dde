"""LangChain's documents to a collection's and back."""

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.documents import Document

from mgte_rag import InputTypeError, InvalidOptionError, RankedDocument
from mgte_rag.errors import shown
from qdrant_mgte import Hit, StoredDocument

SCORE = "mgte_score"
"""Metadata key of the last stage's score, which is what sorts."""
RELEVANCE = "relevance_score"
"""Metadata key of that score as 0 to 1, where it means something by itself."""
TRUNCATED = "mgte_truncated"
"""Metadata key that says, where True, that a reranker did not read the end."""
PARENT = "mgte_document_id"
"""Metadata key of the document's id, in pieces of a document that was split."""
START = "mgte_start"
"""Metadata key of the place in the document's text where a piece starts."""


def entries_of_documents(
    documents: Iterable[Document], ids: Sequence[str | None] | None = None
) -> list[dict[str, Any]]:
    """Documents as a collection takes them; ids given go before the documents' own.

    Raises:
        InputTypeError: something is no document; the message names its position.
        InvalidOptionError: not as many ids as documents.
    """
    listed = check_documents(documents)
    chosen = _as_many("ids", ids, len(listed))
    return [
        {"id": given or document.id or None, "text": document.page_content, "metadata": document.metadata}
        for given, document in zip(chosen, listed, strict=True)
    ]


def entries_of_texts(
    texts: Iterable[str], metadatas: Sequence[dict[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[dict[str, Any]]:
    """Texts as a collection takes them.

    Raises:
        InputTypeError: one string instead of a list.
        InvalidOptionError: not as many metadatas or ids as texts.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputTypeError(f"texts must be a list of strings, not {shown(texts)}")
    listed = list(texts)
    chosen = zip(_as_many("ids", ids, len(listed)), listed, _as_many("metadatas", metadatas, len(listed)), strict=True)
    return [{"id": given or None, "text": text, "metadata": metadata or {}} for given, text, metadata in chosen]


def check_documents(documents: Any) -> list[Document]:
    """A list of the documents.

    Raises:
        InputTypeError: something is no document; the message names its position.
    """
    if isinstance(documents, str | Document) or not isinstance(documents, Iterable):
        raise InputTypeError(f"documents must be a list of langchain_core Documents, not {shown(documents)}")
    listed = list(documents)
    for position, document in enumerate(listed):
        if not isinstance(document, Document):
            raise InputTypeError(f"documents[{position}] must be a langchain_core Document, not {shown(document)}")
    return listed


def from_hits(hits: Iterable[Hit], *, scored: bool, grouped: bool) -> list[Document]:
    """Hits as documents.

    Args:
        hits: of a search.
        scored: put score and relevance into the metadata.
        grouped: a hit stands for its document, whose id it has; a piece otherwise has one of its own, "id#3".
    """
    return [_from_hit(hit, scored=scored, grouped=grouped) for hit in hits]


def _from_hit(hit: Hit, *, scored: bool, grouped: bool) -> Document:
    metadata = dict(hit.metadata)
    if hit.chunks > 1:
        metadata |= {PARENT: hit.id, START: hit.start}
    if scored:
        metadata[SCORE] = hit.score
        if hit.relevance is not None:
            metadata[RELEVANCE] = hit.relevance
    return Document(id=hit.id if grouped else hit.chunk_id, page_content=hit.text, metadata=metadata)


def from_stored(documents: Iterable[StoredDocument | None]) -> list[Document]:
    """Stored documents, those that are there."""
    return [
        Document(id=each.id, page_content=each.text, metadata=dict(each.metadata))
        for each in documents
        if each is not None
    ]


def ranked(documents: Sequence[Document], ranking: Iterable[RankedDocument]) -> list[Document]:
    """Copies of the documents in the order of a ranking, with score and relevance in their metadata."""
    result = []
    for place in ranking:
        document = documents[place.index]
        metadata = {**document.metadata, SCORE: place.score, RELEVANCE: place.relevance}
        if place.truncated:
            metadata[TRUNCATED] = True
        result.append(document.model_copy(update={"metadata": metadata}))
    return result


def _as_many(name: str, given: Sequence[Any] | None, wanted: int) -> Sequence[Any]:
    if given is None:
        return [None] * wanted
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputTypeError(f"{name} must be a list, not {shown(given)}")
    if len(given) != wanted:
        raise InvalidOptionError(f"{len(given)} {name} for {wanted} documents; give one for each, or None")
    return given
