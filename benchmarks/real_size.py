"""Models of the published sizes, randomly initialised: do they load, and what does a mixed batch cost?

    python benchmarks/real_size.py [--texts 64] [--dtype auto]

Writes folders in the published layouts (gte-multilingual-base: 305 M parameters, fp16 safetensors; bge-m3: 568 M, fp32
pickle) to a temporary folder, and loads each in a process of its own, so that the peak memory is that model's alone.
The batch has texts of 10 to 1,000 words and one of 8,192 tokens. What the weights are changes neither time nor memory.
"""

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from mgte_rag import EmbeddingModel
from mgte_rag.checkpoints import ModelFolder, gte, xlm_roberta
from mgte_rag.checkpoints.family import Family
from mgte_rag.nn.model import RetrievalModel

PIECES = 250_002
COMMON = {"num_attention_heads": 12, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
GTE = {
    **COMMON,
    "architectures": ["NewModel", "NewForTokenClassification"],
    "model_type": "new",
    "vocab_size": 250_048,
    "type_vocab_size": 1,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "rope_theta": 20_000,
    "rope_scaling": {"type": "ntk", "factor": 8.0},
}
BGE_M3 = {
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "num_attention_heads": 16,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "intermediate_size": 4096,
    "vocab_size": PIECES,
    "type_vocab_size": 1,
    "max_position_embeddings": 8194,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "pad_token_id": 1,
}


def main() -> None:
    """Write each model, measure it in a process of its own, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.texts, options.dtype)
        return
    memory = psutil.virtual_memory().total / 2**30
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {memory:.0f} GB, torch {torch.__version__}")
    for name, write in (("gte-multilingual-base", write_gte), ("bge-m3", write_bge_m3)):
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / name
            folder.mkdir()
            write(folder)
            command = [sys.executable, __file__, "--measure", str(folder)]
            subprocess.run([*command, "--texts", str(options.texts), "--dtype", options.dtype], check=True)


def measure(folder: str, texts: int, dtype: str) -> None:
    """Load, encode, print time and peak memory."""
    batch = mixed_texts(texts)
    started = time.perf_counter()
    with EmbeddingModel.load(folder, device="cpu", dtype=dtype) as model:
        loaded = time.perf_counter()
        encoded = model.encode_document(batch, outputs=model.outputs)
        done = time.perf_counter()
        tokens = int(encoded.token_counts.sum())
        assert encoded.token_counts.max() == 8192, "one text must fill the model"
        assert not any(bool(torch.isnan(torch.from_numpy(rows)).any()) for rows in encoded.dense), "NaN in the result"
        peak = peak_memory() / 2**30
        print(
            f"{Path(folder).name:22} {model.dtype:9} load {loaded - started:5.1f} s   "
            f"{len(batch)} texts, {tokens:,} tokens, longest {encoded.token_counts.max():,}: {done - loaded:6.1f} s, "
            f"{tokens / (done - loaded):,.0f} tokens/s   outputs {', '.join(model.outputs)}   peak {peak:.1f} GB"
        )


def peak_memory() -> int:
    """Most bytes this process has had in memory; memory-mapped weights count while they are there."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return int(psutil.Process().memory_info().rss)


def mixed_texts(texts: int) -> list[str]:
    """Short and long ones, as many of each order of magnitude, and one longer than the model reads."""
    chance = random.Random(0)
    lengths = [round(10 ** chance.uniform(1, 3)) for _ in range(texts - 1)] + [9_000]
    return [" ".join(f"w{chance.randrange(50_000)}" for _ in range(length)) for length in lengths]


def write_gte(folder: Path) -> None:
    """The layout of gte-multilingual-base."""
    tensors = random_tensors(folder, GTE, gte.FAMILY)
    prefixed = {name if name.startswith("classifier") else f"new.{name}": tensor for name, tensor in tensors.items()}
    save_file({name: tensor.half() for name, tensor in prefixed.items()}, folder / "model.safetensors")


def write_bge_m3(folder: Path) -> None:
    """The layout of bge-m3: three pickles."""
    for name, rows in (("sparse_linear.pt", 1), ("colbert_linear.pt", 1024)):
        torch.save({"weight": torch.randn(rows, 1024).half() * 0.02, "bias": torch.zeros(rows).half()}, folder / name)
    torch.save(random_tensors(folder, BGE_M3, xlm_roberta.FAMILY), folder / "pytorch_model.bin")


def random_tensors(folder: Path, config: dict[str, object], family: Family) -> dict[str, Tensor]:
    """Writes config.json and tokenizer.json; gives every tensor of the weights file under its published name."""
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    reading = family.read(ModelFolder(folder, folder.name), config)
    with torch.device("meta"):
        model = RetrievalModel(reading.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    tensors = {}
    for ours, theirs in family.layouts(reading.config)[0].items():
        for name in theirs:
            if ":" not in name:
                shape = (shapes[ours][0] // len(theirs), *shapes[ours][1:])
                is_norm = len(shape) == 1 and name.endswith("weight")
                tensors[name] = torch.ones(shape) if is_norm else torch.randn(shape) * 0.02
    return tensors


def write_tokenizer(folder: Path) -> None:
    """A unigram tokenizer with as many pieces as XLM-RoBERTa's."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(token, 0.0) for token in specials] + [(f"▁w{i}", -8.0) for i in range(PIECES - 5)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([*specials, "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    main()
