"""Long texts to pieces that a model reads whole.

Pieces end with a paragraph if one ends in their last two fifths, else with a sentence, a line, a word, and where a
script has none of these, between two characters. Every character of a text is in a piece, so the text can be put
together again from its pieces and where they start.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown
from mgte_rag.types import Integers
from qdrant_mgte.types import EncodingModel

# Characters tokenised at a time for each token of a piece: enough for one piece of nearly any text.
_WINDOW = 8
# Characters of a text that is tokenised whole; a longer one is read piece by piece.
_AT_ONCE = 200_000
# Tokens by which a piece may differ from its part of the whole text.
_CLOSE = 16
# Tokens that a piece must have room for: the longest expansion of one character is 18.
_LEAST_ROOM = 18
_BLANKS = re.compile(r"\s*")
# Each matches what stands at the end, blanks after it included. Runs are looked at once, from their beginning.
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE = re.compile(
    r"(?<![.!?…؟۔।॥։።])[.!?…؟۔।॥։።]++[\"'”’»)\]]*+\s++"  # Western, Arabic, Urdu, Indic, Armenian, Ethiopic
    r"|[。！？｡．]++[」』”’）】》]*+\s*"  # Chinese, Japanese: no blank follows
    r"|[།။។]++\s*"  # Tibetan, Burmese, Khmer
)
_LINE = re.compile(r"\n\s*")
_WORD = re.compile(r"\s++|[，、；：､]++")  # Thai has blanks between phrases only
_LEVELS = ((_PARAGRAPH, 0.6), (_SENTENCE, 0.5), (_LINE, 0.5), (_WORD, 0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """How long texts are cut into pieces.

    Attributes:
        max_tokens: tokens of a piece at most, markers and prompt included; None is what the model reads.
        overlap: tokens at most that a piece repeats of the one before; None is an eighth of max_tokens.
    """

    max_tokens: int | None = None
    overlap: int | None = None

    def resolved(self, model: EncodingModel) -> tuple[int, int]:
        """``max_tokens`` and ``overlap`` for a model.

        Raises:
            InvalidOptionError: more tokens than the model reads, too few to make progress, or too much overlap.
        """
        overhead = len(model.token_offsets("")[0])
        most, least = model.max_length, overhead + _LEAST_ROOM
        limit = most if self.max_tokens is None else self.max_tokens
        if not isinstance(limit, int) or isinstance(limit, bool) or not min(least, most) <= limit <= most:
            raise InvalidOptionError(
                f"max_tokens={shown(limit)}: the model {model.identity.name!r} reads {least} to {most}"
            )
        overlap = limit // 8 if self.overlap is None else self.overlap
        if not isinstance(overlap, int) or isinstance(overlap, bool) or not 0 <= overlap <= limit // 2:
            raise InvalidOptionError(f"overlap={shown(overlap)}: it may be 0 to {limit // 2}, half of max_tokens")
        return limit, overlap


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text.

    Attributes:
        start: its first character's place in the text.
        end: one after its last.
        tokens: tokens of it, markers and prompt included, as counted in the whole text.
    """

    start: int
    end: int
    tokens: int


def split_texts(texts: Sequence[str], model: EncodingModel, *, max_tokens: int, overlap: int) -> list[list[Piece]]:
    """The pieces of each text; one piece where the model reads it whole."""
    at_once = [i for i, text in enumerate(texts) if len(text) <= _AT_ONCE]
    places = dict(zip(at_once, model.token_offsets([texts[i] for i in at_once]), strict=True))
    overhead = len(model.token_offsets("")[0])
    split = [
        _cut(text, places[i], max_tokens - overhead, overhead, overlap) if i in places else []
        for i, text in enumerate(texts)
    ]
    # A cut may change the tokens beside it, where the script has no blanks: pieces that are nearly full are counted.
    close = [(i, piece) for i, each in enumerate(split) for piece in each if piece.tokens > max_tokens - _CLOSE]
    counted = model.token_offsets([texts[i][piece.start : piece.end] for i, piece in close])
    too_long = {i for (i, _), tokens in zip(close, counted, strict=True) if len(tokens) > max_tokens}
    return [
        each if each and i not in too_long else list(_split(texts[i], model, max_tokens, overlap))
        for i, each in enumerate(split)
    ]


