from pathlib import Path

import numpy as np
import pytest

from mgte_rag import CheckpointError, InputTypeError
from mgte_rag.tokenization import TextTokenizer, check_texts


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> TextTokenizer:
    return TextTokenizer(tiny_bert / "tokenizer.json")


def ids(tokenizer: TextTokenizer, text: str, *, prompt: str = "", max_length: int = 32) -> list[int]:
    return tokenizer.tokenize([text], prompt=prompt, max_length=max_length).ids[0].tolist()


def test_the_files_own_truncation_and_padding_are_ignored(tokenizer: TextTokenizer) -> None:
    assert ids(tokenizer, "cat " * 12) == [2] + [6] * 12 + [3]
    assert ids(tokenizer, "cat") == [2, 6, 3]


def test_truncation_keeps_the_markers_and_says_so(tokenizer: TextTokenizer) -> None:
    tokens = tokenizer.tokenize(["the cat sat on", "the cat"], prompt="", max_length=4)
    assert [row.tolist() for row in tokens.ids] == [[2, 5, 6, 3], [2, 5, 6, 3]]
    assert tokens.truncated.tolist() == [True, False]


def test_a_prompt_stands_before_every_text(tokenizer: TextTokenizer) -> None:
    assert ids(tokenizer, "cat", prompt="the ") == ids(tokenizer, "the cat")


def test_an_empty_text_is_its_markers(tokenizer: TextTokenizer) -> None:
    assert ids(tokenizer, "") == ids(tokenizer, " \n\t ") == [2, 3]
    assert tokenizer.min_length == 2


@pytest.mark.parametrize(
    "text", ["cat", "the dog ran. " * 500, "x" * 5000, " " * 5000 + "cat", "猫" * 3000, "a\u2003b " * 999]
)
def test_looking_only_at_a_long_texts_head_changes_nothing(tokenizer: TextTokenizer, text: str) -> None:
    whole = tokenizer._encode([text])[0]
    tokens = tokenizer.tokenize([text], prompt="", max_length=32)
    assert tokens.ids[0].tolist() == [2, *whole[:30], 3]
    assert tokens.truncated.tolist() == [len(whole) > 30]


def test_a_lone_surrogate_reads_as_the_replacement_character(tokenizer: TextTokenizer) -> None:
    assert ids(tokenizer, "cat \ud800 dog") == ids(tokenizer, "cat \ufffd dog")


def test_a_surrogate_pair_reads_as_its_character(tokenizer: TextTokenizer) -> None:
    assert ids(tokenizer, "cat \ud83d\ude00") == ids(tokenizer, "cat 😀")


def test_no_texts_give_no_ids(tokenizer: TextTokenizer) -> None:
    tokens = tokenizer.tokenize([], prompt="", max_length=8)
    assert tokens.ids == []
    assert tokens.truncated.dtype == np.bool_


def test_a_string_is_a_list_of_one() -> None:
    assert check_texts("abc") == ["abc"]


@pytest.mark.parametrize(("texts", "position"), [(["a", None], 1), (["a", "b", 3], 2), ([b"x"], 0)])
def test_something_that_is_no_string_is_an_error_naming_its_position(texts: list, position: int) -> None:
    with pytest.raises(InputTypeError, match=rf"texts\[{position}\] must be a string"):
        check_texts(texts)


@pytest.mark.parametrize("texts", [None, 3])
def test_something_that_is_no_list_is_an_error(texts: object) -> None:
    with pytest.raises(TypeError, match="list of strings"):
        check_texts(texts)  # type: ignore[arg-type]


def test_a_damaged_tokenizer_file_is_an_error_naming_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        TextTokenizer(tmp_path / "tokenizer.json")
