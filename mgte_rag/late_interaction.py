"""Late interaction without a collection: documents' token vectors in memory."""

from collections.abc import Iterable

import numpy as np

from mgte_rag import relevance
from mgte_rag.async_calls import in_thread
from mgte_rag.embedding_model import EmbeddingModel
from mgte_rag.errors import InputTypeError, shown
from mgte_rag.options import check_top_k
from mgte_rag.types import Bools, RankedDocument


class LateInteractionIndex:
    """Documents ranked by MaxSim: ``LateInteractionIndex(model, texts).rank("a question")``.

    For up to some thousand documents: every one is compared with every question. The model is the caller's.

    Args:
        model: has a late-interaction head.
        texts: the documents, encoded here.
        token_dim: components of each token's vector; None is the largest. A document takes 4 bytes of memory for
            each of them and each of its tokens.
        max_length: tokens read of each document; None is the model's limit.
        show_progress: draw a progress bar on standard error.

    Raises:
        InputTypeError: a text is not a string.
        UnsupportedOutputError: the model has no late-interaction head.
        InvalidOptionError: a size that the model does not allow.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        texts: Iterable[str],
        *,
        token_dim: int | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> None:
        self._model = model
        self._token_dim = token_dim
        self._documents = model.encode_document(
            texts, outputs=("multi_vector",), token_dim=token_dim, max_length=max_length, show_progress=show_progress
        )

    def __len__(self) -> int:
        return len(self._documents)

    @property
    def model(self) -> EmbeddingModel:
        """The model that encodes."""
        return self._model

    @property
    def truncated(self) -> Bools:
        """Bool [documents], True where the end was not read."""
        return self._documents.truncated

    def rank(self, query: str, *, top_k: int | None = None) -> list[RankedDocument]:
        """Sort the documents by how well they answer the query.

        Args:
            query: the query.
            top_k: how many to return; None is all.

        Returns:
            The best first, equally good ones in their order. ``score`` is MaxSim, a sum over the query's tokens as in
            collections, also where the model was published with their mean; ``relevance`` is MaxSim divided by them.

        Raises:
            InputTypeError: the query is not a string.
            InvalidOptionError: a top_k below 1.
        """
        check_top_k(top_k)
        if not isinstance(query, str):
            raise InputTypeError(f"query must be a string, not {type(query).__name__}: {shown(query)}")
        encoded = self._model.encode_query(query, outputs=("multi_vector",), token_dim=self._token_dim)
        similarity = self._model.similarity(encoded, self._documents).multi_vector
        assert similarity is not None  # both sides have token vectors
        assert encoded.multi_vector is not None
        tokens = len(encoded.multi_vector[0])
        head = self._model._config.multi_vector
        is_mean = head is not None and head.mean
        scores = similarity[0] * tokens if is_mean else similarity[0]
        relevances = relevance.of_max_sim(scores, tokens)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [RankedDocument(int(i), float(scores[i]), float(relevances[i]), bool(self.truncated[i])) for i in order]

    async def arank(self, query: str, *, top_k: int | None = None) -> list[RankedDocument]:
        """``rank`` in a worker thread: the event loop goes on."""
        return await in_thread(self.rank, query, top_k=top_k)
