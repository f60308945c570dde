"""What a stage costs: operations as torch counts them, parameters as the model has them, papers' hours."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mgte_cli.main import main
from mgte_rag import InvalidOptionError
from mgte_rag.nn.attention import use_attention
from mgte_rag.nn.encoder import Encoder
from mgte_rag.nn.heads import LanguageHead
from mgte_rag.nn.packing import pack
from mgte_training.finetune.recipe import find_recipe
from mgte_training.pretrain.new_model import NewEncoder
from mgte_training.pretrain.scale import Work, find_encoder, flops, forward_flops, parameters, work_of
from mgte_training.stages import read_stage

SMALL = NewEncoder(layers=3, hidden=64, heads=4, intermediate=128, max_length=64).config(tokens=500).encoder


def work(**changes: object) -> Work:
    values = {
        "steps": 1, "texts": 4, "mean": 32.0, "longest": 32, "predicted": 0.25, "decoder": False, "passes": 0,
        "at_once": 128, "recompute": False,
    }  # fmt: skip
    return Work(**(values | changes))  # type: ignore[arg-type]


def test_the_operations_are_those_that_torch_counts() -> None:
    """Of a step forth and back; attention's products, which the counter does not know on this device, are added."""
    model, head = Encoder(SMALL), LanguageHead(hidden=64, vocabulary=500, norm_eps=1e-5)
    use_attention(model, "sdpa")
    batch = pack([torch.randint(0, 500, (32,)).numpy()] * 4, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        head(model(batch)[:32], model.embeddings.word.weight).sum().backward()
    attention = 3 * 4 * 32 * 32 * SMALL.hidden * 4 * SMALL.layers
    counted = counter.get_total_flops()
    seen_attention = any("attention" in str(name) for name in counter.get_flop_counts()["Global"])
    assert counted + (0 if seen_attention else attention) == pytest.approx(flops(SMALL, work()), rel=0.02)


def test_the_parameters_are_those_of_the_model() -> None:
    encoder = find_encoder("mgte-mlm-8192/model")
    with torch.device("meta"):
        own = sum(parameter.numel() for parameter in Encoder(encoder).parameters())
    assert parameters(encoder) == pytest.approx(own, rel=0.001)
    assert own == pytest.approx(306e6, rel=0.01)  # the model card's 306,210,496 have a head


def test_recomputing_and_grad_cache_cost_a_pass_and_a_decoder_a_layer() -> None:
    once = work().tokens * forward_flops(SMALL, SMALL.layers, 32.0)
    assert flops(SMALL, work(passes=1)) - flops(SMALL, work()) == pytest.approx(once)
    assert flops(SMALL, work(decoder=True)) - flops(SMALL, work()) == pytest.approx(once)
    longer = flops(SMALL, work(mean=64.0, texts=2)) - flops(SMALL, work())
    assert longer == pytest.approx(3 * work().tokens * SMALL.layers * 4 * 32 * SMALL.hidden)


def test_logits_that_do_not_fit_at_once_are_computed_again() -> None:
    """As ``TrainableLanguageModel`` does from 64 Mi floats of them."""
    whole, sliced = (flops(SMALL, work(at_once=tokens)) for tokens in (128, 1 << 20))
    head = 2 * work().tokens * 0.25 * (SMALL.hidden**2 + SMALL.hidden * SMALL.vocabulary)
    assert sliced - whole == pytest.approx(head)


def test_scaled_batches_are_planned_as_they_are_trained() -> None:
    def planned(*settings: str) -> Work:
        return work_of(read_stage(find_recipe("bge-contrastive"), ["batches.steps=10", *settings]))

    assert planned("batches.scale=0.1").texts == planned().texts / 10 == 2 * 1920
    assert planned("batches.token_budget=2560").at_once == 10 * 256


def test_a_plan_says_what_papers_report_at_plausible_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    """mGTE's first stage: 32 A100 for 10.75 days, which full texts at 40 % would exceed and shorter ones reach."""
    days = []
    for mean in ("2048", "1000"):
        assert main(["plan", "mgte-mlm-2048", "--gpus", "32", "--gpu", "a100", "--mean-tokens", mean]) == 0
        printed = capsys.readouterr().out
        days.append(float(printed.split("days")[1].split()[0]))
    assert days[1] < 10.75 < days[0]
    assert main(["plan", "bge-contrastive", "--examples", "100000000", "--tokens-per-second", "100000"]) == 0
    printed = capsys.readouterr().out
    assert "5,208 steps of 38,400 texts" in printed
    hours = 5208 * 38400 * 128 / 100_000 / 3600
    assert f"{hours:,.0f}  at 100,000 tokens/s each" in printed


def test_what_cannot_be_planned_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["mgte-init"], "makes a new model"),
        (["mgte-finetune"], "one bucket"),
        (["bge-contrastive"], "how many examples"),
        (["jina-colbert-pairs"], "--encoder"),
        (["mgte-mlm-2048", "--gpu", "abacus"], "known are a100"),
        (["mgte-mlm-2048", "--mfu", "1.5"], "a share up to 1"),
        (["mgte-mlm-2048", "--mean-tokens", "0"], "the longest text has 2,048"),
        (["mgte-mlm-2048", "--mean-tokens", "5000"], "the longest text has 2,048"),
    ):
        assert main(["plan", *arguments]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(InvalidOptionError, match="neither a folder"):
        find_encoder("nothing-like-it")


def test_a_models_folder_is_an_encoder_too(new_model: Path) -> None:
    assert find_encoder(str(new_model)).hidden == 32
    stage = read_stage(find_recipe("bge-retromae"))
    assert work_of(stage).predicted == pytest.approx(1.3)
    assert work_of(stage, mean=100.0).tokens == 100_000 * 720 * 100
