"""What a stage costs at full size: tokens, floating point operations, GPU hours, memory; computed from its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.config import EncoderConfig
from mgte_rag.errors import InvalidOptionError
from mgte_training.data.buckets import scale_buckets
from mgte_training.finetune.recipe import Recipe, find_recipe
from mgte_training.pretrain.new_model import NewModel
from mgte_training.pretrain.recipe import PretrainRecipe


@dataclass(frozen=True, slots=True)
class GPU:
    """A kind of GPU.

    Attributes:
        flops: of dense bf16 matrix products a second, as its maker says.
        memory: bytes.
    """

    flops: float
    memory: float


GPUS: Mapping[str, GPU] = {
    "a100": GPU(312e12, 80e9),
    "a100-40g": GPU(312e12, 40e9),
    "h100": GPU(989e12, 80e9),
    "h200": GPU(989e12, 141e9),
    "l40s": GPU(362e12, 48e9),
}

# Bytes of weights, gradients and AdamW's two moments in fp32, for each parameter.
_STATE_BYTES = 16
# Bytes that a layer keeps for the way back, for each token and each component of its width: Korthikanti et al. 2022,
# arXiv 2205.05198, equation 2 without the scores, which flash attention does not keep; 4 is what recomputing keeps.
_KEPT_BYTES, _RECOMPUTED_BYTES = 34, 4
# Logits of a slice, which are computed again on the way back where there is more than one; with them come their softmax
# and its gradient.
_LOGITS = 64 * 1024 * 1024
_LOGITS_BYTES = 3 * 4 * _LOGITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a stage computes.

    Attributes:
        steps: optimizer steps.
        texts: of a step, over all devices: of a pair its query and its documents.
        mean: tokens of a text, on average.
        longest: tokens of the longest text.
        predicted: share of the tokens that go through the language model's head.
        decoder: whether there is RetroMAE's decoder.
        passes: forward passes beside the one that a gradient needs: of GradCache, and of recomputing.
        at_once: tokens that a device computes at once.
        recompute: gradient checkpointing.
    """

    steps: int
    texts: int
    mean: float
    longest: int
    predicted: float
    decoder: bool
    passes: int
    at_once: int
    recompute: bool

    @property
    def tokens(self) -> float:
        """Tokens of the whole stage."""
        return float(self.steps) * self.texts * self.mean


def work_of(stage: PretrainRecipe | Recipe, *, mean: float | None = None, examples: int | None = None) -> Work:
    """The work of a stage.

    Args:
        stage: its recipe.
        mean: tokens of a text, on average; None is all the recipe allows, the upper bound.
        examples: how many there are, for recipes that say epochs.

    Raises:
        InvalidOptionError: a stage whose work its recipe does not decide, or a mean that is out of its range.
    """
    work = _work_of(stage, examples)
    if mean is None:
        return work
    if not 0 < mean <= work.longest:
        raise InvalidOptionError(f"a mean of {mean!r} tokens; the longest text has {work.longest:,}")
    return replace(work, mean=mean)


