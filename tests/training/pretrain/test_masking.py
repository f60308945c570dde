"""Which tokens are hidden: rates, whole words, markers, and what RetroMAE's decoder sees."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mgte_rag import InvalidOptionError
from mgte_rag.errors import CheckpointError
from mgte_rag.tokenization import TextTokenizer
from mgte_training.pretrain.masking import Masker, Masking, RetroMAE, word_begins


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """Pieces as sentencepiece has them, in two scripts."""
    pieces = ["<s>", "</s>", "<unk>", "<mask>", "▁", "▁un", "▁walk", "able", "ing", "s", "猫", "犬", "あ"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    path = tmp_path_factory.mktemp("unigram") / "tokenizer.json"
    tokenizer.save(str(path))
    return TextTokenizer(path)


@pytest.mark.parametrize("whole_words", [False, True])
def test_the_rates_are_those_asked_for_and_markers_are_never_hidden(
    tokenizer: TextTokenizer, whole_words: bool
) -> None:
    ids = np.tile(np.arange(5, tokenizer.vocabulary, dtype=np.int32), 60)
    ids[[0, -1]] = [2, 3]
    masked = Masker(tokenizer, Masking(whole_words=whole_words)).mask(ids, chance())
    kinds = {
        "mask": masked.seen == tokenizer.mask_id,
        "same": masked.seen == ids,
    }
    chosen = masked.chosen
    assert chosen.mean() == pytest.approx(0.3, abs=0.02)
    assert kinds["mask"][chosen].mean() == pytest.approx(0.8, abs=0.02)
    assert kinds["same"][chosen].mean() == pytest.approx(0.1, abs=0.02)
    assert kinds["same"][~chosen].all()
    assert not chosen[[0, -1]].any()
    assert not np.isin(masked.seen[chosen & ~kinds["mask"] & ~kinds["same"]], tokenizer.unsaid).any()


def test_words_begin_where_their_vocabulary_says_so(tokenizer: TextTokenizer, unigram: TextTokenizer) -> None:
    begins = word_begins(tokenizer)
    for index in range(5, tokenizer.vocabulary):
        assert begins[index] == (not tokenizer.token(index).startswith("##"))
    said = {unigram.token(index) for index in np.flatnonzero(word_begins(unigram))}
    assert said == {"▁", "▁un", "▁walk", "猫", "犬", "あ"}


def test_whole_words_are_hidden_whole_and_scripts_without_blanks_token_by_token(unigram: TextTokenizer) -> None:
    ids = np.array([0, 5, 7, 6, 8, 9, 4, 10, 11, 12, 1], dtype=np.int32)  # <s> un+able walk+ing+s _ 猫 犬 あ </s>
    units = [[1, 2], [3, 4, 5], [6], [7], [8], [9]]
    masker = Masker(unigram, Masking(rate=0.5, whole_words=True))
    patterns = set()
    for seed in range(1000):
        chosen = masker.mask(ids, chance(seed)).chosen
        assert all(chosen[unit].all() or not chosen[unit].any() for unit in units)
        patterns.add(tuple(bool(chosen[unit[0]]) for unit in units))
    assert len(patterns) == 2 ** len(units), "each unit is drawn by itself"


@pytest.mark.parametrize("whole_words", [False, True])
def test_each_of_the_decoders_predictions_has_a_visible_set_of_its_own_never_itself(
    tokenizer: TextTokenizer, whole_words: bool
) -> None:
    ids = tokenizer.tokenize(["cat and dog run under some tree " * 30], prompt="", max_length=200).ids[0]
    retro = RetroMAE(masking=Masking(whole_words=whole_words), hidden=0.5)
    visible = Masker(tokenizer, retro).mask(ids, chance()).visible
    assert visible is not None
    assert visible.shape == (len(ids) - 2, len(ids))
    assert visible[:, [0, -1]].all(), "the text's vector and the last marker are always seen"
    assert not visible[np.arange(len(visible)), np.arange(1, len(visible) + 1)].any()
    assert visible[:, 1:-1].mean() == pytest.approx(0.5, abs=0.03)
    assert len({row.tobytes() for row in visible}) == len(visible)


def test_the_same_chance_hides_the_same_and_another_does_not(tokenizer: TextTokenizer) -> None:
    ids = np.arange(5, 205, dtype=np.int32)
    masker = Masker(tokenizer, RetroMAE())
    one, again, other = (masker.mask(ids, chance(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.seen, again.seen)
    assert np.array_equal(one.visible, again.visible)
    assert not np.array_equal(one.chosen, other.chosen)


def test_rates_out_of_range_and_tokenizers_without_a_mask_are_refused(tmp_path: Path) -> None:
    for wrong in ({"rate": 0.0}, {"rate": 1.0}, {"mask": 0.9, "random": 0.2}):
        with pytest.raises(InvalidOptionError, match="share"):
            Masking(**wrong)
    with pytest.raises(InvalidOptionError, match="hidden=2"):
        RetroMAE(hidden=2.0)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="no mask token"):
        Masker(TextTokenizer(tmp_path / "tokenizer.json"), Masking())
