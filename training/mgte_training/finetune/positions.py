"""Rotary positions that change from stage to stage: another base in training, another length afterwards."""

from dataclasses import dataclass, replace

from mgte_rag.config import ModelConfig, Rotary
from mgte_rag.errors import InvalidOptionError
from mgte_rag.nn.encoder import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """Rotary positions of a training stage, and of the model that it writes.

    mGTE goes from a base of 10,000 to 160,000 with the longer texts of its second stage. Its "reversed NTK" trains
    short texts with a base ``ntk_factor`` times lower, 20,000, without scaling; scaled by that factor afterwards, the
    model reads long texts as before.

    Attributes:
        theta: base of the frequencies in training; None leaves the model's positions as they are.
        ntk_factor: NTK scaling of the model that is written; 1 is none.
        max_length: tokens that the model that is written reads; None leaves the model's limit.

    Source: mGTE, arXiv 2407.19669, sections 2.1 and 2.2.
    """

    theta: float | None = None
    ntk_factor: float = 1.0
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.theta is not None and not self.theta > 1:
            raise InvalidOptionError(f"theta={self.theta!r}; the base of rotary positions is above 1")
        if not self.ntk_factor >= 1 or (self.theta is None and self.ntk_factor != 1):
            raise InvalidOptionError(
                f"theta={self.theta!r}, ntk_factor={self.ntk_factor!r}; a factor from 1 up on the base that theta says"
            )
        if self.max_length is not None and self.max_length < 1:
            raise InvalidOptionError(f"max_length={self.max_length!r}; a number of tokens is needed")


def use_positions(encoder: Encoder, config: ModelConfig, positions: Positions) -> ModelConfig:
    """Let an encoder train with other positions.

    Returns:
        The switches of the model that is written.

    Raises:
        InvalidOptionError: the model has a table of positions instead of rotary ones.
    """
    before = config.encoder
    if before.rotary is None:
        raise InvalidOptionError(
            "positions are for models with rotary positions, and this one has a table of them; 'mgte-rag init' makes a "
            "rotary model from its weights"
        )
    trained = before.rotary if positions.theta is None else Rotary(theta=positions.theta)
    scaled = positions.ntk_factor != 1
    written = replace(trained, scaling="ntk", factor=positions.ntk_factor) if scaled else trained
    length = positions.max_length or config.max_length
    longest = max(before.positions, length)
    encoder.config = replace(before, rotary=trained, positions=longest)
    return replace(config, encoder=replace(before, rotary=written, positions=longest), max_length=length)
