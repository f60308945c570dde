"""What a model is made of, as frozen dataclasses: checkpoints fill them in, everything else reads them."""

from dataclasses import dataclass
from typing import Literal

from mgte_rag.errors import CheckpointError

Pooling = Literal["cls", "mean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """The switches of a transformer encoder.

    Attributes:
        vocabulary: rows of the word embedding table.
        hidden: width of the residual stream.
        layers: transformer layers.
        heads: attention heads; divides hidden.
        intermediate: inner width of the feed-forward block.
        positions: rows of the position embedding table, the longest input.
        token_types: rows of the token type table.
        norm_eps: epsilon of every layer norm.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    token_types: int
    norm_eps: float

    def __post_init__(self) -> None:
        for name in ("vocabulary", "hidden", "layers", "heads", "intermediate", "positions", "token_types"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise CheckpointError(
                    f"the model's configuration gives {name} = {value!r}; a whole number above 0 is needed"
                )
        if self.hidden % self.heads:
            raise CheckpointError(f"hidden size {self.hidden} is not a multiple of the {self.heads} attention heads")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """An encoder and how its hidden states become vectors.

    Attributes:
        encoder: the encoder's switches.
        pooling: "mean" over all tokens or the first token ("cls").
        max_length: tokens the model reads at most, markers included.
        query_prompt: text put before every query.
        document_prompt: text put before every document.
    """

    encoder: EncoderConfig
    pooling: Pooling
    max_length: int
    query_prompt: str = ""
    document_prompt: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.max_length <= self.encoder.positions:
            raise CheckpointError(
                f"max_length is {self.max_length}, but the encoder has positions for {self.encoder.positions} tokens"
            )
