"""Models whose weights can be trained: opened from any checkpoint that can be loaded, written as one."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from mgte_rag.batching import plan_batches
from mgte_rag.checkpoints import MINI, MINI_RERANKER, Checkpoint, find_model, load_checkpoint
from mgte_rag.checkpoints.saving import write_folder, write_model, write_tensors
from mgte_rag.checkpoints.weights import find_weights, read_tensors
from mgte_rag.config import ModelConfig
from mgte_rag.devices import choose_attention, choose_dtype, token_budget
from mgte_rag.errors import CheckpointError, InvalidOptionError, UnsupportedOutputError
from mgte_rag.nn import heads
from mgte_rag.nn.attention import use_attention
from mgte_rag.nn.linear import prepare
from mgte_rag.nn.model import RetrievalModel
from mgte_rag.nn.packing import PackedBatch, pack
from mgte_rag.options import outputs_of
from mgte_rag.token_rules import Inputs, TokenRules
from mgte_rag.types import Output, Role
from mgte_training.finetune.lora import LoRA, add_lora, merged
from mgte_training.finetune.new_heads import NewHeads, with_new_heads
from mgte_training.finetune.positions import Positions, use_positions
from mgte_training.finetune.representations import Representations, joined

Trained = Literal["all", "heads"]
"""Which weights change: all of them, or those of the heads alone, the encoder frozen."""


class Trainable(nn.Module):
    """An encoder with heads, in fp32, and what goes with it: tokenizer and conventions.

    Args:
        checkpoint: where it came from.
        config: its switches, new heads included.
        model: its modules.
        trained: which weights change. A frozen encoder is kept as it computes fastest, in ``dtype``, and is written
            as it was read.
    """

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, model: RetrievalModel, trained: Trained) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.settings = config
        self.model = model
        self.trained = trained
        self.rules = TokenRules(config, checkpoint.tokenizer)
        self.model.requires_grad_(True)
        if trained == "heads":
            self.model.encoder.requires_grad_(False)
            prepare(self.model.encoder)

    @classmethod
    def open(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        new_heads: NewHeads | None = None,
        trained: Trained = "all",
        lora: LoRA | None = None,
        dropout: float = 0.0,
        recompute: bool = False,
        positions: Positions | None = None,
        device: str | torch.device = "cpu",
        dtype: str | None = None,
        seed: int = 0,
    ) -> Self:
        """Open a model for training.

        Args:
            name: a hub id, a folder, or None for the embedded default: a reranker's is the embedded reranker, unless
                its head is begun anew.
            new_heads: heads to begin anew.
            trained: "all" weights or those of the "heads" alone.
            lora: train adapters on the encoder instead of its weights, with ``trained="all"``; needs peft.
            dropout: share of each block's result dropped in training.
            recompute: gradient checkpointing.
            positions: other rotary positions than the model's.
            device: where to compute.
            dtype: of a frozen encoder; None is bf16 where the device computes in it. Trained weights are fp32.
            seed: of the new heads' first weights.

        Raises:
            InvalidOptionError: an option out of its range.
            CheckpointError: the folder cannot be loaded exactly as published.
        """
        if trained not in get_args(Trained):
            raise InvalidOptionError(f"trained={trained!r}; allowed are {', '.join(get_args(Trained))}")
        if not 0 <= dropout < 1:
            raise InvalidOptionError(f"dropout={dropout!r}; a share from 0 to below 1 is allowed")
        if lora is not None and trained == "heads":
            raise InvalidOptionError(
                "trained='heads' leaves the encoder as it is; low-rank adapters need trained='all'"
            )
        device = torch.device(device)
        new_heads = new_heads or NewHeads()
        checkpoint = load_checkpoint(find_model(cls._embedded(new_heads) if name in (None, MINI) else os.fspath(name)))
        encoder_dtype = choose_dtype(dtype, [device]) if trained == "heads" else torch.float32
        config, model = with_new_heads(checkpoint, new_heads, device, encoder_dtype, seed)
        if positions is not None:
            config = use_positions(model.encoder, config, positions)
        model.encoder.set_training(dropout=dropout, recompute=recompute)
        use_attention(model, choose_attention(None, [device], encoder_dtype) if trained == "heads" else "sdpa")
        opened = cls(checkpoint, config, model, trained)
        if lora is not None:
            add_lora(opened.model.encoder, lora, seed=seed)
        return opened

    @classmethod
    def _embedded(cls, new_heads: NewHeads) -> str:
        return MINI

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder's weights stay as they are."""
        return not any(parameter.requires_grad for parameter in self.model.encoder.parameters())

    def train(self, mode: bool = True) -> Self:
        """Training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen:
            self.model.encoder.eval()
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All weights under the core's names; a frozen encoder's as they were read."""
        encoder = {f"encoder.{name}": tensor for name, tensor in merged(self.model.encoder).state_dict().items()}
        rest = {name: tensor for name, tensor in self.model.state_dict().items() if not name.startswith("encoder.")}
        own = {name: tensor.detach().cpu() for name, tensor in (encoder | rest).items()}
        if self.trained == "heads":
            read = self.checkpoint.read_weights()
            own |= {name: tensor for name, tensor in read.items() if name.startswith("encoder.")}
        return own

    def save(self, folder: str | Path) -> None:
        """Write a new or empty folder that ``EmbeddingModel.load`` or ``Reranker.load`` reads.

        Raises:
            InvalidOptionError: the folder is not empty.
        """
        write_model(folder, self.settings, self.tensors(), self.checkpoint.tokenizer)

    def save_trained(self, folder: str | Path) -> None:
        """Write the weights that change alone, adapters and heads, to a new or empty folder for ``load_trained``.

        Raises:
            InvalidOptionError: the folder is not empty.
        """
        changing = {name: p.detach().cpu() for name, p in self.model.named_parameters() if p.requires_grad}
        write_folder(folder, lambda path: write_tensors(changing, path))

    def load_trained(self, folder: str | Path) -> None:
        """Take what ``save_trained`` wrote for a model opened with the same options.

        Raises:
            CheckpointError: the folder holds other weights than those that change here.
        """
        found = read_tensors(find_weights(Path(folder)))
        changing = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        wrong = sorted(found.keys() ^ changing.keys()) or [
            name for name, tensor in found.items() if tensor.shape != changing[name].shape
        ]
        if wrong:
            raise CheckpointError(
                f"{folder} does not hold the weights that change here, {wrong[0]!r} for example; open the model with "
                f"the options it was trained with"
            )
        with torch.no_grad():
            for name, tensor in found.items():
                changing[name].copy_(tensor)

    def _kept(self, max_length: int | None, limit: int, lowest: int) -> int:
        """Tokens kept of an input: those asked for, or the limit where that is less or nothing was asked for."""
        if max_length is not None and max_length < lowest:
            raise InvalidOptionError(
                f"lengths: {max_length} tokens; the model {self.checkpoint.identity.name!r} reads {lowest} to {limit}"
            )
        return limit if max_length is None else min(max_length, limit)

    def hidden_states(self, inputs: Inputs) -> Iterator[tuple[list[int], Tensor, PackedBatch]]:
        """The encoder's hidden states, fp32 [tokens, hidden], with the texts they are of, longest first.

        A trained encoder reads all texts in one batch, a frozen one in batches of the size that inference uses.
        """
        device = next(self.model.parameters()).device
        lengths = [len(ids) for ids in inputs.ids]
        frozen = self.is_frozen
        dtype = self.model.encoder.embeddings.word.weight.dtype
        budget = token_budget(device, self.settings.encoder, dtype) if frozen else sum(lengths) + 1
        for places in plan_batches(lengths, lambda: budget):
            batch = _packed(inputs, places, device)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                hidden = self.model.encoder(batch)
            yield places, hidden.float(), batch


