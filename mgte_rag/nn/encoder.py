"""The packed transformer encoder: token ids to hidden states.

Mixed precision is fixed by where the weights are: the projections compute in the dtype of their weights (bf16 or
fp32), the residual stream and every norm stay in fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mgte_rag.config import EncoderConfig, Norm
from mgte_rag.nn.attention import SelfAttention
from mgte_rag.nn.feed_forward import FeedForward
from mgte_rag.nn.packing import PackedBatch
from mgte_rag.nn.rotary import Rotation, rotation


def make_norm(hidden: int, *, kind: Norm, eps: float, bias: bool) -> nn.Module:
    """A layer norm, or an RMS norm, which has no bias."""
    return nn.LayerNorm(hidden, eps=eps, bias=bias) if kind == "layer" else nn.RMSNorm(hidden, eps=eps)


class Embeddings(nn.Module):
    """Word, position and token type embeddings, summed and normalised (Devlin et al. 2019, arXiv 1810.04805).

    Args:
        vocabulary: rows of the word table.
        positions: rows of the position table; 0 is none, for rotary positions.
        position_offset: row of a text's first token.
        token_types: rows of the token type table; 0 is none.
        hidden: width of the residual stream.
        norm: the norm at the end.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        positions: int,
        position_offset: int,
        token_types: int,
        hidden: int,
        norm: nn.Module,
    ) -> None:
        super().__init__()
        self.position_offset = position_offset
        self.word = nn.Embedding(vocabulary, hidden)
        self.position = nn.Embedding(positions, hidden) if positions else None
        self.token_type = nn.Embedding(token_types, hidden) if token_types else None
        self.norm = norm

    def forward(self, batch: PackedBatch) -> Tensor:
        """Ids [tokens] -> fp32 [tokens, hidden]. Tokens have type 0 where the batch does not say otherwise."""
        hidden = self.word(batch.ids).float()
        if self.position is not None:
            hidden = hidden + self.position(batch.positions + self.position_offset)
        if self.token_type is not None:
            hidden = hidden + (self.token_type.weight[0] if batch.types is None else self.token_type(batch.types))
        return self.norm(hidden)


class EncoderLayer(nn.Module):
    """Attention, then feed-forward, each added to the residual stream.

    Post-norm normalises the stream after each addition, pre-norm what goes into each block.

    Args:
        attention: the attention block.
        attention_norm: its norm, or the identity.
        feed_forward: the feed-forward block.
        feed_forward_norm: its norm.
        pre_norm: norms before the blocks.
    """

    def __init__(
        self,
        *,
        attention: SelfAttention,
        attention_norm: nn.Module,
        feed_forward: FeedForward,
        feed_forward_norm: nn.Module,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = attention
        self.attention_norm = attention_norm
        self.feed_forward = feed_forward
        self.feed_forward_norm = feed_forward_norm
        self.dropout = 0.0

    def forward(self, hidden: Tensor, batch: PackedBatch, turn: Rotation | None = None) -> Tensor:
        """fp32 [tokens, hidden] -> fp32 [tokens, hidden]."""
        dtype = self.attention.qkv.dtype
        if self.pre_norm:
            hidden = self._added(hidden, self.attention(self.attention_norm(hidden).to(dtype), batch, turn))
            return self._added(hidden, self.feed_forward(self.feed_forward_norm(hidden).to(dtype)))
        hidden = self.attention_norm(self._added(hidden, self.attention(hidden.to(dtype), batch, turn)))
        return self.feed_forward_norm(self._added(hidden, self.feed_forward(hidden.to(dtype))))

    def _added(self, stream: Tensor, block: Tensor) -> Tensor:
        """The residual stream with a block's result, in place where no gradient needs what was there."""
        if self.training and self.dropout:
            block = F.dropout(block, self.dropout)
        return stream + block if torch.is_grad_enabled() else stream.add_(block)


class Encoder(nn.Module):
    """Embeddings and a stack of layers, built from a configuration."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(
            vocabulary=config.vocabulary,
            positions=0 if config.rotary else config.positions,
            position_offset=config.position_offset,
            token_types=config.token_types,
            hidden=config.hidden,
            norm=self._norm(),
        )
        self.layers = nn.ModuleList(self._layer(number) for number in range(config.layers))
        self.final_norm = self._norm() if config.pre_norm else nn.Identity()
        self.recompute = False

    def _norm(self) -> nn.Module:
        config = self.config
        return make_norm(config.hidden, kind=config.norm, eps=config.norm_eps, bias=config.norm_bias)

    def _is_local(self, number: int) -> bool:
        return self.config.local_window is not None and number % self.config.global_every > 0

    def _layer(self, number: int) -> EncoderLayer:
        config = self.config
        return EncoderLayer(
            attention=SelfAttention(
                hidden=config.hidden,
                heads=config.heads,
                bias=config.attention_bias,
                window=config.local_window if self._is_local(number) else None,
            ),
            attention_norm=nn.Identity() if config.pre_norm and number == 0 else self._norm(),
            feed_forward=FeedForward(
                hidden=config.hidden,
                intermediate=config.intermediate,
                gate=config.gate,
                up_bias=config.up_bias,
                down_bias=config.down_bias,
            ),
            feed_forward_norm=self._norm(),
            pre_norm=config.pre_norm,
        )

    def forward(self, batch: PackedBatch) -> Tensor:
        """Packed token ids [tokens] -> hidden states, fp32 [tokens, hidden]."""
        config = self.config
        turn, local_turn = (
            None if rotary is None else rotation(rotary, config.head_dim, batch.positions)
            for rotary in (config.rotary, config.local_rotary)
        )
        hidden = self.embeddings(batch)
        for number, layer in enumerate(self.layers):
            own_turn = local_turn if self._is_local(number) else turn
            if self.recompute and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, batch, own_turn, use_reentrant=False)
            else:
                hidden = layer(hidden, batch, own_turn)
        return self.final_norm(hidden)

    def set_training(self, *, dropout: float = 0.0, recompute: bool = False) -> None:
        """What holds in training mode only.

        Args:
            dropout: share of each block's result set to 0 before it is added to the residual stream.
            recompute: compute each layer's inner values again on the way back instead of keeping them (gradient
                checkpointing; Chen et al. 2016, arXiv 1604.06174).
        """
        self.recompute = recompute
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer), "a stack of something else"
            layer.dropout = dropout
