"""What a caller asked of an encoding, checked against what the model can do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mgte_rag.checkpoints import Checkpoint
from mgte_rag.config import ModelConfig
from mgte_rag.engine import Wanted
from mgte_rag.errors import InvalidOptionError, UnsupportedOutputError, shown
from mgte_rag.tokenization import check_texts
from mgte_rag.types import Output, Role


def outputs_of(config: ModelConfig) -> tuple[Output, ...]:
    """What a model can return."""
    there: dict[Output, bool] = {
        "dense": config.pooling is not None,
        "sparse": config.sparse,
        "multi_vector": config.multi_vector is not None,
    }
    return tuple(output for output, is_there in there.items() if is_there)


def check_top_k(top_k: int | None) -> None:
    """Check how many results are asked for; None is all.

    Raises:
        InvalidOptionError: below 1, or no whole number.
    """
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise InvalidOptionError(f"top_k={top_k!r}: a whole number above 0, or None for all documents")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options that the model can honour.

    Attributes:
        outputs: what to return.
        dim: components of a dense vector.
        token_dim: components of a token's vector; 0 where there are none.
        prompt: put before every text.
        max_length: tokens read of each text.
    """

    outputs: tuple[Output, ...]
    dim: int
    token_dim: int
    prompt: str
    max_length: int

    @property
    def wanted(self) -> Wanted:
        """What the engine has to make."""
        return Wanted(
            dim=self.dim if "dense" in self.outputs else None,
            sparse="sparse" in self.outputs,
            token_dim=self.token_dim if "multi_vector" in self.outputs else None,
        )


def check_options(
    checkpoint: Checkpoint,
    role: Role,
    *,
    outputs: Sequence[Output] | None,
    dim: int | None,
    token_dim: int | None,
    prompt: str | None,
    max_length: int | None,
) -> EncodeOptions:
    """The options of one call, defaults filled in.

    Raises:
        InvalidOptionError: a value that the model does not allow; the message lists those it does.
        InputTypeError: the prompt is not a string.
    """
    config, name = checkpoint.config, checkpoint.identity.name
    own_prompt = config.query_prompt if role == "query" else config.document_prompt
    token_dims = config.multi_vector.dims if config.multi_vector is not None else ()
    return EncodeOptions(
        outputs=_check_outputs(name, outputs, outputs_of(config)),
        dim=_check_size(name, "dim", dim, config.dims, "dense output"),
        token_dim=_check_size(name, "token_dim", token_dim, token_dims, "late-interaction head"),
        prompt=own_prompt if prompt is None else check_texts([prompt])[0],
        max_length=_check_max_length(checkpoint, role, max_length),
    )


def _check_outputs(name: str, asked: Sequence[Output] | None, there: tuple[Output, ...]) -> tuple[Output, ...]:
    if asked is None:
        return there[:1]  # dense comes first
    is_list = isinstance(asked, Iterable) and not isinstance(asked, str)
    outputs: tuple[Output, ...] = tuple(asked) if is_list else (asked,)  # type: ignore[assignment]
    if not outputs or any(output not in there for output in outputs):
        raise UnsupportedOutputError(f"outputs={shown(asked)}: the model {name!r} has {', '.join(there)}")
    return outputs


def _check_size(name: str, option: str, size: int | None, allowed: tuple[int, ...], head: str) -> int:
    if size is None:
        return allowed[-1] if allowed else 0
    if not allowed:
        raise InvalidOptionError(f"{option}={size!r}: the model {name!r} has no {head}")
    if not isinstance(size, int) or isinstance(size, bool) or size not in allowed:
        raise InvalidOptionError(f"{option}={size!r}: the model {name!r} allows {', '.join(map(str, allowed))}")
    return size


def _check_max_length(checkpoint: Checkpoint, role: Role, max_length: int | None) -> int:
    highest = checkpoint.config.max_length
    if max_length is None:
        return min(checkpoint.rules.default_length(role) or highest, highest)
    lowest = checkpoint.rules.min_length(role) + 1
    if not isinstance(max_length, int) or isinstance(max_length, bool) or not lowest <= max_length <= highest:
        raise InvalidOptionError(
            f"max_length={max_length!r}: the model {checkpoint.identity.name!r} reads {lowest} to {highest}"
        )
    return max_length
