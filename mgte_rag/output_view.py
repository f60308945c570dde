"""One output of a model, whose forward passes are shared with the views of its other outputs."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mgte_rag.async_calls import in_thread
from mgte_rag.errors import ClosedError
from mgte_rag.hand_off import Kept, Slot, TextKey
from mgte_rag.options import check_options
from mgte_rag.tokenization import check_texts
from mgte_rag.types import Encodings, Output, Role

if TYPE_CHECKING:
    from mgte_rag.embedding_model import EmbeddingModel


class OutputView:
    """``EmbeddingModel.view("sparse")``: for frameworks that ask for dense and sparse vectors one after the other.

    While views of different outputs of a model are open in a process, whichever is asked first computes for the others
    too, and these then take what is there: one forward pass for the texts. Each result is handed over once; asked
    again, a view computes again. A view alone computes its own output and nothing else.

    A view keeps its model open, pickles as a reference and is closed by ``close()``, by leaving a ``with`` block or by
    the garbage collector.
    """

    def __init__(self, model: "EmbeddingModel", output: Output, *, dim: int | None, token_dim: int | None) -> None:
        self._model = model
        self._arguments = {"output": output, "dim": dim, "token_dim": token_dim}
        self._sizes = {"dim": dim, "token_dim": token_dim}
        options = self._options("document", None, None, output)
        size = {"dense": options.dim, "sparse": 0, "multi_vector": options.token_dim}[output]
        self._slot = Slot(output, size)
        self._hand_off = model._handle.hand_off
        self._hand_off.join(self._slot)
        self._leave = weakref.finalize(self, self._hand_off.leave, self._slot)

    @property
    def model(self) -> "EmbeddingModel":
        """The model that it is a view of."""
        return self._model

    @property
    def output(self) -> Output:
        """The output that it gives."""
        return self._slot.output

    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Encodings:
        """Encode questions; as ``EmbeddingModel.encode_query`` with this view's output."""
        return self._encode(texts, "query", prompt, max_length, show_progress)

    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Encodings:
        """Encode documents; as ``EmbeddingModel.encode_document`` with this view's output."""
        return self._encode(texts, "document", prompt, max_length, show_progress)

    async def aencode_query(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Encodings:
        """``encode_query`` in a worker thread: the event loop goes on."""
        return await in_thread(self._encode, texts, "query", prompt, max_length, show_progress)

    async def aencode_document(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Encodings:
        """``encode_document`` in a worker thread: the event loop goes on."""
        return await in_thread(self._encode, texts, "document", prompt, max_length, show_progress)

    def _options(self, role: Role, prompt: str | None, max_length: int | None, output: Output) -> Any:
        checkpoint = self._model._handle.checkpoint
        return check_options(checkpoint, role, outputs=(output,), prompt=prompt, max_length=max_length, **self._sizes)

    def _encode(
        self, texts: str | Iterable[str], role: Role, prompt: str | None, max_length: int | None, show_progress: bool
    ) -> Encodings:
        if not self._leave.alive:
            raise ClosedError(f"this view of the model {self._model.identity.name!r} was closed; make another")
        _ = self._model._handle.engine  # an error where the model was closed, even if nothing is to be computed
        partners = self._hand_off.partners(self._slot)
        slots = (self._slot, *partners)
        if not partners:
            return self._compute(texts, role, prompt, max_length, show_progress, slots)
        options = self._options(role, prompt, max_length, self._slot.output)
        listed = [TextKey(role, options.prompt, options.max_length, text) for text in check_texts(texts)]
        keys = list(dict.fromkeys(listed))
        found = dict(zip(keys, self._hand_off.take(keys, self._slot), strict=True))
        missing = [key for key, kept in found.items() if kept is None]
        if missing:
            made = self._compute([key.text for key in missing], role, prompt, max_length, show_progress, slots)
            found |= zip(missing, _split(made, self._slot), strict=True)
            for partner in partners:
                self._hand_off.keep(missing, partner, _split(made, partner))
        return _joined([kept for key in listed if (kept := found[key]) is not None], self._slot)

    def _compute(
        self,
        texts: str | Iterable[str],
        role: Role,
        prompt: str | None,
        max_length: int | None,
        show_progress: bool,
        slots: Sequence[Slot],
    ) -> Encodings:
        sizes = {slot.output: slot.size for slot in slots}
        encode = self._model.encode_query if role == "query" else self._model.encode_document
        return encode(
            texts,
            outputs=tuple(sizes),
            dim=sizes.get("dense"),
            token_dim=sizes.get("multi_vector"),
            prompt=prompt,
            max_length=max_length,
            show_progress=show_progress,
        )

    def close(self) -> None:
        """Other views no longer compute for this one. The model stays open. Closing twice is allowed."""
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{self._model!r}.view({self.output!r}){'' if self._leave.alive else ', closed'}"

    def __reduce__(self) -> tuple[Callable[..., Self], tuple["EmbeddingModel", dict[str, Any]]]:
        return type(self)._rebuild, (self._model, self._arguments)

    @classmethod
    def _rebuild(cls, model: "EmbeddingModel", arguments: dict[str, Any]) -> Self:
        return cls(model, arguments["output"], dim=arguments["dim"], token_dim=arguments["token_dim"])


def _split(made: Encodings, slot: Slot) -> list[Kept]:
    """One entry for every text. Dense vectors are copied: a row would keep the whole array alive."""
    if slot.output == "dense":
        assert made.dense is not None, "asked for dense"
        values: Sequence[Any] = [row.copy() for row in made.dense]
    else:
        values = (made.sparse if slot.output == "sparse" else made.multi_vector) or ()
        if slot.output == "multi_vector":
            values = [np.array(rows) for rows in values]
    return [
        Kept(value, bool(truncated), int(tokens))
        for value, truncated, tokens in zip(values, made.truncated, made.token_counts, strict=True)
    ]


def _joined(kept: Sequence[Kept], slot: Slot) -> Encodings:
    values: list[Any] = [each.value for each in kept]
    return Encodings(
        dense=np.array(values, dtype=np.float32).reshape(len(values), slot.size) if slot.output == "dense" else None,
        sparse=values if slot.output == "sparse" else None,
        multi_vector=values if slot.output == "multi_vector" else None,
        truncated=np.array([each.truncated for each in kept], dtype=np.bool_),
        token_counts=np.array([each.tokens for each in kept], dtype=np.int32),
    )
