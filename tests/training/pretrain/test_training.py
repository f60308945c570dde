"""Runs of masked language modelling and RetroMAE: losses by hand, documents apart, the decoder's sight, resuming."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TrainerCallback

from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.checkpoints.saving import write_model
from mgte_rag.nn.packing import pack
from mgte_rag.nn.rotary import rotate, rotation
from mgte_training.pretrain import language_model
from mgte_training.pretrain.language_model import TrainableLanguageModel
from mgte_training.pretrain.masking import MaskedText, Masker, Masking, RetroMAE
from mgte_training.pretrain.new_model import first_weights
from mgte_training.pretrain.trainer import MaskedSteps, PretrainTrainer

Make = Callable[..., Any]
OBJECTIVES = {"mlm": Masking(), "whole words": Masking(whole_words=True), "retromae": RetroMAE()}


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def masked(make_plan: Make, model: TrainableLanguageModel, objective: Any, **changes: Any) -> list[MaskedText]:
    steps = MaskedSteps(make_plan(**changes), Masker(model.checkpoint.tokenizer, objective))
    return [text for part in steps[0].parts for text in part]


def naive_entropy(model: TrainableLanguageModel, hidden: Tensor, token: int) -> Tensor:
    assert model.model.language is not None
    logits = model.model.language(hidden[None], model.model.encoder.embeddings.word.weight)
    return -torch.log_softmax(logits[0], -1)[token]


def naive_decoder_loss(model: TrainableLanguageModel, text: MaskedText) -> Tensor:
    """Token by token, head by head, as the paper has it, with turned queries and keys for positions."""
    assert model.decoder is not None
    assert text.visible is not None
    encoder, layer = model.model.encoder, model.decoder.layer
    clean = pack([text.ids], torch.device("cpu"))
    vector = encoder(pack([text.seen], torch.device("cpu")))[0]
    memory = torch.cat([vector[None], encoder.embeddings(clean)[1:]])
    heads, rotary = layer.attention.heads, encoder.config.rotary
    assert rotary is not None
    parts = [
        F.linear(rows, *side)
        for rows, side in zip(
            (vector.expand_as(memory), memory, memory),
            zip(layer.attention.qkv.weight.chunk(3), layer.attention.qkv.bias.chunk(3), strict=True),
            strict=True,
        )
    ]
    query, key, value = (part.view(len(memory), heads, -1) for part in parts)
    turn = rotation(rotary, query.shape[-1], clean.positions)
    query, key = (rotate(side[:, None], turn)[:, 0] for side in (query, key))
    total = torch.zeros(())
    for place in range(1, len(text.ids) - 1):
        seen = [other for other in range(len(text.ids)) if text.visible[place - 1, other]]
        mixed = []
        for head in range(heads):
            scores = torch.stack([query[place, head] @ key[other, head] for other in seen]) / query.shape[-1] ** 0.5
            shares = torch.softmax(scores, 0)
            mixed.append(sum(share * value[other, head] for share, other in zip(shares, seen, strict=True)))
        inner = layer.attention_norm(vector + layer.attention.out(torch.cat(mixed)))
        decoded = layer.feed_forward_norm(inner + layer.feed_forward(inner[None])[0])
        total = total + naive_entropy(model, decoded, int(text.ids[place]))
    return total


@pytest.mark.parametrize("slices", [False, True], ids=["whole", "in slices"])
def test_the_losses_are_those_of_a_naive_loop(
    open_model: Make, make_plan: Make, monkeypatch: pytest.MonkeyPatch, slices: bool
) -> None:
    """Both losses, summed over some texts of several lengths."""
    if slices:
        monkeypatch.setattr(language_model, "_KEPT_FLOATS", 7 * 500)
    model = open_model().learning(RetroMAE())
    texts = masked(make_plan, model, RetroMAE(), batch=4, length=12)
    expected = {"mlm": torch.zeros(()), "decoder": torch.zeros(())}
    for text in texts:
        hidden = model.model.encoder(pack([text.seen], torch.device("cpu")))
        for place in np.flatnonzero(text.chosen):
            expected["mlm"] = expected["mlm"] + naive_entropy(model, hidden[place], int(text.ids[place]))
        expected["decoder"] = expected["decoder"] + naive_decoder_loss(model, text)
    found = model(texts)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-4)
    gradients = [
        torch.autograd.grad(each["mlm"] + each["decoder"], list(model.parameters()), allow_unused=True)
        for each in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_no_token_attends_to_another_document(open_model: Make, make_plan: Make) -> None:
    """In a packed batch: another text in the place of one changes no other's states, not by a bit of gradient."""
    model = open_model().learning(Masking())
    texts = masked(make_plan, model, Masking(), batch=6, min_tokens=30)
    batch = pack([text.seen for text in texts], torch.device("cpu"))
    assert len(batch.runs) == 1, "texts of equal length share a call"
    other = pack([texts[-1].seen if place == 2 else text.seen for place, text in enumerate(texts)], batch.ids.device)
    changed = (model.model.encoder(batch) - model.model.encoder(other)).abs().amax(-1) > 0
    assert changed[batch.texts == 2].all()
    assert not changed[batch.texts != 2].any()
    embedded = model.model.encoder.embeddings(batch).detach().requires_grad_()
    model.model.encoder.embeddings.forward = lambda _: embedded
    (model.model.encoder(batch)[batch.texts == 2] @ torch.randn(32)).sum().backward()
    assert embedded.grad is not None
    assert embedded.grad[batch.texts == 2].abs().amax(-1).gt(0).all()
    assert not embedded.grad[batch.texts != 2].any()


