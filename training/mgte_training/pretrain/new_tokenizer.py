"""A tokenizer for a new model: another model's, or one learnt from texts."""

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mgte_rag.checkpoints import find_model
from mgte_rag.errors import DataError, InvalidOptionError
from mgte_rag.tokenization import TextTokenizer

Kind = Literal["unigram", "wordpiece"]
"""As XLM-R has it (mGTE, Jina, BGE-M3), or as BERT has it (mGTE's and BGE's English models)."""

# The tokens with a role of their own, in XLM-R's and BERT's order of the ids, the mask last.
_SPECIALS: dict[Kind, tuple[str, ...]] = {
    "unigram": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
}
_LEAST_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerChoice:
    """Where a new model's tokenizer comes from: ``path``, or ``texts`` to learn one from.

    Attributes:
        path: a tokenizer.json, a model's folder, or a hub id; None or "" is none.
        texts: files or folders of texts, as a corpus is read. Learning keeps their words in memory: of a large corpus
            give a sample.
        size: tokens to learn.
        kind: of tokenizer to learn.
        lower_case: make texts lower case; of a learnt one.
    """

    path: str | None = None
    texts: tuple[str, ...] = ()
    size: int = 32_000
    kind: Kind = "unigram"
    lower_case: bool = False

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.texts):
            raise InvalidOptionError(f"path={self.path!r}, texts={list(self.texts)}: give one of them")
        if self.size < _LEAST_SIZE or self.kind not in get_args(Kind):
            raise InvalidOptionError(
                f"size={self.size!r}, kind={self.kind!r}: at least {_LEAST_SIZE} tokens, and one of "
                f"{', '.join(get_args(Kind))}"
            )


def find_tokenizer(path: str) -> TextTokenizer:
    """The tokenizer of a file, a model's folder, or a model of the hub.

    Raises:
        CheckpointError: it is not there or cannot be used.
        UnknownModelError: the name is neither.
    """
    is_file = os.path.isfile(os.path.expanduser(path))
    return TextTokenizer(Path(path).expanduser() if is_file else find_model(path).path / "tokenizer.json")


def learn_tokenizer(texts: Iterable[str], choice: TokenizerChoice) -> TextTokenizer:
    """Learn a vocabulary from texts; ties are broken by chance, so two on the same texts may differ a little.

    Raises:
        DataError: the texts do not have that many different tokens.
    """
    begun, trainer = _BEGIN[choice.kind](choice)
    begun.train_from_iterator(texts, trainer)
    if begun.get_vocab_size() < _LEAST_SIZE:
        raise DataError(
            f"the texts gave {begun.get_vocab_size()} tokens of the {choice.size:,} asked for; at least {_LEAST_SIZE} "
            f"are needed: give more texts"
        )
    begun.post_processor = _markers(choice.kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        begun.save(str(path))
        return TextTokenizer(path)


def _unigram(choice: TokenizerChoice) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.Unigram())
    steps = [normalizers.NFKC(), *([normalizers.Lowercase()] if choice.lower_case else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = _SPECIALS["unigram"]
    marked = [*specials[:-1], AddedToken(specials[-1], lstrip=True, special=True)]
    trainer = trainers.UnigramTrainer(
        vocab_size=choice.size, special_tokens=marked, unk_token="<unk>", show_progress=False
    )
    return tokenizer, trainer


def _wordpiece(choice: TokenizerChoice) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=choice.lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=choice.size, special_tokens=list(_SPECIALS["wordpiece"]), show_progress=False
    )
    return tokenizer, trainer


_BEGIN: dict[Kind, Callable[[TokenizerChoice], tuple[Tokenizer, trainers.Trainer]]] = {
    "unigram": _unigram,
    "wordpiece": _wordpiece,
}


def _markers(kind: Kind) -> processors.TemplateProcessing:
    """What stands around texts; the special tokens have the first ids, in their order."""
    names = _SPECIALS[kind]
    first, last = ("<s>", "</s>") if kind == "unigram" else ("[CLS]", "[SEP]")
    pair = f"{first} $A {last} {last} $B {last}" if kind == "unigram" else f"{first} $A {last} $B:1 {last}:1"
    known = [(name, names.index(name)) for name in (first, last)]
    return processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=known)
