"""Long texts to pieces, counted by real and by small tokenizers."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_rag.tokenization import TextTokenizer
from mgte_rag.types import Integers, ModelIdentity
from qdrant_mgte import Splitting
from qdrant_mgte.splitting import Piece, joined, split_texts


class ByteModel:
    """A token for every byte but blanks, as in models that know every script: nothing is unknown."""

    identity = ModelIdentity(name="bytes", revision=None, fingerprint="")
    max_length = 200

    def __init__(self, folder: Path) -> None:
        alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.save(str(folder / "tokenizer.json"))
        self._tokenizer = TextTokenizer(folder / "tokenizer.json")

    def token_offsets(self, texts: str | list[str]) -> list[Integers]:
        return self._tokenizer.offsets([texts] if isinstance(texts, str) else texts, prompt="")


@pytest.fixture(scope="module")
def by_bytes(tmp_path_factory: pytest.TempPathFactory) -> ByteModel:
    return ByteModel(tmp_path_factory.mktemp("bytes"))


def pieces(text: str, model: ByteModel | EmbeddingModel, max_tokens: int, overlap: int = 0) -> list[str]:
    """The texts of the pieces, after checking what must hold of all."""
    (found,) = split_texts([text], model, max_tokens=max_tokens, overlap=overlap)  # type: ignore[arg-type]
    assert joined([(piece.start, text[piece.start : piece.end]) for piece in found]) == text
    assert found[0].start == 0
    assert found[-1].end == len(text)
    for before, after in itertools.pairwise(found):
        assert before.start < after.start <= before.end < after.end
    for piece in found:
        assert piece.tokens == len(model.token_offsets(text[piece.start : piece.end])[0]) <= max_tokens
    return [text[piece.start : piece.end] for piece in found]


def test_a_text_that_fits_is_one_piece(mini: EmbeddingModel) -> None:
    assert split_texts(["", "short"], mini, max_tokens=256, overlap=32) == [[Piece(0, 0, 2)], [Piece(0, 5, 3)]]


def test_exactly_as_many_tokens_as_fit_are_one_piece_and_one_more_are_two(mini: EmbeddingModel) -> None:
    assert len(pieces("cat " * 254, mini, 256)) == 1
    assert len(pieces("cat " * 255, mini, 256)) == 2


def test_real_documentation_is_cut_without_losing_a_character(
    mini: EmbeddingModel, stdlib_docs: list[DocEntry]
) -> None:
    texts = [entry.text for entry in stdlib_docs if len(entry.text) > 1500][:60]
    found = split_texts(texts, mini, max_tokens=256, overlap=32)
    for text, cut in zip(texts, found, strict=True):
        assert joined([(piece.start, text[piece.start : piece.end]) for piece in cut]) == text
    counts = np.array([piece.tokens for cut in found for piece in cut[:-1]])
    assert counts.max() <= 256
    assert np.median(counts) > 200  # the model's length is used
    encoded = mini.encode_document([t[p.start : p.end] for t, cut in zip(texts, found, strict=True) for p in cut][:300])
    assert not encoded.truncated.any()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two three four.\n\nFive six seven.", ["One two three four.\n\n", "Five six seven."]),
        ("Aaaa bbbb. Cccc dddd! Eeee ffff? Gggg", ["Aaaa bbbb. Cccc dddd! ", "Eeee ffff? Gggg"]),
        ("first line here\nsecond line here\nlast", ["first line here\n", "second line here\nlast"]),
        ("words and words and words and words", ["words and words and words ", "and words"]),
        ("猫が好き。犬も好き。鳥", ["猫が好き。", "犬も好き。鳥"]),
        ("我们喜欢猫！我们也喜欢狗？", ["我们喜欢猫！", "我们也喜欢狗？"]),
        ("「猫。」と言った。また", ["「猫。」", "と言った。また"]),
        ("รักแม ฉันรัก", ["รักแม ", "ฉันรัก"]),
        ("รักแมวฉันรัก", ["รักแมว", "ฉันรัก"]),
        ("مرحبا بك؟ كيف حالك", ["مرحبا بك؟ ", "كيف حالك"]),
        ("नमस्ते। आप", ["नमस्ते। ", "आप"]),
        ("x" * 50, ["x" * 22, "x" * 22, "x" * 6]),
    ],
)
def test_pieces_end_where_their_script_lets_them(by_bytes: ByteModel, text: str, expected: list[str]) -> None:
    assert pieces(text, by_bytes, 22) == expected


@pytest.mark.parametrize("text", ["cafe\u0301 " * 30, "👩‍👩‍👧‍👦" * 6, "นี้น้ำที่" * 9, "a\r\n" * 90])
def test_no_accent_vowel_sign_or_joined_emoji_is_torn_off(by_bytes: ByteModel, text: str) -> None:
    for piece in pieces(text, by_bytes, 40)[1:]:
        assert piece[0] not in "\u0301\u200d\n่้ีั"


def test_the_overlap_begins_with_a_sentence_and_is_no_longer_than_asked(by_bytes: ByteModel) -> None:
    text = "".join(f"Sentence {i:02}. " for i in range(30))
    (found,) = split_texts([text], by_bytes, max_tokens=60, overlap=25)  # type: ignore[arg-type]
    for before, after in itertools.pairwise(found):
        shared = text[after.start : before.end]
        assert shared.startswith("Sentence")
        assert 0 < len(shared.replace(" ", "")) <= 25


HARD = {
    "one long word": "x" * 20_000,
    "blanks": " " * 200_000,
    "dots": "." * 5_000,
    "blank lines": "\n\n" * 5_000,
    "accents": "e" + "\u0301" * 2_000,
    "long letters": "ﷺ" * 500,
    "words and blanks": ("x" * 300 + " " * 3_000) * 5,
}


@pytest.mark.parametrize("kind", HARD)
def test_hard_texts_are_cut_too(by_bytes: ByteModel, mini: EmbeddingModel, kind: str) -> None:
    pieces(HARD[kind], by_bytes, 64, 8)
    pieces(HARD[kind], mini, 64, 8)


@given(st.text(alphabet="ab .\n。猫é\u0301\u200d👩", max_size=400), st.integers(20, 60), st.integers(0, 10))
@settings(max_examples=150)
def test_any_text_is_its_pieces(by_bytes: ByteModel, text: str, max_tokens: int, overlap: int) -> None:
    pieces(text, by_bytes, max_tokens, overlap)


def test_options_that_a_model_does_not_have_are_errors(mini: EmbeddingModel) -> None:
    assert Splitting().resolved(mini) == (256, 32)
    assert Splitting(max_tokens=64).resolved(mini) == (64, 8)
    for wrong in (Splitting(max_tokens=257), Splitting(max_tokens=3), Splitting(max_tokens=True)):
        with pytest.raises(InvalidOptionError, match="the model 'mini' reads 20 to 256"):
            wrong.resolved(mini)
    with pytest.raises(InvalidOptionError, match="overlap=200: it may be 0 to 128"):
        Splitting(overlap=200).resolved(mini)
