"""A corpus as token ids on the disk: written once, read where it is needed, of any size."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgte_rag.errors import DataError
from mgte_rag.progress import Progress
from mgte_rag.tokenization import TextTokenizer
from mgte_rag.types import Integers

# A tokenizer's work on a text takes some hundred bytes a token until it is done.
_TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE = 1_024, 4_000_000
# More tokens than any text has: nothing is cut when a corpus is tokenised.
_UNCUT = 1 << 30


@dataclass(frozen=True, slots=True)
class TokenStore:
    """All texts of one source, without markers, one after the other.

    Attributes:
        tokens: uint16 or uint32 [tokens], on the disk.
        ends: int64 [texts], where each text ends.
    """

    tokens: NDArray[Any]
    ends: NDArray[np.int64]

    def read(self, start: int, count: int) -> Integers:
        """Some tokens."""
        return self.tokens[start : start + count].astype(np.int32)


def token_store(path: Path, texts: Iterable[str], tokenizer: TextTokenizer, *, show_progress: bool) -> TokenStore:
    """The store at a path, which is written where it is not there; a part of one is written anew.

    Args:
        path: without suffix; there will be a .bin and a .npy file.
        texts: of the source; only looked at where there is no whole store.
        tokenizer: the model's.
        show_progress: draw a progress bar on standard error.

    Raises:
        DataError: the source cannot be read, or has no text with a token, or the store cannot be written.
    """
    words, ends = path.with_suffix(".bin"), path.with_suffix(".npy")
    dtype = np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.uint32
    if not ends.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            found = _write(words, texts, tokenizer, dtype, show_progress=show_progress)
            if not len(found):
                raise DataError(f"there is no text with a token in the texts of {path}; give another source")
            part = ends.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, found)
            os.replace(part, ends)  # last: where it is, the store is whole
        except OSError as error:
            raise DataError(
                f"{error.filename or path}: {error.strerror or error}; the tokens of a source are written to {words}: "
                f"see that it can be read and that there is room, and give the same command again"
            ) from error
    return TokenStore(np.memmap(words, dtype=dtype, mode="r"), np.load(ends))


def _write(
    path: Path, texts: Iterable[str], tokenizer: TextTokenizer, dtype: Any, *, show_progress: bool
) -> NDArray[np.int64]:
    before, after = tokenizer.prefix_length, tokenizer.min_length - tokenizer.prefix_length
    ends: list[NDArray[np.int64]] = []
    written = 0
    with path.open("wb") as file, Progress("tokenising", unit="texts", total=None, show=show_progress) as progress:
        for some in _slices(texts):
            marked = tokenizer.tokenize(some, prompt="", max_length=_UNCUT).ids
            rows = [ids[before : len(ids) - after] for ids in marked if len(ids) > before + after]
            if rows:
                together = np.concatenate(rows).astype(dtype)
                file.write(together.tobytes())
                ends.append(written + np.cumsum([len(row) for row in rows]))
                written += len(together)
            progress.advance(len(some), sum(map(len, rows)))
    return np.concatenate(ends) if ends else np.zeros(0, dtype=np.int64)


def _slices(texts: Iterable[str]) -> Iterator[list[str]]:
    some, characters = list[str](), 0
    for text in texts:
        some.append(text)
        characters += len(text)
        if len(some) == _TEXTS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
            yield some
            some, characters = [], 0
    if some:
        yield some