class TrainableModel(Trainable):
    """A model of dense, sparse and late-interaction vectors: token ids in, representations out."""

    outputs: tuple[Output, ...] = ()
    token_dims: tuple[int, ...] = ()

    @property
    def token_sizes(self) -> tuple[int, ...]:
        """Sizes of the late-interaction head, ascending; empty where there is none."""
        return () if self.settings.multi_vector is None else self.settings.multi_vector.dims

    def wanting(self, outputs: Sequence[Output], token_dims: Sequence[int] = (), dims: Sequence[int] = ()) -> Self:
        """Say what ``forward`` is to make.

        Args:
            outputs: of those that the model has, new heads included.
            token_dims: sizes of the token vectors.
            dims: sizes of the dense vector; those that are new to the model will be allowed in what is saved.

        Raises:
            UnsupportedOutputError: an output or a size that the model has no head for.
        """
        if any(size > self.settings.encoder.hidden for size in dims):
            raise UnsupportedOutputError(
                f"dims={tuple(dims)}: dense vectors have {self.settings.encoder.hidden} components"
            )
        if dims:
            self.settings = replace(self.settings, dims=tuple(sorted({*self.settings.dims, *dims})))
        there = outputs_of(self.settings)
        missing = [output for output in outputs if output not in there]
        if missing:
            raise UnsupportedOutputError(
                f"the model {self.checkpoint.identity.name!r} has no head for {', '.join(missing)}; it has "
                f"{', '.join(there)}: begin a head anew with new_heads"
            )
        if any(size not in self.token_sizes for size in token_dims):
            raise UnsupportedOutputError(
                f"token_dims={tuple(token_dims)}: the late-interaction head has {self.token_sizes}"
            )
        self.outputs, self.token_dims = tuple(outputs), tuple(token_dims)
        wanted = {"sparse": "sparse" in outputs, "multi_vector": "multi_vector" in outputs}
        for name in ("sparse", "multi_vector", "classifier", "language"):  # what is not asked for gets no gradient
            module = getattr(self.model, name)
            if module is not None:
                module.requires_grad_(wanted.get(name, False))
        return self

    def read(self, texts: Sequence[str], role: Role, *, prompt: str | None, max_length: int | None) -> Inputs:
        """Texts to token ids, as inference reads them.

        Args:
            texts: any strings.
            role: "query" or "document".
            prompt: put before every text; None is the model's own.
            max_length: tokens kept of each; None is the model's limit.

        Raises:
            InvalidOptionError: a max_length that leaves no room for text.
        """
        own = self.settings.query_prompt if role == "query" else self.settings.document_prompt
        limit = min(self.rules.default_length(role) or self.settings.max_length, self.settings.max_length)
        return self.rules.read(
            texts,
            role,
            self.outputs,
            prompt=own if prompt is None else prompt,
            max_length=self._kept(max_length, limit, self.rules.min_length(role) + 1),
        )

    def forward(self, inputs: Inputs) -> Representations:
        """Token ids to all wanted outputs, in the order of the inputs; heads compute in fp32."""
        order: list[int] = []
        parts = []
        for places, hidden, batch in self.hidden_states(inputs):
            order += places
            with torch.autocast(hidden.device.type, enabled=False):
                parts.append(self._represent(hidden, batch, inputs, places))
        inverse = torch.argsort(torch.tensor(order)).tolist()
        return joined(parts).picked(inverse)

    def _represent(self, hidden: Tensor, batch: PackedBatch, inputs: Inputs, places: list[int]) -> Representations:
        dense = weights = ids = counts = vector_counts = None
        vectors: dict[int, Tensor] = {}
        if "dense" in self.outputs and self.settings.pooling is not None:
            dense = heads.pool(hidden, batch, self.settings.pooling)
        if "sparse" in self.outputs and self.model.sparse is not None and inputs.sparse_tokens is not None:
            assert inputs.asked is not None, "texts that are neither queries nor documents"
            kept = _mask(inputs.sparse_tokens, places, hidden.device)
            asked = torch.from_numpy(inputs.asked[places]).to(hidden.device)
            texts, ids, weights = self.model.sparse(hidden[kept], batch.ids[kept], batch.texts[kept], asked)
            counts = torch.bincount(texts, minlength=len(places))
        if self.token_dims and self.model.multi_vector is not None and inputs.vector_tokens is not None:
            kept = _mask(inputs.vector_tokens, places, hidden.device)
            vectors = {size: self.model.multi_vector(hidden[kept], size) for size in self.token_dims}
            vector_counts = _counted(kept, batch)
        return Representations(len(places), dense, weights, ids, counts, vectors, vector_counts)