def _work_of(stage: PretrainRecipe | Recipe, examples: int | None) -> Work:
    """The work of a stage whose texts are all as long as they may be."""
    if isinstance(stage, PretrainRecipe):
        batches, retro = stage.batches, stage.retromae
        rate = (retro.masking if retro is not None else stage.objective).rate  # type: ignore[union-attr]
        return Work(
            steps=batches.steps,
            texts=batches.batch,
            mean=float(batches.length),
            longest=batches.length,
            predicted=rate + (retro is not None),
            decoder=retro is not None,
            passes=int(stage.model.recompute),
            at_once=max(batches.token_budget, batches.length),
            recompute=stage.model.recompute,
        )
    if len(stage.batches.buckets) != 1 or stage.objective is None:
        raise InvalidOptionError("only recipes of vectors with one bucket can be planned; set batches.buckets")
    plan, lengths = stage.batches, stage.lengths
    group = 1 + max((source.negatives or 0) + source.random_negatives for source in stage.sources)
    (bucket,) = scale_buckets(plan.buckets, plan.scale, group=group, token_budget=plan.token_budget)
    query, document = lengths.query or bucket.max_tokens, lengths.document or bucket.max_tokens
    steps = plan.steps
    if steps is None:
        if examples is None:
            raise InvalidOptionError("the recipe says epochs and not steps: say how many examples there are")
        steps = max(1, (plan.epochs or 1) * examples // bucket.batch)
    return Work(
        steps=steps,
        texts=bucket.batch * (1 + group),
        mean=(query + group * document) / (1 + group),
        longest=max(query, document),
        predicted=0.0,
        decoder=False,
        passes=1 + stage.model.recompute,
        at_once=bucket.sub_batch * (query + group * document),
        recompute=stage.model.recompute,
    )


def layer_parameters(encoder: EncoderConfig) -> int:
    """Weights of one layer's projections."""
    hidden, inner = encoder.hidden, encoder.intermediate
    return 4 * hidden * hidden + (2 if encoder.gate == "none" else 3) * hidden * inner


def forward_flops(encoder: EncoderConfig, layers: int, length: float) -> float:
    """Of a token in a text of some length, through some layers: two for each weight, and attention's products."""
    return layers * (2.0 * layer_parameters(encoder) + 4.0 * length * encoder.hidden)


def flops(encoder: EncoderConfig, work: Work) -> float:
    """Of the whole stage: a step back costs two forward."""
    body = (3 + work.passes) * forward_flops(encoder, encoder.layers, work.mean)
    decoder = 3 * forward_flops(encoder, 1, work.mean) if work.decoder else 0.0
    is_sliced = work.at_once * work.predicted * encoder.vocabulary > _LOGITS
    head = (3 + is_sliced) * work.predicted * 2.0 * (encoder.hidden**2 + encoder.hidden * encoder.vocabulary)
    return work.tokens * (body + decoder + head)


def parameters(encoder: EncoderConfig) -> int:
    """Embeddings and projections; norms and biases are a thousandth of them."""
    return encoder.vocabulary * encoder.hidden + encoder.layers * layer_parameters(encoder)


def memory(encoder: EncoderConfig, work: Work) -> tuple[float, float, float]:
    """Bytes on each device: weights and their optimizer, activations of what is computed at once, logits."""
    token = encoder.hidden * work.at_once
    if work.recompute:
        kept = token * (_RECOMPUTED_BYTES * encoder.layers + _KEPT_BYTES)
    else:
        kept = token * _KEPT_BYTES * encoder.layers
    return _STATE_BYTES * float(parameters(encoder)), float(kept), float(_LOGITS_BYTES if work.predicted else 0)


def find_encoder(name: str | None) -> EncoderConfig:
    """The encoder that a recipe names: a folder, or down the chain of recipes to the one that makes it.

    Raises:
        InvalidOptionError: neither; say which encoder with a folder or a recipe of a new model.
    """
    from mgte_training.stages import read_stage

    seen: set[str] = set()
    while name is not None and name not in seen:
        seen.add(name)
        if Path(name, "config.json").is_file():
            return load_checkpoint(find_model(name)).config.encoder
        try:
            stage: Any = read_stage(find_recipe(name.removesuffix("/model")))
        except InvalidOptionError:
            break
        if isinstance(stage, NewModel):
            return stage.encoder.config(tokens=1).encoder
        name = stage.model.name
    raise InvalidOptionError(
        f"the encoder {name!r} is neither a folder on this machine nor what a recipe makes; name a folder or a "
        f"recipe of a new model, such as mgte-init, with --encoder"
    )


def describe(encoder: EncoderConfig, work: Work, *, gpu: str, gpus: int, mfu: float, rate: float | None) -> str:
    """The costs, for people.

    Args:
        encoder: what is trained.
        work: the stage's.
        gpu: one of ``GPUS``.
        gpus: how many.
        mfu: share of a GPU's operations that training reaches.
        rate: tokens that one GPU was measured to train on in a second; then ``mfu`` is not looked at.

    Raises:
        InvalidOptionError: an unknown GPU, or numbers out of range.
    """
    if gpu not in GPUS or gpus < 1 or not 0 < mfu <= 1 or (rate is not None and not rate > 0):
        raise InvalidOptionError(
            f"gpu={gpu!r}, gpus={gpus!r}, mfu={mfu!r}, rate={rate!r}: known are {', '.join(GPUS)}; at least one, a "
            f"share up to 1, and a rate above 0"
        )
    kind, total = GPUS[gpu], flops(encoder, work)
    seconds = total / (kind.flops * mfu) if rate is None else work.tokens / rate
    share = f"{total / seconds / kind.flops:.0%} of {kind.flops / 1e12:,.0f} TFLOP/s"
    basis = f"at {share}" if rate is None else f"at {rate:,.0f} tokens/s each, {share}"
    state, kept, logits = memory(encoder, work)
    used = state + kept + logits
    fits = "" if used < kind.memory else "; too much: lower token_budget or sub_batch, or set model.recompute"
    lines = [
        f"{work.steps:,} steps of {work.texts:,} texts, {work.mean:,.0f} tokens on average, {work.longest:,} at most",
        f"parameters      {parameters(encoder):>14,}, {encoder.vocabulary * encoder.hidden:,} of them embeddings",
        f"tokens          {work.tokens:>14.3g}",
        f"FLOPs           {total:>14.3g}, {total / work.tokens / 1e9:.2f} G for each token",
        f"GPU hours       {seconds / 3600:>14,.0f}  {basis}",
        f"days            {seconds / 86400 / gpus:>14,.2f}  on {gpus} {gpu}",
        f"GB on each      {used / 1e9:>14,.0f}  of {kind.memory / 1e9:,.0f}: weights and AdamW {state / 1e9:.1f}, "
        f"activations {kept / 1e9:.1f}, logits {logits / 1e9:.1f}{fits}",
    ]
    return "\n".join(lines)
