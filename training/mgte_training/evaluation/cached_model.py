"""A model and a reranker that remember on disk what they computed."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mgte_rag import EmbeddingModel, Encodings, ModelIdentity, Reranker, SparseVector
from mgte_rag.progress import Progress
from mgte_rag.tokenization import check_texts
from mgte_rag.types import Floats, Integers, Output, Role
from mgte_training.evaluation.shards import Array, LazyRows, Shards

# Texts encoded by one call, and seconds after which what was encoded is written: what a kill can cost.
_AT_ONCE = 256
_SECONDS = 10.0

_Rows = dict[str, list[Array]]


def default_cache() -> Path:
    """The folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgte-rag" / "evaluation"


class CachedModel:
    """An ``EmbeddingModel`` whose encodings are kept on disk; a collection takes it in the model's place.

    Kept under the model's fingerprint and dtype, the role, prompt, maximal length and output, and the text's SHA-256;
    written every few seconds, so that work that was stopped goes on. Token vectors are kept in float16.

    Args:
        model: what computes; stays the caller's.
        folder: of the cache.
        show_progress: draw progress bars on standard error.
    """

    def __init__(self, model: EmbeddingModel, folder: Path, *, show_progress: bool = False) -> None:
        self.model = model
        self.folder = folder
        self._show_progress = show_progress
        self._opened: dict[str, Shards] = {}

    @property
    def identity(self) -> ModelIdentity:
        """The model's."""
        return self.model.identity

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The model's."""
        return self.model.outputs

    @property
    def dims(self) -> tuple[int, ...]:
        """The model's."""
        return self.model.dims

    @property
    def token_dims(self) -> tuple[int, ...]:
        """The model's."""
        return self.model.token_dims

    @property
    def max_length(self) -> int:
        """The model's."""
        return self.model.max_length

    @property
    def prompts(self) -> Mapping[Role, str]:
        """The model's."""
        return self.model.prompts

    def token_offsets(self, texts: str | Iterable[str]) -> Sequence[Integers]:
        """The model's; nothing is kept of it."""
        return self.model.token_offsets(texts)

    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Output] | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        max_length: int | None = None,
    ) -> Encodings:
        """Encode questions; arguments and errors are the model's."""
        return self._encode(check_texts(texts), "query", outputs, dim, token_dim, max_length)

    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Output] | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        max_length: int | None = None,
    ) -> Encodings:
        """Encode documents; arguments and errors are the model's."""
        return self._encode(check_texts(texts), "document", outputs, dim, token_dim, max_length)

    def _encode(
        self,
        texts: Sequence[str],
        role: Role,
        outputs: Sequence[Output] | None,
        dim: int | None,
        token_dim: int | None,
        max_length: int | None,
    ) -> Encodings:
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        nothing = encode([], outputs=outputs, dim=dim, token_dim=token_dim, max_length=max_length)  # checks the options
        wanted = [output for output in self.outputs if getattr(nothing, output) is not None]
        if role == "document" and max_length is None:
            max_length = self.max_length
        stores: dict[str, Shards] = {output: self._store(output, role, token_dim, max_length) for output in wanted}
        keys = [_hash(text) for text in texts]

        def compute(places: Sequence[int]) -> dict[str, _Rows]:
            chosen = [texts[i] for i in places]
            return _rows_of(encode(chosen, outputs=wanted, token_dim=token_dim, max_length=max_length))

        _fill(stores, keys, compute, what=f"encoding, {role}", unit="texts", show=self._show_progress)
        return _encodings(stores, keys, nothing, dim)

    def _store(self, output: Output, role: Role, token_dim: int | None, max_length: int | None) -> Shards:
        """Where one output is kept: which others came from the same pass changes nothing about it."""
        key = {
            "fingerprint": self.identity.fingerprint,
            "dtype": self.model.dtype,
            "role": role,
            "prompt": self.prompts[role],
            "max_length": max_length,
            "output": output,
            "token_dim": (token_dim or self.token_dims[-1]) if output == "multi_vector" else None,
        }
        return open_shards(self._opened, self.folder, key)


class CachedReranker:
    """A ``Reranker`` whose scores are kept on disk, under its fingerprint and dtype and the SHA-256 of both texts.

    Args:
        reranker: what computes; stays the caller's.
        folder: of the cache.
        show_progress: draw progress bars on standard error.
    """

    def __init__(self, reranker: Reranker, folder: Path, *, show_progress: bool = False) -> None:
        self.reranker = reranker
        self._show_progress = show_progress
        key = {"fingerprint": reranker.identity.fingerprint, "dtype": reranker.dtype, "output": "score"}
        self._store = open_shards({}, folder, key)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """Raw logits, float32 [pairs]."""
        keys = [hashlib.sha256(_hash(query) + _hash(document)).digest() for query, document in pairs]

        def compute(places: Sequence[int]) -> dict[str, _Rows]:
            scores = self.reranker.score([pairs[i] for i in places])
            return {"score": {"score": [scores[i : i + 1] for i in range(len(scores))]}}

        _fill({"score": self._store}, keys, compute, what="reranking", unit="pairs", show=self._show_progress)
        return np.array([self._store.row("score", key)[0] for key in keys], dtype=np.float32)