def test_the_decoder_sees_its_visible_set_and_nothing_else(open_model: Make, make_plan: Make) -> None:
    """The gradient of each prediction by the clean embeddings is there where it may see, and only there."""
    model = open_model().learning(RetroMAE())
    assert model.decoder is not None
    texts = masked(make_plan, model, RetroMAE(), batch=3, min_tokens=20)
    clean = pack([text.ids for text in texts], torch.device("cpu"))
    embedded = model.model.encoder.embeddings(clean).detach().requires_grad_()
    vectors = torch.randn(len(texts), 32, requires_grad=True)
    model.model.encoder.embeddings.forward = lambda _: embedded
    decoded = model.decoder(model.model.encoder, vectors, clean, [torch.from_numpy(t.visible) for t in texts])
    direction = torch.randn(32)  # a plain sum is constant after a layer norm
    row, start = 0, 0
    for number, text in enumerate(texts):
        assert text.visible is not None
        for seen in text.visible:
            by_token, by_vector = torch.autograd.grad(decoded[row] @ direction, [embedded, vectors], retain_graph=True)
            touched = (by_token.abs().amax(-1) > 0).numpy()
            expected = np.zeros(len(clean.ids), dtype=bool)
            expected[start : start + len(seen)] = seen
            expected[start] = False  # there stands the text's vector, not its first token
            assert np.array_equal(touched, expected)
            vector_of = np.flatnonzero(by_vector.abs().amax(-1).numpy())
            assert vector_of.tolist() == [number]
            row += 1
        start += len(text.ids)


def test_positions_reach_the_decoder_by_rotation(open_model: Make, make_plan: Make) -> None:
    """Two tokens that see the same are told apart: their queries are turned by different angles."""
    model = open_model().learning(RetroMAE())
    assert model.decoder is not None
    text = masked(make_plan, model, RetroMAE(), batch=1, min_tokens=20)[0]
    clean = pack([text.ids], torch.device("cpu"))
    everything = torch.ones(len(text.ids) - 2, len(text.ids), dtype=torch.bool)
    decoded = model.decoder(model.model.encoder, model.model.encoder(clean)[:1], clean, [everything])
    distances = (decoded[1:] - decoded[:-1]).abs().amax(-1)
    assert (distances > 1e-6).all()


