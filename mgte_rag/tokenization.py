"""Text and prompt to token ids."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mgte_rag.errors import CheckpointError, InputTypeError
from mgte_rag.types import Bools, Integers

# Characters looked at first for each token that is kept; English has 4 to 5.
_HEAD_CHARACTERS_PER_TOKEN = 16
_BLANK = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """Token ids ready for the encoder.

    Attributes:
        ids: int32 [length] per text, markers included, none longer than max_length.
        truncated: bool [texts], True where the text's end was cut.
    """

    ids: list[Integers]
    truncated: Bools


def check_texts(texts: str | Iterable[str]) -> list[str]:
    """A list of the texts; one string is a list of one.

    Raises:
        InputTypeError: something in it is not a string; the message names its position.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable):
        raise InputTypeError(f"texts must be a string or a list of strings, not {type(texts).__name__}")
    listed = list(texts)
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputTypeError(f"texts[{position}] must be a string, not {type(text).__name__}: {text!r:.80}")
    return listed


def _well_formed(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes: each becomes U+FFFD, a pair its one character."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _head(text: str, characters: int) -> str:
    """The start of a very long text, cut before a blank: no token crosses one, so these are the text's own tokens."""
    if len(text) <= 2 * characters:
        return text
    blank = _BLANK.search(text, characters)
    return text[: blank.start()] if blank else text


class TextTokenizer:
    """A checkpoint's ``tokenizer.json`` with this project's own truncation.

    Truncation and padding settings inside the file are ignored: length is the caller's choice up to the model's
    limit, and nothing is ever padded. The tokenizer is not changed after loading, so threads may share it.

    Args:
        path: a ``tokenizer.json``.

    Raises:
        CheckpointError: the file is missing, cannot be read, or its markers cannot be told from the text.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for any unreadable file
            raise CheckpointError(
                f"cannot read the tokenizer {path}: {error}. Fetch the model's folder again."
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._prefix, self._suffix = self._markers(path)

    def _markers(self, path: Path) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after every text, such as [CLS] and [SEP]."""
        text = self._tokenizer.encode("a", add_special_tokens=False).ids
        marked = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(marked) - len(text) + 1):
            if text and marked[start : start + len(text)] == text:
                return marked[:start], marked[start + len(text) :]
        raise CheckpointError(f"the tokenizer {path} changes a text when it adds its markers; this is not supported")

    @property
    def vocabulary(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def min_length(self) -> int:
        """Tokens of an empty text: the markers."""
        return len(self._prefix) + len(self._suffix)

    def tokenize(self, texts: Sequence[str], *, prompt: str, max_length: int) -> TokenizedTexts:
        """Token ids of ``prompt + text`` for every text, cut at the end so that markers included none is too long.

        Args:
            texts: any strings. Lone surrogates read as U+FFFD.
            prompt: put before every text.
            max_length: tokens kept of each, at least min_length.
        """
        room = max_length - self.min_length
        whole = [_well_formed(prompt + text) for text in texts]
        heads = [_head(text, _HEAD_CHARACTERS_PER_TOKEN * max_length) for text in whole]
        tokens = self._encode(heads)
        # A head that did not fill the model stands for a text of very long words or blanks: read all of it.
        unfilled = [i for i, head in enumerate(heads) if len(head) < len(whole[i]) and len(tokens[i]) <= room]
        for i, ids in zip(unfilled, self._encode([whole[i] for i in unfilled]), strict=True):
            tokens[i] = ids
        return TokenizedTexts(
            ids=[np.array([*self._prefix, *ids[:room], *self._suffix], dtype=np.int32) for ids in tokens],
            truncated=np.array([len(ids) > room for ids in tokens], dtype=np.bool_),
        )

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