def _cut(text: str, places: Integers, room: int, overhead: int, overlap: int) -> list[Piece]:
    """The pieces of a text of which all tokens are known."""
    if len(places) <= room + overhead:
        return [Piece(0, len(text), len(places))]
    places = places[places[:, 1] > places[:, 0]]
    pieces: list[Piece] = []
    start = covered = 0
    while True:
        first = int(np.searchsorted(places[:, 0], start))
        if len(places) - first <= room:
            return [*pieces, Piece(start, len(text), len(places) - first + overhead)]
        end = _end(text, start, covered, int(places[first + room - 1, 1]))
        tokens = int(np.searchsorted(places[:, 1], end, side="right")) - first
        pieces.append(Piece(start, end, tokens + overhead))
        if end == len(text):
            return pieces
        start, covered = _next_start(text, start, end, places[first : first + room + _CLOSE], overlap), end


def joined(pieces: Sequence[tuple[int, str]]) -> str:
    """A text from its pieces' starts and texts, in order."""
    parts: list[str] = []
    length = 0
    for start, text in pieces:
        parts.append(text[length - start :])
        length = start + len(text)
    return "".join(parts)


def _split(text: str, model: EncodingModel, limit: int, overlap: int) -> Iterator[Piece]:
    overhead = len(model.token_offsets("")[0])
    start = covered = 0
    while True:
        places = _places(text, start, model, limit)
        if places is None:  # too long a look ahead: the rest is one piece
            yield Piece(start, len(text), len(model.token_offsets(text[start:])[0]))
            return
        room = limit - overhead
        while True:
            end = _end(text, start, covered, int(places[min(room, len(places)) - 1, 1]))
            tokens = len(model.token_offsets(text[start:end])[0])
            if tokens <= limit or room == 1:
                break
            room = max(1, room - (tokens - limit))  # the cut itself changed tokens: very rare
        yield Piece(start, end, tokens)
        if end == len(text):
            return
        start, covered = _next_start(text, start, end, places, overlap), end


def _places(text: str, start: int, model: EncodingModel, limit: int) -> Integers | None:
    """Places in the text of the tokens from a start on, more than fit into a piece; None where all the rest fits."""
    width = _WINDOW * limit
    while True:
        places = model.token_offsets(text[start : start + width])[0]
        if len(places) > limit:
            own: Integers = places[places[:, 1] > places[:, 0]] + np.int32(start)
            return own
        if start + width >= len(text):
            return None
        width *= 2  # very long words or blanks


def _end(text: str, start: int, covered: int, furthest: int) -> int:
    """The best place to end a piece, after what is ``covered`` and up to ``furthest``; blanks there come with it."""
    furthest = max(furthest, covered + 1)
    blanks = _BLANKS.match(text, furthest)
    reach = blanks.end() if blanks is not None else furthest
    for pattern, share in _LEVELS:
        earliest = max(start + int((furthest - start) * share), covered) + 1
        ends = [match.end() for match in pattern.finditer(text, start, reach)]
        if ends and ends[-1] >= earliest:
            return ends[-1]
    return _between_characters(text, furthest, covered)


def _next_start(text: str, start: int, end: int, places: Integers, overlap: int) -> int:
    """Where the next piece starts: at most ``overlap`` tokens before the end, where a sentence begins if one does."""
    inside = int(np.searchsorted(places[:, 1], end, side="right"))
    if overlap == 0 or inside <= overlap:
        return end
    earliest = max(int(places[inside - overlap, 0]), start + 1)
    for pattern in (_PARAGRAPH, _SENTENCE, _LINE, _WORD):
        for match in pattern.finditer(text, earliest - 1, end):
            if earliest <= match.end() < end:
                return match.end()
    return _between_characters(text, earliest, start)


def _between_characters(text: str, place: int, lowest: int) -> int:
    """The place itself or one before it, where no accent, vowel sign or joined emoji is torn from its letter."""
    at = place
    while at > lowest + 1 and at < len(text) and _continues(text, at):
        at -= 1
    return at if at > lowest + 1 else max(place, lowest + 1)


def _continues(text: str, at: int) -> bool:
    return (
        unicodedata.category(text[at]).startswith("M")
        or "\u200d" in (text[at], text[at - 1])
        or "\U0001f3fb" <= text[at] <= "\U0001f3ff"  # skin tones
        or text[at - 1 : at + 1] == "\r\n"
    )
