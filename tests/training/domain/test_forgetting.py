"""Interpolation is exact, and the share that is chosen keeps the bound."""

from pathlib import Path

import pytest
import torch

from mgte_rag import EmbeddingModel
from mgte_rag.errors import CheckpointError
from mgte_training.domain import Judged, interpolated, measure
from mgte_training.domain.forgetting import choose_share, most_forgotten, write_mixture
from mgte_training.domain.interpolation import SHARES, largest_share
from mgte_training.finetune.trainable import TrainableModel

OTHER = Judged.of_pairs(
    [("the cat sat", "a cat sat on the mat"), ("dog ran", "the dog ran under a tree"), ("tree", "tree and mat"),
     ("mat", "on the mat then"), ("under", "the cats under the tree"), ("dogs", "dogs and cats ran")]
)  # fmt: skip


def test_weights_are_on_the_line_between_the_models() -> None:
    base = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[0.1]], dtype=torch.float16)}
    tuned = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[0.7]])}
    mixed = interpolated(base, tuned, 0.25)
    assert torch.equal(mixed["a"], torch.tensor([1.5, 1.5]))
    assert mixed["b"].dtype == torch.float32
    for share, end in ((0.0, base), (1.0, tuned)):
        assert all(torch.equal(tensor, end[name].float()) for name, tensor in interpolated(base, tuned, share).items())


@pytest.mark.parametrize("other", [{"b": torch.zeros(2)}, {"a": torch.zeros(3)}])
def test_models_of_different_architectures_do_not_mix(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match="differ in 'a'"):
        interpolated({"a": torch.zeros(2)}, other, 0.5)


def test_tables_of_whole_numbers_are_handed_on_and_must_be_the_same() -> None:
    one, other = ({"terms": torch.tensor([0, 1], dtype=torch.int32), "weight": torch.full((2,), w)} for w in (0.0, 2.0))
    mixed = interpolated(one, other, 0.5)
    assert mixed["terms"].dtype == torch.int32
    assert (mixed["terms"].tolist(), mixed["weight"].tolist()) == ([0, 1], [1.0, 1.0])
    with pytest.raises(CheckpointError, match="other numbers in 'terms'"):
        interpolated(one, other | {"terms": torch.tensor([1, 1], dtype=torch.int32)}, 0.5)


def test_the_largest_share_that_is_allowed_is_taken_and_no_smaller_one_tried() -> None:
    losses = {1.0: 0.05, 0.9: 0.02, 0.8: 0.009, 0.7: 0.0}
    share, tried = largest_share(losses.__getitem__, lambda loss: loss <= 0.01)
    assert (share, list(tried)) == (0.8, [1.0, 0.9, 0.8])
    assert largest_share(lambda _: 1.0, lambda loss: loss <= 0.01)[0] == 0.0
    assert SHARES == (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@pytest.fixture
def spoilt(tiny_bert: Path, tmp_path: Path) -> Path:
    """The tiny model with its weights turned round: it has forgotten everything."""
    model = TrainableModel.open(tiny_bert)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    model.save(tmp_path / "spoilt")
    return tmp_path / "spoilt"


@pytest.mark.parametrize("bound", [0.0, 0.05, 1.0])
def test_the_chosen_share_keeps_the_bound_and_the_next_larger_breaks_it(
    tiny_bert: Path, spoilt: Path, tmp_path: Path, bound: float
) -> None:
    with EmbeddingModel.load(str(tiny_bert), dtype="float32") as base:
        before = measure(base, OTHER)
    said: list[str] = []
    folder = tmp_path / "mixed"
    share, comparison = choose_share(str(tiny_bert), spoilt, OTHER, before, bound=bound, folder=folder, say=said.append)
    assert most_forgotten(comparison) <= bound
    tried = [float(line.split("%")[0]) / 100 for line in said]
    lost = [float(line.split(": ")[1].split(" ")[0]) / 100 for line in said]
    assert all(value > bound - 1e-4 for value in lost[: len(lost) - bool(share)])
    assert tried == [each for each in SHARES if each >= share]
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{each}.npz" for each in tried)


def test_a_mixture_of_nothing_gives_the_bases_vectors(tiny_bert: Path, spoilt: Path, tmp_path: Path) -> None:
    write_mixture(str(tiny_bert), spoilt, 0.0, tmp_path / "same")
    with (
        EmbeddingModel.load(str(tiny_bert), dtype="float32") as base,
        EmbeddingModel.load(str(tmp_path / "same"), dtype="float32") as same,
    ):
        texts = list(OTHER.documents)
        assert (base.encode_document(texts).dense == same.encode_document(texts).dense).all()
