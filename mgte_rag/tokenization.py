"""Text and prompt to token ids."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mgte_rag.errors import CheckpointError, InputTypeError, shown
from mgte_rag.types import Bools, Integers

# Characters looked at first for each token that is kept; English has 4 to 5.
_HEAD_CHARACTERS_PER_TOKEN = 16
_BLANK = re.compile(r"\s")

# What the tokens with a role of their own are called in the tokenizers of published models.
_UNSAID = ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "<s>", "</s>", "<pad>", "<unk>")
_MASKS = ("[MASK]", "<mask>")


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """Token ids ready for the encoder.

    Attributes:
        ids: int32 [length] per text, markers included, none longer than max_length.
        truncated: bool [texts], True where the text's end was cut.
        prompt_tokens: per text, how many of the tokens after the first markers are the prompt's; None: not counted.
        types: int32 [length] per text, which of a pair's two texts a token belongs to; None is no pair.
    """

    ids: list[Integers]
    truncated: Bools
    prompt_tokens: list[int] | None = None
    types: list[Integers] | None = None


@dataclass(frozen=True, slots=True)
class _PairMarkers:
    """The ids, and their token types, that stand before, between and after the texts of a pair."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[list[int], int, list[int], int, list[int]]

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def check_texts(texts: str | Iterable[str]) -> list[str]:
    """A list of the texts; one string is a list of one.

    Raises:
        InputTypeError: something in it is not a string; the message names its position.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | Set | bytes):
        raise InputTypeError(f"texts must be a string or a list of strings, not {type(texts).__name__}")
    listed = list(texts)
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputTypeError(f"texts[{position}] must be a string, not {type(text).__name__}: {shown(text)}")
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
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._tokenizer.encode("\ue000")  # unknown to any vocabulary: fails now rather than at some text later
            self._prefix, self._suffix = self._markers(path)
        except CheckpointError:
            raise
        except Exception as error:  # the library raises bare Exception for any file it cannot use
            raise CheckpointError(
                f"cannot use the tokenizer {path}: {error}. Fetch the model's folder again."
            ) from error

    def _markers(self, path: Path) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after every text, such as [CLS] and [SEP]."""
        text = self._tokenizer.encode("a", add_special_tokens=False).ids
        marked = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(marked) - len(text) + 1):
            if text and marked[start : start + len(text)] == text:
                return marked[:start], marked[start + len(text) :]
        raise CheckpointError(f"the tokenizer {path} changes a text when it adds its markers; this is not supported")

    @cached_property
    def _pair_markers(self) -> _PairMarkers:
        first, second = (self._tokenizer.encode(text, add_special_tokens=False).ids for text in "ab")
        marked = self._tokenizer.encode("a", "b", add_special_tokens=True)
        ids, types = marked.ids, marked.type_ids
        for start in range(len(ids)) if first and second else ():
            middle = start + len(first)
            for later in range(middle, len(ids) - len(second) + 1):
                end = later + len(second)
                if ids[start:middle] == first and ids[later:end] == second:
                    return _PairMarkers(
                        ids[:start],
                        ids[middle:later],
                        ids[end:],
                        (types[:start], types[start], types[middle:later], types[later], types[end:]),
                    )
        raise CheckpointError("the tokenizer changes texts when it joins them to a pair; this is not supported")

    @cached_property
    def vocabulary(self) -> int:
        """One more than the largest token id, added tokens included."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def lower_cases(self) -> bool:
        """Whether the tokenizer itself makes texts lower case."""
        normalizer = self._tokenizer.normalizer
        return normalizer is not None and "abc" in normalizer.normalize_str("ABC")

    @property
    def prefix_length(self) -> int:
        """Markers before every text."""
        return len(self._prefix)

    @property
    def min_length(self) -> int:
        """Tokens of an empty text: the markers."""
        return len(self._prefix) + len(self._suffix)

    @property
    def min_pair_length(self) -> int:
        """Tokens of a pair of empty texts: the markers."""
        return len(self._pair_markers)

    @property
    def pair_suffix_length(self) -> int:
        """Markers after the second text of a pair."""
        return len(self._pair_markers.after)

    @cached_property
    def unsaid(self) -> Integers:
        """Ids that are no words: markers, padding, unknown. int32, ascending."""
        named = [self.token_id(name) for name in _UNSAID]
        ids = {*self._prefix, *self._suffix, *(i for i in named if i is not None)}
        return np.array(sorted(ids), dtype=np.int32)

    @property
    def mask_id(self) -> int | None:
        """The id of the mask token, None where there is none."""
        return next((i for i in map(self.token_id, _MASKS) if i is not None), None)

    def token_id(self, token: str) -> int | None:
        """The id of a token, None where the tokenizer does not have it."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def token(self, index: int) -> str:
        """The token of an id as the vocabulary has it, such as "▁cat" or "##s"; "" where there is none."""
        return self._tokenizer.id_to_token(index) or ""

    def save(self, path: Path) -> None:
        """Write the tokenizer as it was loaded, without its truncation and padding settings."""
        self._tokenizer.save(str(path))

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        prompt: str,
        max_length: int,
        marker: int | None = None,
        count_prompt: bool = False,
    ) -> TokenizedTexts:
        """Token ids of ``prompt + text`` for every text, cut at the end so that markers included none is too long.

        Args:
            texts: any strings. Lone surrogates read as U+FFFD.
            prompt: put before every text.
            max_length: tokens kept of each, at least min_length, and one more with a marker.
            marker: an id put after the tokenizer's own markers and before the prompt.
            count_prompt: count the tokens that lie wholly in the prompt.
        """
        before = self._prefix if marker is None else [*self._prefix, marker]
        room = max_length - len(before) - len(self._suffix)
        whole = [_well_formed(prompt + text) for text in texts]
        tokens = self._encode_heads(whole, room, max_length)
        return TokenizedTexts(
            ids=[np.array([*before, *ids[:room], *self._suffix], dtype=np.int32) for ids in tokens],
            truncated=np.array([len(ids) > room for ids in tokens], dtype=np.bool_),
            prompt_tokens=self._count_prompt(whole, _well_formed(prompt), room, max_length) if count_prompt else None,
        )

    def offsets(self, texts: Sequence[str], *, prompt: str, marker: int | None = None) -> list[Integers]:
        """Where in each text its tokens are, all of them: what ``tokenize`` would give were there no max_length.

        Args:
            texts: any strings; lone surrogates read as U+FFFD.
            prompt: put before every text.
            marker: an id put after the tokenizer's own markers and before the prompt.

        Returns:
            int32 [tokens, 2] per text, first character and one after the last; (0, 0) for markers and the prompt, and
            (length, length) for markers at the end.
        """
        before, after = len(self._prefix) + (marker is not None), len(self._suffix)
        start = len(_well_formed(prompt))
        whole = [_well_formed(prompt + text) for text in texts]
        found = []
        for text, encoding in zip(
            whole, self._tokenizer.encode_batch(whole, add_special_tokens=False) if whole else [], strict=True
        ):
            own = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
            places = np.zeros((before + len(own) + after, 2), dtype=np.int32)
            places[before : before + len(own)] = np.maximum(own - start, 0)
            places[before + len(own) :] = len(text) - start
            found.append(places)
        return found

    def tokenize_pairs(
        self, pairs: Sequence[tuple[str, str]], *, max_length: int, query_max_length: int
    ) -> TokenizedTexts:
        """Token ids of query and document as one input; only the document is cut to make the pair fit.

        Args:
            pairs: query and document.
            max_length: tokens kept of a pair, markers included, at least min_pair_length.
            query_max_length: tokens kept of a query, markers not counted; a longer one counts as truncated too.

        Returns:
            Ids with their token types.

        Source: FlagEmbedding 7ed43d6 ``FlagEmbedding/inference/reranker/encoder_only/base.py`` (only_second).
        """
        markers = self._pair_markers
        room = max_length - len(markers)
        query_room = min(query_max_length, room)
        queries = list(dict.fromkeys(query for query, _ in pairs))
        encoded = dict(zip(queries, self._encode_heads(list(map(_well_formed, queries)), room, room), strict=True))
        documents = self._encode_heads([_well_formed(document) for _, document in pairs], room, room)
        ids, types, truncated = [], [], []
        before, first, between, second, after = markers.types
        for (query, _), document in zip(pairs, documents, strict=True):
            left = encoded[query][:query_room]
            right = document[: room - len(left)]
            joined = [*markers.before, *left, *markers.between, *right, *markers.after]
            kinds = [*before, *[first] * len(left), *between, *[second] * len(right), *after]
            ids.append(np.array(joined, dtype=np.int32))
            types.append(np.array(kinds, dtype=np.int32))
            truncated.append(len(left) < len(encoded[query]) or len(right) < len(document))
        return TokenizedTexts(ids, np.array(truncated, dtype=np.bool_), types=types)

    def _encode_heads(self, whole: Sequence[str], room: int, max_length: int) -> list[list[int]]:
        """All tokens of each text, or of a very long one at least one more than there is room for."""
        heads = [_head(text, _HEAD_CHARACTERS_PER_TOKEN * max_length) for text in whole]
        tokens = self._encode(heads)
        # A head that did not fill the model stands for a text of very long words or blanks: read all of it.
        unfilled = [i for i, head in enumerate(heads) if len(head) < len(whole[i]) and len(tokens[i]) <= room]
        if unfilled:
            for i, ids in zip(unfilled, self._encode([whole[i] for i in unfilled]), strict=True):
                tokens[i] = ids
        return tokens

    def _count_prompt(self, whole: Sequence[str], prompt: str, room: int, max_length: int) -> list[int]:
        """Per text the tokens that end within the prompt; a token that joins prompt and text is the text's."""
        if not prompt:
            return [0] * len(whole)
        # The tokens of the prompt are among the first: what follows a blank after it does not change them.
        heads = [_head(text, len(prompt) + _HEAD_CHARACTERS_PER_TOKEN * max_length) for text in whole]
        encodings = self._tokenizer.encode_batch(heads, add_special_tokens=False)
        ends = [[end for _, end in encoding.offsets[:room]] for encoding in encodings]
        return [sum(end <= len(prompt) for end in each) for each in ends]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
