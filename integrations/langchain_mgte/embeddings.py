"""Dense vectors for LangChain."""

import contextlib
import threading
import weakref
from typing import Any

from langchain_core.embeddings import Embeddings

from langchain_mgte.settings import EmbeddingSettings, check_question, check_texts
from mgte_rag import Encodings, MGTEError
from mgte_rag.async_calls import in_thread
from mgte_rag.output_view import OutputView

# Adapters not used yet, by identity. Whichever of one model is used first opens the views of all, so that already its
# first pass computes for the others.
_UNUSED: weakref.WeakValueDictionary[int, "EncodingSettings"] = weakref.WeakValueDictionary()
_OPENING = threading.RLock()


class EncodingSettings(EmbeddingSettings):
    """Fields of adapters that give vectors of texts."""

    max_length: int | None = None
    """Tokens read of each text; None is the model's limit."""
    query_prompt: str | None = None
    """Put before every query; None is the model's own, "" is none."""
    document_prompt: str | None = None
    """Put before every document; None is the model's own, "" is none."""
    show_progress: bool = False
    """Draw a progress bar while documents are embedded."""

    @property
    def view(self) -> OutputView:
        """The model's output that this object gives, which shares forward passes with its other outputs."""
        return vars(self).get("view") or self._open()

    def model_post_init(self, context: Any, /) -> None:
        """Wait for the first use."""
        _UNUSED[id(self)] = self

    def _open(self) -> OutputView:
        _ = self.model  # loaded before the lock: others do not wait for it
        with _OPENING:
            if "view" not in vars(self):
                _UNUSED.pop(id(self), None)
                vars(self)["view"] = self._new_view()
                waiting = [other for reference in _UNUSED.valuerefs() if (other := reference()) is not None]
                for other in waiting:
                    if (other.source, other._loading()) == (self.source, self._loading()):
                        del _UNUSED[id(other)]
                        vars(other).setdefault("model", self.model)
                        with contextlib.suppress(MGTEError):  # its own user is told
                            vars(other)["view"] = other._new_view()
            view: OutputView = vars(self)["view"]
            return view

    def _new_view(self) -> OutputView:
        raise NotImplementedError

    def _for_documents(self) -> dict[str, Any]:
        return {"prompt": self.document_prompt, "max_length": self.max_length, "show_progress": self.show_progress}

    def _for_query(self) -> dict[str, Any]:
        return {"prompt": self.query_prompt, "max_length": self.max_length}


class MGTEEmbeddings(EncodingSettings, Embeddings):
    """Dense embeddings of an mgte-rag model: ``MGTEEmbeddings()``, ``MGTEEmbeddings(model="BAAI/bge-small-en-v1.5")``.

    The model is loaded on first use; instances that name the same model share its weights, and with
    ``MGTESparseEmbeddings`` also the forward passes over the same texts. Unknown arguments are errors. Copies and
    pickles are references: they hold no weights.
    """

    dim: int | None = None
    """Components of the vectors, one of the model's sizes; None is all of them."""

    def _new_view(self) -> OutputView:
        return self.model.view("dense", dim=self.dim)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text."""
        check_texts(texts)
        return _rows(self.view.encode_document(texts, **self._for_documents()))

    def embed_query(self, text: str) -> list[float]:
        """The vector of one question."""
        check_question(text)
        return _rows(self.view.encode_query(text, **self._for_query()))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """``embed_documents`` without blocking the event loop."""
        return await in_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """``embed_query`` without blocking the event loop."""
        return await in_thread(self.embed_query, text)


def _rows(encoded: Encodings) -> list[list[float]]:
    assert encoded.dense is not None  # the view's output
    rows: list[list[float]] = encoded.dense.tolist()
    return rows
