"""The vectors that nodes and queries do not bring with them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import VectorStoreQuery

from llama_index_mgte.loading import warn_if_cut
from llama_index_mgte.queries import needed_outputs
from mgte_rag import EmbeddingModel, Encodings, InvalidOptionError
from mgte_rag.output_view import OutputView
from mgte_rag.types import Output, Role
from qdrant_mgte import HybridCollection
from qdrant_mgte.encodings import dense_query

# Nodes whose vectors are made together.
_WINDOW = 256


class VectorMaker:
    """Makes a collection's sparse and token vectors for nodes and queries that bring their dense one.

    Where an ``MGTEEmbedding`` of the same model made that one, they come from the same forward pass.

    Args:
        collection: what stores them, with the model that makes them.
    """

    def __init__(self, collection: HybridCollection) -> None:
        self._collection, self._model = collection, collection.model
        self._others = [name for name in collection.outputs if name != "dense"]
        self._views: dict[Output, OutputView] = {}
        if isinstance(self._model, EmbeddingModel):
            sizes = {"multi_vector": collection.token_dim}
            self._views = {name: self._model.view(name, token_dim=sizes.get(name)) for name in self._others}

    def close(self) -> None:
        """Let others no longer compute for this one."""
        for view in self._views.values():
            view.close()

    def documents(self, nodes: Sequence[BaseNode], documents: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The nodes' documents, with all vectors where the node brings an embedding.

        Args:
            nodes: with embeddings or without.
            documents: of these nodes, in their order.
        """
        if "dense" not in self._collection.outputs:
            yield from documents
            return
        for start in range(0, len(nodes), _WINDOW):
            window = list(zip(nodes[start : start + _WINDOW], documents[start : start + _WINDOW], strict=True))
            texts = [document["text"] for node, document in window if node.embedding is not None]
            encoded = self._encode(texts, "document", self._others) if texts else None
            row = itertools.count()
            for node, document in window:
                if node.embedding is None or encoded is None:
                    yield document
                else:
                    yield {**document, "encodings": {"dense": node.embedding, **_row(encoded, next(row))}}

    def question(self, query: VectorStoreQuery, options: Mapping[str, Any]) -> str | Encodings:
        """The query's own embedding with what else the search looks at; the query's text where it brings none.

        Args:
            query: as LlamaIndex gives it.
            options: those of the search.

        Raises:
            InvalidOptionError: the search needs the query's text, and it has none.
        """
        needed = needed_outputs(options, self._collection)
        brings_dense = query.query_embedding is not None and "dense" in needed
        others = [name for name in needed if name != "dense"] if brings_dense else needed
        if query.query_str is None and others:
            raise InvalidOptionError(f"the mode {options['mode']} needs the query's text; give query_str")
        if not brings_dense:
            return query.query_str or ""
        given = dense_query(query.query_embedding)
        made = self._encode([query.query_str or ""], "query", others)
        return Encodings(
            dense=given.dense,
            sparse=made.sparse,
            multi_vector=made.multi_vector,
            truncated=made.truncated,
            token_counts=made.token_counts,
        )

    def _encode(self, texts: list[str], role: Role, outputs: Sequence[Output]) -> Encodings:
        """Outputs other than dense; each from a view, so that whoever made the dense one made these too."""
        if not outputs:
            return Encodings(truncated=np.zeros(len(texts), np.bool_), token_counts=np.zeros(len(texts), np.int32))
        if not self._views:
            encode = self._model.encode_query if role == "query" else self._model.encode_document
            return encode(texts, outputs=outputs, dim=None, token_dim=self._collection.token_dim)
        made: dict[str, Encodings] = {}
        for name in outputs:
            view = self._views[name]
            made[name] = view.encode_query(texts) if role == "query" else view.encode_document(texts)
        first = made[outputs[0]]
        if role == "document" and isinstance(self._model, EmbeddingModel):
            warn_if_cut(first.truncated, self._model)
        return Encodings(
            truncated=first.truncated,
            token_counts=first.token_counts,
            sparse=made["sparse"].sparse if "sparse" in made else None,
            multi_vector=made["multi_vector"].multi_vector if "multi_vector" in made else None,
        )


def _row(encoded: Encodings, row: int) -> dict[str, Any]:
    """The vectors of one text, by output."""
    made = {"sparse": encoded.sparse, "multi_vector": encoded.multi_vector}
    return {name: vectors[row] for name, vectors in made.items() if vectors is not None}
