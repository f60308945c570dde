"""The other engines that the benchmarks run: same weights, same threads, set up as their documentation says.

Nothing here is needed by the package; ``pip install -r benchmarks/requirements.txt`` in an environment of its own.
ONNX Runtime and OpenVINO get what speeds them up: texts sorted by length, batches of 32 padded to their longest,
the mean over tokens inside the graph.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

Encode = Callable[[list[str]], np.ndarray]
Compute = Callable[[dict[str, np.ndarray]], np.ndarray]

_BATCH = 32
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class _Embedder(nn.Module):
    """BERT, the mean over tokens, and the norm, as sentence-transformers puts them together."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder, attn_implementation="sdpa")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        hidden = self.model(input_ids, attention_mask, token_type_ids).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@cache
def onnx_file(folder: Path) -> Path:
    """The model as an ONNX file in a temporary folder."""
    target = Path(tempfile.mkdtemp()) / "model.onnx"
    sample = {name: torch.ones(2, 8, dtype=torch.int64) for name in _INPUTS}
    size = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=512)}
    torch.onnx.export(
        _Embedder(folder).eval(),
        kwargs=sample,
        f=target,
        dynamo=True,
        input_names=list(_INPUTS),
        output_names=["dense"],
        dynamic_shapes={name: size for name in _INPUTS},
        optimize=True,
        verbose=False,
    )
    return target


def sentence_transformers(folder: Path, *, dtype: str = "float32") -> Encode:
    """sentence-transformers with its defaults: padded, batches of 32, fp32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
    return lambda texts: model.encode(texts, show_progress_bar=False)


def onnx_runtime(folder: Path, *, threads: int, max_length: int) -> Encode:
    """ONNX Runtime in fp32, all graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(onnx_file(folder), options, providers=["CPUExecutionProvider"])
    return _sorted_by_length(folder, max_length, lambda batch: session.run(["dense"], batch)[0])


def openvino(folder: Path, *, dtype: str, threads: int, max_length: int) -> Encode:
    """OpenVINO with the precision hint "f32" or "bf16"."""
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_PRECISION_HINT": dtype, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(onnx_file(folder)), "CPU", settings)
    request = compiled.create_infer_request()
    return _sorted_by_length(folder, max_length, lambda batch: request.infer(batch)[0].copy())


def _sorted_by_length(folder: Path, max_length: int, compute: Compute) -> Encode:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)

    def encode(texts: list[str]) -> np.ndarray:
        encodings = tokenizer.encode_batch_fast(texts)
        vectors: np.ndarray | None = None
        for places, batch in _padded([encoding.ids for encoding in encodings]):
            part = compute(batch)
            vectors = np.empty((len(texts), part.shape[1]), dtype=np.float32) if vectors is None else vectors
            vectors[places] = part
        assert vectors is not None, "no texts"
        return vectors

    return encode


def _padded(rows: list[list[int]]) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        ids = np.zeros((len(places), len(rows[places[0]])), dtype=np.int64)
        mask = np.zeros_like(ids)
        for line, place in enumerate(places):
            ids[line, : len(rows[place])] = rows[place]
            mask[line, : len(rows[place])] = 1
        yield places, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
