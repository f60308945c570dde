"""RetroMAE's decoder for packed encoders: one layer that says a text's tokens from its vector and a few of them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgte_rag.config import EncoderConfig
from mgte_rag.nn.attention import attend_where
from mgte_rag.nn.encoder import Encoder, EncoderLayer
from mgte_rag.nn.packing import PackedBatch
from mgte_rag.nn.rotary import rotate, rotation


class Decoder(nn.Module):
    """One layer whose queries are the text's vector at every place, and whose keys are that vector and the clean text.

    With rotary positions the place enters by turning query and key; with a table of positions its row is added to the
    query, as in the paper. The layer is post-norm, whatever the encoder is.

    Args:
        config: the encoder's switches.
        seed: of the first weights.

    Source: Xiao et al. 2022, arXiv 2205.12035, section 3.3 (enhanced decoding).
    """

    def __init__(self, config: EncoderConfig, *, seed: int) -> None:
        super().__init__()
        shape = replace(config, layers=1, vocabulary=1, positions=1, position_offset=0, pre_norm=False)
        layer = Encoder(shape).layers[0]
        assert isinstance(layer, EncoderLayer), "a stack of something else"
        self.layer = layer
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.02, generator=chance)
                elif name.endswith("bias"):
                    parameter.zero_()

    def forward(self, encoder: Encoder, vectors: Tensor, batch: PackedBatch, visible: Sequence[Tensor]) -> Tensor:
        """Hidden states from which the tokens between the first and the last are predicted.

        Args:
            encoder: whose embeddings and positions are used.
            vectors: fp32 [texts, hidden], one of each masked text.
            batch: the clean texts, at least three tokens each.
            visible: bool [length - 2, length] per text, what each prediction sees.

        Returns:
            fp32 [tokens - 2 * texts, hidden].
        """
        firsts = batch.lengths.cumsum(0) - batch.lengths
        memory = encoder.embeddings(batch).index_copy(0, firsts, vectors)  # [vector, clean tokens 1 .. length - 1]
        stream = vectors[batch.texts]
        if encoder.embeddings.position is not None:
            stream = stream + encoder.embeddings.position(batch.positions + encoder.embeddings.position_offset)
        attention = self.layer.attention
        weights = attention.qkv.weight.chunk(3)
        biases = (None,) * 3 if attention.qkv.bias is None else attention.qkv.bias.chunk(3)
        sides = zip((stream, memory, memory), weights, biases, strict=True)
        query, key, value = (F.linear(*side).view(len(memory), attention.heads, -1) for side in sides)
        if encoder.config.rotary is not None:
            turn = rotation(encoder.config.rotary, query.shape[-1], batch.positions)
            query, key = rotate(torch.stack([query, key], dim=1), turn).unbind(1)
        mixed, streams, text = [], [], 0
        for run in batch.runs:
            grouped = [
                side[run.tokens].unflatten(0, (run.texts, run.length)).transpose(1, 2) for side in (query, key, value)
            ]  # each [texts, heads, length, head_dim]
            seen = torch.stack(list(visible[text : text + run.texts]))[:, None]
            found = attend_where(grouped[0][:, :, 1:-1], grouped[1], grouped[2], seen)
            mixed.append(found.transpose(1, 2).flatten(2).flatten(0, 1))
            streams.append(stream[run.tokens].unflatten(0, (run.texts, run.length))[:, 1:-1].flatten(0, 1))
            text += run.texts
        inner = self.layer.attention_norm(torch.cat(streams) + attention.out(torch.cat(mixed)))
        decoded: Tensor = self.layer.feed_forward_norm(inner + self.layer.feed_forward(inner))
        return decoded
