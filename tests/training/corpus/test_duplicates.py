"""Exact, near and repeated texts; precision and recall on duplicates that were planted among real texts."""

import random
import sys
from collections.abc import Callable

import pytest

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import MissingExtraError
from mgte_training.corpus import Pair
from mgte_training.corpus.duplicates import Duplicates
from mgte_training.corpus.words import tokens

Make = Callable[..., Pair]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = tokens(text.casefold())
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other)


def edited(text: str, share: float, chance: random.Random) -> str:
    """The text with a share of its words in one stretch replaced."""
    words = text.split()
    count = max(1, round(share * len(words)))
    start = chance.randrange(len(words) - count + 1)
    words[start : start + count] = [f"new{chance.randrange(10**9)}" for _ in range(count)]
    return " ".join(words)


def test_planted_near_duplicates_are_found_and_other_texts_are_not(stdlib_docs: list[DocEntry]) -> None:
    chance = random.Random(0)
    longer = sorted({entry.text for entry in stdlib_docs if len(entry.text.split()) >= 40})
    originals: dict[str, set[tuple[str, ...]]] = {}  # real texts that have no duplicate among them
    for text in chance.sample(longer, 300):
        if len(originals) < 150 and all(jaccard(shingles(text), each) < 0.5 for each in originals.values()):
            originals[text] = shingles(text)
    duplicates = Duplicates(near=0.8, max_repeats=5, seed=0)
    for number, text in enumerate(originals):
        assert duplicates.add(Pair(f"query {number}", text, "pair", "a")) == ("", "")  # no false alarm among 150
    found, wrong, missed, clear = 0, 0, 0, 0
    for number, text in enumerate(originals):
        for share in (0.02, 0.05, 0.1, 0.2, 0.3):
            copy = edited(text, share, chance)
            similarity = jaccard(shingles(copy), shingles(text))
            is_found = duplicates.add(new := Pair(f"copy {number} {share}", copy, "pair", "a"))[0] == "near duplicate"
            if not is_found:
                duplicates.remove(new)  # each copy is compared with the originals alone
            found += is_found
            wrong += is_found and similarity < 0.75
            clear += similarity >= 0.85
            missed += similarity >= 0.85 and not is_found
    assert clear > 200
    assert 1 - missed / clear >= 0.98  # recall of duplicates with a similarity of 0.85 and more, at a threshold of 0.8
    assert 1 - wrong / found >= 0.99  # precision: those found have a similarity of 0.75 and more


def test_exact_duplicates_differ_in_case_blanks_and_punctuation_at_most(pair: Make) -> None:
    duplicates = Duplicates(near=None, max_repeats=5, seed=0)
    assert duplicates.add(pair(query="What is a cat?")) == ("", "")
    assert duplicates.add(pair(query="what is a  CAT"))[0] == "exact duplicate"
    assert duplicates.add(pair(query="what is a dog")) == ("", "")
    assert len(duplicates) == 2


@pytest.mark.parametrize("near", [None, 0.8])
def test_a_text_may_have_several_partners_but_not_any_number(
    pair: Make, words: Callable[..., str], near: float | None
) -> None:
    duplicates = Duplicates(near=near, max_repeats=2, seed=0)
    kinds = [duplicates.add(pair(query=f"question {number}"))[0] for number in range(3)]
    assert kinds == ["", "", "repeated text"]
    kinds = [duplicates.add(pair(query="one", positive=words(number)))[0] for number in range(3)]
    assert kinds == ["", "", "repeated text"]


def test_what_was_removed_is_forgotten(pair: Make, words: Callable[..., str]) -> None:
    duplicates = Duplicates(near=0.8, max_repeats=1, seed=0)
    text = words("long", 100)
    first, second = pair(positive=text), pair(query="another", positive=text + " more")
    assert duplicates.add(first)[0] == ""
    assert duplicates.add(second)[0] == "near duplicate"
    duplicates.remove(first)
    assert len(duplicates) == 0
    assert duplicates.add(second)[0] == ""
    assert duplicates.add(first)[0] == "near duplicate"


def test_near_duplicates_are_found_in_scripts_without_spaces_and_in_short_texts(pair: Make) -> None:
    duplicates = Duplicates(near=0.8, max_repeats=5, seed=0)
    text = "表达式是一个或多个值操作符或函数的组合在各个子句中使用包括分组过滤连接条件以及窗口函数等等"
    for positive in (text, "猫", "a cat"):
        assert duplicates.add(pair(query=positive, positive=positive))[0] == ""
    assert duplicates.add(pair(query="b", positive=text + "的"))[0] == "near duplicate"
    assert duplicates.add(pair(query="c", positive="犬"))[0] == ""


def test_a_missing_package_is_an_error_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r"finding near duplicates needs .* 'mgte-rag\[train\]'"):
        Duplicates(near=0.8, max_repeats=5, seed=0)
    Duplicates(near=None, max_repeats=5, seed=0)