def open_shards(opened: dict[str, Shards], folder: Path, key: Mapping[str, object]) -> Shards:
    """The rows that are kept under a key, which stands beside them for people to read."""
    text = json.dumps(key, sort_keys=True)
    if text not in opened:
        place = folder / hashlib.sha256(text.encode()).hexdigest()[:32]
        opened[text] = Shards(place)
        if not (place / "key.json").exists():
            (place / "key.json").write_text(text + "\n", encoding="utf-8")
    return opened[text]


def _fill(
    stores: Mapping[str, Shards],
    keys: Sequence[bytes],
    compute: Callable[[Sequence[int]], dict[str, _Rows]],
    *,
    what: str,
    unit: str,
    show: bool,
) -> None:
    """Compute and write the rows that a store lacks, some at a time, whatever ends the work."""
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    missing = sorted(place for key, place in first.items() if not all(key in store for store in stores.values()))
    if not missing:
        return
    pending = {name: _Pending(store) for name, store in stores.items()}
    written = time.monotonic()
    with Progress(what, unit=unit, total=len(missing), show=show) as progress:
        try:
            for start in range(0, len(missing), _AT_ONCE):
                places = missing[start : start + _AT_ONCE]
                computed = compute(places)
                for name, rows in computed.items():
                    pending[name].add([keys[i] for i in places], rows)
                progress.advance(
                    len(places), sum(int(row[0]) for row in next(iter(computed.values())).get("tokens", ()))
                )
                if time.monotonic() - written > _SECONDS:
                    for each in pending.values():
                        each.write()
                    written = time.monotonic()
        finally:
            for each in pending.values():
                each.write()


class _Pending:
    """Rows on their way to a store."""

    def __init__(self, store: Shards) -> None:
        self._store = store
        self._keys: list[bytes] = []
        self._rows: _Rows = {}

    def add(self, keys: Sequence[bytes], rows: _Rows) -> None:
        new = [place for place, key in enumerate(keys) if key not in self._store]
        self._keys += [keys[place] for place in new]
        for name, each in rows.items():
            self._rows.setdefault(name, []).extend(each[place] for place in new)

    def write(self) -> None:
        if self._keys:
            self._store.add(self._keys, self._rows)
            self._keys, self._rows = [], {}


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _rows_of(encoded: Encodings) -> dict[str, _Rows]:
    """By output, one array for every text and field."""
    about: _Rows = {"truncated": list(encoded.truncated[:, None]), "tokens": list(encoded.token_counts[:, None])}
    rows: dict[str, _Rows] = {}
    if encoded.dense is not None:
        rows["dense"] = {"vector": list(encoded.dense[:, None]), **about}
    if encoded.sparse is not None:
        terms = [vector.indices for vector in encoded.sparse]
        rows["sparse"] = {"indices": terms, "values": [vector.values for vector in encoded.sparse], **about}
    if encoded.multi_vector is not None:
        rows["multi_vector"] = {"vectors": [each.astype(np.float16) for each in encoded.multi_vector], **about}
    return rows


def _encodings(stores: Mapping[str, Shards], keys: Sequence[bytes], nothing: Encodings, dim: int | None) -> Encodings:
    """The kept rows of many texts, with the outputs that ``nothing``, encodings of no text, has."""
    dense = sparse = multi_vector = None
    if nothing.dense is not None:
        rows = stores["dense"].rows("vector", keys)
        dense = first_components(np.concatenate(rows), dim) if rows else nothing.dense
    if nothing.sparse is not None:
        pairs = zip(stores["sparse"].rows("indices", keys), stores["sparse"].rows("values", keys), strict=True)
        sparse = [SparseVector(indices, values) for indices, values in pairs]
    if nothing.multi_vector is not None:
        multi_vector = LazyRows(stores["multi_vector"], "vectors", keys)
    any_store = next(iter(stores.values()))
    return Encodings(
        truncated=np.array([any_store.row("truncated", key)[0] for key in keys], dtype=np.bool_),
        token_counts=np.array([any_store.row("tokens", key)[0] for key in keys], dtype=np.int32),
        dense=dense,
        sparse=sparse,
        multi_vector=multi_vector,
    )


def first_components(dense: Floats, dim: int | None) -> Floats:
    """The first components of dense vectors, L2-normalised again, float32 [texts, dim]; None is all of them."""
    if dim is None or dim == dense.shape[1]:
        return dense
    kept = dense[:, :dim]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    shorter: Floats = kept / np.maximum(lengths, np.finfo(np.float32).tiny)
    return shorter
