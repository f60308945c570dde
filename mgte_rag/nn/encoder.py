"""The packed transformer encoder: token ids to hidden states.

Mixed precision is fixed by where the weights are: the projections compute in the dtype of their weights (bf16 or
fp32), the residual stream and every layer norm stay in fp32.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mgte_rag.config import EncoderConfig
from mgte_rag.nn.attention import SelfAttention
from mgte_rag.nn.packing import PackedBatch


class Embeddings(nn.Module):
    """Word, position and token type embeddings, summed and normalised (Devlin et al. 2019, arXiv 1810.04805)."""

    def __init__(self, *, vocabulary: int, positions: int, token_types: int, hidden: int, norm_eps: float) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, hidden)
        self.position = nn.Embedding(positions, hidden)
        self.token_type = nn.Embedding(token_types, hidden)
        self.norm = nn.LayerNorm(hidden, eps=norm_eps)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Ids [tokens] -> fp32 [tokens, hidden]. Every token has type 0: the texts are not pairs."""
        word = self.word(batch.ids).float()
        return self.norm(word + self.position(batch.positions) + self.token_type.weight[0])


class FeedForward(nn.Module):
    """Two projections with the exact (erf) GELU between them."""

    def __init__(self, *, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, intermediate)
        self.down = nn.Linear(intermediate, hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        return self.down(F.gelu(self.up(hidden)))


class EncoderLayer(nn.Module):
    """Attention, then feed-forward; each is added to the residual stream and normalised (post-norm)."""

    def __init__(self, *, hidden: int, heads: int, intermediate: int, norm_eps: float) -> None:
        super().__init__()
        self.attention = SelfAttention(hidden=hidden, heads=heads)
        self.attention_norm = nn.LayerNorm(hidden, eps=norm_eps)
        self.feed_forward = FeedForward(hidden=hidden, intermediate=intermediate)
        self.feed_forward_norm = nn.LayerNorm(hidden, eps=norm_eps)

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """fp32 [tokens, hidden] -> fp32 [tokens, hidden]."""
        dtype = self.attention.qkv.weight.dtype
        hidden = self.attention_norm(hidden + self.attention(hidden.to(dtype), batch))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden.to(dtype)))


class Encoder(nn.Module):
    """Embeddings and a stack of layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(
            vocabulary=config.vocabulary,
            positions=config.positions,
            token_types=config.token_types,
            hidden=config.hidden,
            norm_eps=config.norm_eps,
        )
        self.layers = nn.ModuleList(
            EncoderLayer(
                hidden=config.hidden,
                heads=config.heads,
                intermediate=config.intermediate,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.layers)
        )

    def forward(self, batch: PackedBatch) -> Tensor:
        """Packed token ids [tokens] -> hidden states, fp32 [tokens, hidden]."""
        hidden = self.embeddings(batch)
        for layer in self.layers:
            hidden = layer(hidden, batch)
        return hidden
