"""A new encoder of any size, with a tokenizer, a language model's head, and perhaps another encoder's weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from mgte_rag.checkpoints import Checkpoint, find_model, load_checkpoint
from mgte_rag.checkpoints.saving import new_folder, write_model
from mgte_rag.config import EncoderConfig, Gate, ModelConfig, Pooling, Rotary
from mgte_rag.errors import CheckpointError, InvalidOptionError
from mgte_rag.nn.model import RetrievalModel
from mgte_rag.tokenization import TextTokenizer
from mgte_training.data.readers import corpus_texts
from mgte_training.finetune.run_folder import found
from mgte_training.pretrain.new_tokenizer import TokenizerChoice, find_tokenizer, learn_tokenizer

_FIRST_WEIGHTS_STD = 0.02
_WORDS = "encoder.embeddings.word.weight"
_BIAS = "language.bias"
_TYPES = "encoder.embeddings.token_type.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEncoder:
    """The switches of a new encoder; what is not said is as mGTE has it.

    Attributes:
        layers: transformer layers.
        hidden: width of the residual stream.
        heads: attention heads; divides hidden.
        intermediate: inner width of the feed-forward block.
        max_length: tokens of the longest input.
        rope_base: base of the rotary positions.
        vocabulary: rows of the word embedding table, at least the tokenizer's tokens; None is as many.
        gate: which half of the gated feed-forward block is activated; "none" is a plain one.
        up_bias: whether the first feed-forward projection has a bias.
        norm_eps: epsilon of the norms.
        pooling: how texts become dense vectors.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    max_length: int
    rope_base: float = 10_000.0
    vocabulary: int | None = None
    gate: Gate = "second"
    up_bias: bool = False
    norm_eps: float = 1e-12
    pooling: Pooling = "cls"

    def config(self, tokens: int) -> ModelConfig:
        """All switches of a model with that many tokens.

        Raises:
            InvalidOptionError: a size out of its range, or a vocabulary smaller than the tokenizer's.
        """
        rows = tokens if self.vocabulary is None else self.vocabulary
        if rows < tokens:
            raise InvalidOptionError(f"vocabulary={rows:,}: the tokenizer has {tokens:,} tokens")
        try:
            encoder = EncoderConfig(
                vocabulary=rows,
                hidden=self.hidden,
                layers=self.layers,
                heads=self.heads,
                intermediate=self.intermediate,
                positions=self.max_length,
                rotary=Rotary(theta=self.rope_base),
                token_types=1,
                norm_eps=self.norm_eps,
                gate=self.gate,
                up_bias=self.up_bias,
            )
            return ModelConfig(encoder=encoder, max_length=self.max_length, pooling=self.pooling, language_model=True)
        except CheckpointError as error:
            raise InvalidOptionError(f"encoder: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModel:
    """A recipe for ``mgte-rag init``.

    Attributes:
        encoder: its sizes.
        tokenizer: its tokenizer.
        start: a model, a folder or hub id, whose weights are taken where they fit.
        seed: of all other weights.
    """

    encoder: NewEncoder
    tokenizer: TokenizerChoice
    start: str | None = None
    seed: int = field(default=0)


def make_model(
    recipe: NewModel, out: str | Path, *, data: str | Path = ".", say: Callable[[str], None] | None = None
) -> None:
    """Make a new model's folder, for ``EmbeddingModel.load`` and for training.

    Args:
        recipe: what to make.
        out: a new or empty folder.
        data: folder that the texts' and the tokenizer's relative paths are in.
        say: told what was made and taken, in sentences.

    Raises:
        InvalidOptionError: a size out of its range, or the folder is not empty.
        DataError: texts that cannot be read, or too few of them.
        CheckpointError: the tokenizer or the model to start from cannot be used.
    """
    say = say or (lambda _: None)
    data = Path(data)
    new_folder(out)  # before a tokenizer is learnt, which may take long
    tokenizer = _tokenizer(recipe.tokenizer, data)
    if tokenizer.mask_id is None:
        raise CheckpointError("the tokenizer has no mask token, [MASK] or <mask>; take another, or learn one")
    config = recipe.encoder.config(tokenizer.vocabulary)
    tensors = first_weights(config, recipe.seed)
    rest = sum(tensor.numel() for name, tensor in tensors.items() if name != _WORDS)
    say(
        f"{rest + tensors[_WORDS].numel():,} parameters, {tensors[_WORDS].numel():,} of them the embeddings of "
        f"{config.encoder.vocabulary:,} tokens"
    )
    if recipe.start is not None:
        start = load_checkpoint(find_model(recipe.start))
        say(take_weights(tensors, config, tokenizer, start))
    write_model(out, config, tensors, tokenizer)


def _tokenizer(choice: TokenizerChoice, data: Path) -> TextTokenizer:
    if choice.path:
        return find_tokenizer(found(choice.path, data))
    texts = chain.from_iterable(corpus_texts(found(path, data)) for path in choice.texts)
    return learn_tokenizer(texts, choice)


@torch.no_grad()
def first_weights(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Random weights: matrices normal with a deviation of 0.02, biases 0, norms 1 (BERT, arXiv 1810.04805)."""
    with torch.device("meta"):
        model = RetrievalModel(config)
    chance = torch.Generator().manual_seed(seed)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm | nn.RMSNorm)}
    tensors = {}
    for name, parameter in model.named_parameters():
        tensor = tensors[name] = torch.zeros(parameter.shape)
        if parameter.ndim > 1:
            tensor.normal_(0.0, _FIRST_WEIGHTS_STD, generator=chance)
        elif name.endswith("weight") and name.rpartition(".")[0] in norms:
            tensor.fill_(1.0)
    return tensors


def take_weights(tensors: dict[str, Tensor], config: ModelConfig, tokenizer: TextTokenizer, start: Checkpoint) -> str:
    """Put another model's weights in the place of new ones: embeddings by token, layers by number.

    Args:
        tensors: the new model's, changed here.
        config: its switches.
        tokenizer: its tokenizer.
        start: the other model.

    Returns:
        What was taken, in a sentence.

    Raises:
        InvalidOptionError: the other model is another kind of encoder, whose weights would mean nothing here.
    """
    name, ours, theirs = start.identity.name, config.encoder, start.config.encoder
    for switch in ("hidden", "heads", "pre_norm", "norm"):
        if getattr(ours, switch) != getattr(theirs, switch):
            raise InvalidOptionError(
                f"start={name!r} has {switch} {getattr(theirs, switch)!r}, the new encoder {getattr(ours, switch)!r}; "
                f"weights can be taken where they are equal"
            )
    there = start.read_weights()
    if _TYPES in there:
        there[_TYPES] = there[_TYPES][: ours.token_types]  # texts have the first type, whatever others there are
    pairs = _same_tokens(tokenizer, start.tokenizer)
    whole = [key for key in tensors if key in there and key not in (_WORDS, _BIAS)]
    if ours.gate != theirs.gate:  # equal shapes would mean something else
        whole = [key for key in whole if ".feed_forward." not in key]
    fitting = [key for key in whole if there[key].shape == tensors[key].shape]
    for key in fitting:
        tensors[key] = there[key].float()
    for key in (_WORDS, _BIAS):
        if key in there:
            tensors[key][pairs[0]] = there[key][pairs[1]].float()
    layers = min(ours.layers, theirs.layers)
    new = sorted(key for key in tensors if key not in fitting and key not in (_WORDS, _BIAS))
    return (
        f"taken from {name}: the embeddings of {len(pairs[0]):,} of {tokenizer.vocabulary:,} tokens, and "
        f"{len(fitting)} other tensors of {layers} layers, embeddings and head; begun anew: {_listed(new)}"
    )


def _same_tokens(ours: TextTokenizer, theirs: TextTokenizer) -> tuple[list[int], list[int]]:
    """Ids of the tokens that both have, in ours and in theirs."""
    found = [(index, theirs.token_id(ours.token(index))) for index in range(ours.vocabulary) if ours.token(index)]
    both = [(index, other) for index, other in found if other is not None]
    return [index for index, _ in both], [other for _, other in both]


def _listed(names: list[str]) -> str:
    """The modules that tensors are of."""
    modules = sorted({name.rpartition(".")[0] for name in names})
    return ", ".join(modules[:4]) + (f" and {len(modules) - 4} more" if len(modules) > 4 else "") or "nothing"