class TrainableReranker(Trainable):
    """A cross-encoder: pairs in, raw logits out; other heads that the model has stay as they are.

    Raises:
        UnsupportedOutputError: the model has no reranker's head.
    """

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, model: RetrievalModel, trained: Trained) -> None:
        super().__init__(checkpoint, config, model, trained)
        if model.classifier is None:
            raise UnsupportedOutputError(
                f"the model {checkpoint.identity.name!r} has no reranker's head: begin one anew with new_heads, "
                f"{{ classifier = {{}} }} in a recipe"
            )
        for head in (model.sparse, model.multi_vector, model.language):
            if head is not None:
                head.requires_grad_(False)

    @classmethod
    def _embedded(cls, new_heads: NewHeads) -> str:
        return MINI if new_heads.classifier else MINI_RERANKER

    def read(self, pairs: Sequence[tuple[str, str]], *, max_length: int | None) -> Inputs:
        """Pairs of query and document to token ids, as inference reads them.

        Args:
            pairs: query and document.
            max_length: tokens kept of a pair; None is the model's limit.

        Raises:
            InvalidOptionError: a max_length that leaves no room for text.
        """
        limit = self._kept(max_length, self.settings.max_length, self.checkpoint.tokenizer.min_pair_length + 2)
        return self.rules.read_pairs(pairs, max_length=limit, query_max_length=limit)

    def forward(self, inputs: Inputs) -> Tensor:
        """Token ids of pairs to logits, fp32 [pairs], in the order of the inputs."""
        assert self.model.classifier is not None, "a reranker without its head"
        assert self.settings.classifier is not None, "a reranker's head without its configuration"
        order: list[int] = []
        parts = []
        for places, hidden, batch in self.hidden_states(inputs):
            order += places
            with torch.autocast(hidden.device.type, enabled=False):
                parts.append(self.model.classifier(heads.pool(hidden, batch, self.settings.classifier.pooling)))
        return torch.cat(parts)[torch.argsort(torch.tensor(order)).to(parts[0].device)]


def _packed(inputs: Inputs, places: list[int], device: torch.device) -> PackedBatch:
    return pack(
        [inputs.ids[i] for i in places],
        device,
        attended=None if inputs.attended is None else [inputs.attended[i] for i in places],
        types=None if inputs.types is None else [inputs.types[i] for i in places],
    )


def _mask(masks: Sequence[object], places: list[int], device: torch.device) -> Tensor:
    """The texts' masks as one, bool [tokens]."""
    return torch.cat([torch.as_tensor(masks[i]) for i in places]).to(device)


def _counted(kept: Tensor, batch: PackedBatch) -> Tensor:
    """How many tokens of each text were kept, int64 [texts]."""
    return torch.zeros_like(batch.lengths).index_add(0, batch.texts, kept.long())
