"""What a model is made of, as frozen dataclasses: checkpoints fill them in, everything else reads them."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mgte_rag.errors import CheckpointError

Pooling = Literal["cls", "mean"]
Scaling = Literal["none", "linear", "ntk"]
Gate = Literal["none", "first", "second"]
Norm = Literal["layer", "rms"]
Activation = Literal["tanh", "gelu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary positions: which angle per position each pair of components turns by.

    Attributes:
        theta: base of the frequencies.
        scaling: "linear" divides every frequency by factor; "ntk" is mGTE's reversed NTK (nn/rotary.py).
        factor: how many times longer than in training the texts may be.
        mixed_b: exponent of the mixed variant of "ntk"; None is the plain one.
    """

    theta: float
    scaling: Scaling = "none"
    factor: float = 1.0
    mixed_b: float | None = None

    def __post_init__(self) -> None:
        _check_choice(self, "scaling", Scaling)
        if not self.theta > 1 or not self.factor > 0:
            raise CheckpointError(
                f"the rotary positions have theta {self.theta!r} and factor {self.factor!r}; "
                f"theta above 1 and a factor above 0 are needed"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """The switches of a transformer encoder.

    Attributes:
        vocabulary: rows of the word embedding table.
        hidden: width of the residual stream.
        layers: transformer layers.
        heads: attention heads; divides hidden.
        intermediate: inner width of the feed-forward block.
        positions: rows of the position embedding table; with rotary positions the longest input.
        position_offset: row of a text's first token in that table (XLM-R: padding id + 1).
        rotary: rotary positions instead of a table.
        token_types: rows of the token type table; 0 is none.
        pre_norm: norms before attention and feed-forward and one at the end, the first layer's attention without.
        norm: "layer" or "rms".
        norm_eps: epsilon of every norm.
        norm_bias: whether layer norms have a bias.
        attention_bias: whether the projections around attention have a bias.
        gate: which half of the first feed-forward projection goes through the GELU and multiplies the other;
            "none" is a plain two-projection block.
        up_bias: whether the first feed-forward projection has a bias.
        down_bias: whether the second one has.
        local_window: tokens seen to each side in local layers; None is no local layer.
        local_rotary: rotary positions of local layers.
        global_every: layers 0, global_every, 2 * global_every, ... see the whole text, the others are local.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    position_offset: int = 0
    rotary: Rotary | None = None
    token_types: int
    pre_norm: bool = False
    norm: Norm = "layer"
    norm_eps: float
    norm_bias: bool = True
    attention_bias: bool = True
    gate: Gate = "none"
    up_bias: bool = True
    down_bias: bool = True
    local_window: int | None = None
    local_rotary: Rotary | None = None
    global_every: int = 1

    def __post_init__(self) -> None:
        for name in ("vocabulary", "hidden", "layers", "heads", "intermediate", "positions", "global_every"):
            _check_count(self, name, lowest=1)
        for name in ("token_types", "position_offset"):
            _check_count(self, name, lowest=0)
        for name in ("pre_norm", "norm_bias", "attention_bias", "up_bias", "down_bias"):
            if not isinstance(getattr(self, name), bool):
                raise CheckpointError(
                    f"the model's configuration gives {name} = {getattr(self, name)!r}; true or false"
                )
        if not isinstance(self.norm_eps, float | int) or not self.norm_eps > 0:
            raise CheckpointError(
                f"the model's configuration gives norm_eps = {self.norm_eps!r}; a number above 0 is needed"
            )
        _check_choice(self, "norm", Norm)
        _check_choice(self, "gate", Gate)
        if self.hidden % self.heads:
            raise CheckpointError(f"hidden size {self.hidden} is not a multiple of the {self.heads} attention heads")
        if self.rotary is not None and self.head_dim % 2:
            raise CheckpointError(f"rotary positions need an even head size, not {self.head_dim}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def longest(self) -> int:
        """Tokens of the longest input, markers included."""
        return self.positions - self.position_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiVectorConfig:
    """A late-interaction head and which tokens have a vector.

    Attributes:
        dims: sizes a token's vector may have, ascending.
        sliced: one projection to the largest size, smaller ones are its first components; else one projection each.
        bias: whether the projections have a bias.
        first_token: whether the text's first token, [CLS], has a vector.
        query_marker: token put after the first token of every query, by name; None is no marker.
        document_marker: the same for documents.
        query_length: queries are cut to this length and filled up to it with the tokenizer's mask token; None: neither.
        attend_to_mask: whether a query's text attends to the mask tokens it was filled up with.
        skipped: tokens of documents that have no vector, by name; names the tokenizer does not know are ignored.
        mean: MaxSim is divided by the number of the query's tokens.
    """

    dims: tuple[int, ...]
    sliced: bool = False
    bias: bool = False
    first_token: bool = True
    query_marker: str | None = None
    document_marker: str | None = None
    query_length: int | None = None
    attend_to_mask: bool = True
    skipped: tuple[str, ...] = ()
    mean: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig:
    """A reranker's head: pool, project, activate, perhaps normalise, project to one logit.

    Attributes:
        pooling: "cls" or "mean".
        activation: after the first projection.
        bias: whether the first projection has a bias.
        norm: whether a layer norm follows the activation.
    """

    pooling: Pooling = "cls"
    activation: Activation = "tanh"
    bias: bool = True
    norm: bool = False

    def __post_init__(self) -> None:
        _check_choice(self, "pooling", Pooling)
        _check_choice(self, "activation", Activation)


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridWeights:
    """What each output counts in the hybrid score.

    Attributes:
        dense: factor of the cosine.
        sparse: factor of the sparse dot product.
        multi_vector: factor of MaxSim.
        averaged: the sum is divided by the sum of the factors of the outputs that are there.
    """

    dense: float = 1.0
    sparse: float = 1.0
    multi_vector: float = 1.0
    averaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """An encoder and how its hidden states become vectors and scores.

    Attributes:
        encoder: the encoder's switches.
        max_length: tokens the model reads at most, markers included.
        pooling: "mean" over all tokens or the first token ("cls"); None is no dense output.
        dims: sizes the dense vector may have, ascending, the last is the default; empty is hidden alone.
        query_prompt: text put before every query.
        document_prompt: text put before every document.
        sparse: whether there is a sparse head.
        lexicon: whether the sparse head has a lexicon (nn/heads.py); queries and documents then count differently.
        multi_vector: the late-interaction head.
        classifier: the reranker's head.
        language_model: whether there is a masked language model's head, for training.
        weights: the published weights of the hybrid score.
        licence: the licence of published weights where it is not a free one; told once on loading.
    """

    encoder: EncoderConfig
    max_length: int
    pooling: Pooling | None
    dims: tuple[int, ...] = ()
    query_prompt: str = ""
    document_prompt: str = ""
    sparse: bool = False
    lexicon: bool = False
    multi_vector: MultiVectorConfig | None = None
    classifier: ClassifierConfig | None = None
    language_model: bool = False
    weights: HybridWeights = field(default_factory=HybridWeights)
    licence: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_length <= self.encoder.longest:
            raise CheckpointError(
                f"max_length is {self.max_length}, but the encoder has positions for {self.encoder.longest} tokens"
            )
        if self.pooling is not None:
            _check_choice(self, "pooling", Pooling)
            if not self.dims:
                object.__setattr__(self, "dims", (self.encoder.hidden,))


def _check_count(config: Any, name: str, *, lowest: int) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise CheckpointError(
            f"the model's configuration gives {name} = {value!r}; a whole number from {lowest} on is needed"
        )


def _check_choice(config: Any, name: str, choices: Any) -> None:
    value = getattr(config, name)
    if value not in get_args(choices):
        raise CheckpointError(
            f"the model's configuration gives {name} = {value!r}; supported are {', '.join(get_args(choices))}"
        )