class _StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            control.should_save = True
            control.should_training_stop = True


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_run_that_was_stopped_and_resumed_ends_at_the_very_weights_of_one_that_was_not(
    open_model: Make, make_plan: Make, arguments: Make, objective: Any
) -> None:
    def trainer(folder: str, *callbacks: TrainerCallback) -> PretrainTrainer:
        args = arguments(save_strategy="steps", save_steps=100, output_dir=folder)
        plan = make_plan(steps=5)
        return PretrainTrainer(open_model(dropout=0.2), args, plan, objective, callbacks=list(callbacks))

    run = arguments().output_dir
    straight = trainer(f"{run}-straight")
    straight.train()
    trainer(f"{run}-stopped", _StopAfter(2)).train()
    torch.manual_seed(999)  # whatever the new process had done before
    resumed = trainer(f"{run}-stopped")
    resumed.train(resume_from_checkpoint=f"{run}-stopped/checkpoint-2")
    assert resumed.state.global_step == 5
    assert largest_difference(weights(straight.model), weights(resumed.model)) == 0.0
    assert largest_difference(weights(straight.model), weights(open_model().learning(objective))) > 1e-2


def test_the_decoder_begins_with_the_weights_that_the_seed_decides(open_model: Make) -> None:
    """Whatever random numbers the process has drawn before, so that a run can be repeated."""
    starts = []
    for drawn, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(drawn)
        starts.append(weights(open_model().learning(RetroMAE(), seed=seed).decoder))
    assert largest_difference(starts[0], starts[1]) == 0.0
    assert largest_difference(starts[1], starts[2]) > 1e-2


@pytest.mark.parametrize("objective", [Masking(), RetroMAE()], ids=["mlm", "retromae"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole_batch(
    open_model: Make, make_plan: Make, arguments: Make, objective: Any
) -> None:
    ends = []
    for budget in (10_000, 40):
        model = open_model()
        args = arguments(optim="sgd", learning_rate=0.1, max_grad_norm=0.0)
        plan = make_plan(steps=1, token_budget=budget)
        trainer = PretrainTrainer(model, args, plan, objective)
        assert (len(trainer.train_dataset[0].parts) == 1) == (budget == 10_000)
        trainer.train()
        ends.append(weights(model))
    assert largest_difference(*ends) < 1e-6


def test_training_lowers_both_losses_and_the_model_that_is_saved_has_no_decoder(
    open_model: Make, make_plan: Make, arguments: Make, tmp_path: Path
) -> None:
    model = open_model()
    trainer = PretrainTrainer(model, arguments(), make_plan(steps=60, batch=16, token_budget=600), RetroMAE())
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "mlm" in entry]
    for name in ("mlm", "decoder"):
        assert np.mean([each[name] for each in logs[-5:]]) < 0.92 * logs[0][name], name
    assert logs[-1]["loss"] == pytest.approx(logs[-1]["mlm"] + logs[-1]["decoder"], abs=1e-3)
    model.save(tmp_path / "saved")
    again = TrainableLanguageModel.open(tmp_path / "saved")
    kept = {name: value for name, value in weights(model).items() if not name.startswith("decoder.")}
    assert largest_difference(weights(again), kept) == 0.0
    with EmbeddingModel.load(tmp_path / "saved") as saved:
        assert saved.outputs == ("dense",)


def test_a_model_with_a_table_of_positions_learns_retromae_too(
    tiny_bert: Path, make_plan: Make, arguments: Make, tmp_path: Path
) -> None:
    """As BGE's BERT did: the decoder's queries have the table's rows added."""
    checkpoint = load_checkpoint(find_model(str(tiny_bert)))
    config = replace(checkpoint.config, language_model=True)
    write_model(tmp_path / "bert", config, first_weights(config, 0), checkpoint.tokenizer)
    model = TrainableLanguageModel.open(tmp_path / "bert").learning(RetroMAE())
    ids: Sequence[Any] = checkpoint.tokenizer.tokenize(["the cat sat on the mat"], prompt="", max_length=32).ids
    text = Masker(checkpoint.tokenizer, RetroMAE(masking=Masking(rate=0.5))).mask(ids[0], np.random.default_rng(0))
    found = model([text])
    (found["mlm"] + found["decoder"]).backward()
    table = model.model.encoder.embeddings.position
    assert table is not None
    assert table.weight.grad is not None
    assert table.weight.grad[: len(text.ids)].abs().sum(-1).gt(0).all()


def test_a_model_without_a_language_head_is_refused_with_what_makes_one(tiny_bert: Path) -> None:
    with pytest.raises(InvalidOptionError, match="mgte-rag init"):
        TrainableLanguageModel.open(tiny_bert).learning(Masking())
