"""Texts to batches: every text once a pass, shares, lengths, and a store on the disk."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgte_rag import DataError, InvalidOptionError
from mgte_rag.tokenization import TextTokenizer
from mgte_training.data.readers import corpus_texts
from mgte_training.pretrain import token_store as module
from mgte_training.pretrain.text_plan import TextBatches, TextPlan, TextSource
from mgte_training.pretrain.token_store import token_store

Make = Callable[..., TextPlan]


def test_the_pieces_of_all_texts_are_their_tokens_and_each_is_read_once_a_pass(
    make_plan: Make, corpus: Path, tokenizer: TextTokenizer
) -> None:
    plan = make_plan(steps=60, length=32, alpha=1.0, min_tokens=1)
    read = Counter(ids.tobytes() for step in range(plan.steps) for _, ids in plan.texts(step))
    pieces = Counter[bytes]()
    for name in ("many", "few"):
        for text in corpus_texts(corpus / f"{name}.jsonl"):
            ids = tokenizer.tokenize([text], prompt="", max_length=10_000).ids[0]
            for start in range(1, len(ids) - 1, 30):
                piece = np.concatenate([ids[:1], ids[start : min(start + 30, len(ids) - 1)], ids[-1:]])
                pieces[piece.tobytes()] += 1
    passes = sum(read.values()) / sum(pieces.values())
    assert read.keys() <= pieces.keys()
    assert all(read[piece] <= (passes + 1) * times for piece, times in pieces.items())


def test_batches_are_functions_of_seed_and_step_and_shared_out_evenly(make_plan: Make) -> None:
    plan, again, other = make_plan(), make_plan(), make_plan(seed=1)
    same = [[ids.tolist() for _, ids in each.texts(2)] for each in (plan, again, other)]
    assert same[0] == same[1] != same[2]
    whole = dict(plan.texts(3))
    shares = [plan.texts(3, rank, 2) for rank in range(2)]
    both = {place: ids for share in shares for place, ids in share}
    assert both.keys() == whole.keys()
    assert all(np.array_equal(both[place], whole[place]) for place in whole)
    tokens = [sum(len(ids) for _, ids in share) for share in shares]
    assert abs(tokens[0] - tokens[1]) <= 32
    with pytest.raises(IndexError):
        plan.texts(4)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_sampling_exponent_gives_small_sources_their_share(make_plan: Make, alpha: float) -> None:
    plan = make_plan(steps=400, batch=10, alpha=alpha, length=64)
    sizes = np.array([len(each.starts) for each in plan._pieces], dtype=float)
    np.testing.assert_allclose(plan.shares, sizes**alpha / (sizes**alpha).sum())
    assert plan._counts.sum() == 4000
    np.testing.assert_allclose(plan._counts.sum(0) / 4000, plan.shares, atol=0.03)
    assert "many" in plan.describe()


def test_short_texts_are_down_sampled_and_counted(make_plan: Make) -> None:
    whole, less, none = (make_plan(length=64, short_tokens=40, keep_short=share) for share in (1.0, 0.3, 0.0))
    lengths = [each._pieces[0].lengths for each in (whole, less, none)]
    assert lengths[2].min() >= 40
    short = [(each < 40).sum() for each in lengths]
    assert short[1] / short[0] == pytest.approx(0.3, abs=0.12)
    assert len(lengths[0]) - len(lengths[2]) == none._pieces[0].left_out - whole._pieces[0].left_out


def test_a_store_is_written_once_and_a_part_of_one_anew(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    texts = ["return the number of items", "", "a new list"]
    path = tmp_path / "tokens" / "0"
    store = token_store(path, texts, tokenizer, show_progress=False)
    assert len(store.ends) == 2, "an empty text is none"
    before = store.tokens.tolist()
    again = token_store(path, iter(()), tokenizer, show_progress=False)
    assert again.tokens.tolist() == before
    path.with_suffix(".npy").unlink()  # as a run that was killed leaves it
    assert token_store(path, texts, tokenizer, show_progress=False).tokens.tolist() == before


def test_long_texts_are_tokenised_few_at_once(
    tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a list of items " * size for size in (1, 9, 1, 1, 30, 2)]
    whole = token_store(tmp_path / "0", texts, tokenizer, show_progress=False)
    sizes: list[int] = []
    tokenize = TextTokenizer.tokenize

    def counted(self: TextTokenizer, some: list[str], **options: Any) -> Any:
        sizes.append(len(some))
        return tokenize(self, some, **options)

    monkeypatch.setattr(TextTokenizer, "tokenize", counted)
    monkeypatch.setattr(module, "_CHARACTERS_AT_ONCE", 100)
    again = token_store(tmp_path / "1", texts, tokenizer, show_progress=False)
    assert sizes == [2, 3, 1]
    assert again.tokens.tolist() == whole.tokens.tolist()
    assert again.ends.tolist() == whole.ends.tolist()


def test_a_full_disk_is_an_error_that_says_what_to_do_and_the_store_is_written_when_there_is_room(
    tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(DataError, match=r"0: No space left on device; .*0\.bin: .* give the same command again"):
            token_store(tmp_path / "0", ["a list"], tokenizer, show_progress=False)
    assert len(token_store(tmp_path / "0", ["a list"], tokenizer, show_progress=False).ends) == 1


def test_texts_that_cannot_be_read_and_empty_corpora_are_errors(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no text with a token in the texts of .*0; give another source"):
        token_store(tmp_path / "0", ["", " "], tokenizer, show_progress=False)
    with pytest.raises(DataError, match=r"no file that ends in \.jsonl"):
        list(corpus_texts(tmp_path / "."))
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"bad\.txt: cannot be read as text in UTF-8"):
        list(corpus_texts(tmp_path))
    (tmp_path / "bad.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"bad\.txt: there is no text"):
        list(corpus_texts(tmp_path))
    (tmp_path / "bad.txt").write_text("some text\n")
    (tmp_path / "more.jsonl").write_text('{"title": "a", "text": "b"}\n{"tex": "c"}\n')
    with pytest.raises(DataError, match=r"more\.jsonl, line 2: a document is an object with text"):
        list(corpus_texts(tmp_path))
    (tmp_path / "more.jsonl").write_text('{"title": "a", "text": "b"}\n')
    assert list(corpus_texts(tmp_path)) == ["some text", "a b"]


def test_plans_that_cannot_be_are_refused(make_plan: Make) -> None:
    with pytest.raises(InvalidOptionError, match="markers alone are 2"):
        make_plan(length=2)
    with pytest.raises(DataError, match=r"'many' .* lower min_tokens or raise keep_short"):
        make_plan(short_tokens=1000, keep_short=0.0)
    with pytest.raises(InvalidOptionError, match="batch=0"):
        TextBatches(steps=1, batch=0, length=8)
    with pytest.raises(InvalidOptionError, match="a weight above 0"):
        TextSource(name="a", path="a", weight=0.0)
