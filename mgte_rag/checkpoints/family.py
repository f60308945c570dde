"""What it takes to read one family of checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgte_rag.checkpoints.source import ModelFolder
from mgte_rag.config import ModelConfig

Names = dict[str, tuple[str, ...]]
"""Our parameter names, each with the checkpoint's names whose rows are stacked.

A head that has a file of its own is named "file:tensor", such as "1_Dense/model.safetensors:linear.weight".
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a family makes of a folder.

    Attributes:
        config: the model's switches.
        head_files: files beside the weights that hold heads, relative to the folder.
    """

    config: ModelConfig
    head_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one family of checkpoints is read.

    Attributes:
        recognises: whether a config.json is of this family.
        read: folder and its config.json to our configuration.
        layouts: the name tables that files of this family come in; the one that fits is used.
        prefixes: what may stand before names of the file.
        unused: names (without prefix) that are known and left out; a leading "*" stands for anything.
    """

    recognises: Callable[[Mapping[str, Any]], bool]
    read: Callable[[ModelFolder, Mapping[str, Any]], Reading]
    layouts: Callable[[ModelConfig], Sequence[Names]]
    prefixes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def leaves_out(self, name: str) -> bool:
        """Whether a name is one of the unused."""
        return any(name.endswith(known[1:]) if known[0] == "*" else name == known for known in self.unused)


def module_names(ours: str, *theirs: str, bias: bool = True) -> Names:
    """The table of one linear or norm module, or of several whose rows are stacked."""
    parts = ("weight", "bias") if bias else ("weight",)
    return {
        f"{ours}.{part}": tuple(f"{name}{'' if name.endswith(':') else '.'}{part}" for name in theirs) for part in parts
    }


def multi_vector_names(config: ModelConfig, theirs: str) -> Names:
    """The table of a late-interaction head with one projection; empty where there is no such head."""
    if config.multi_vector is None:
        return {}
    return module_names(
        f"multi_vector.projections.{config.multi_vector.dims[-1]}", theirs, bias=config.multi_vector.bias
    )
