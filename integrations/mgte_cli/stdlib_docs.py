"""The documentation of Python's standard library, collected from the running interpreter.

Several thousand real texts that every Python has: what the demo searches, and what tests and benchmarks read.
"""

import contextlib
import functools
import importlib
import inspect
import io
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of default values: another one in every process
_PLAIN = (str, bytes, int, float, complex, type(None), type, FunctionType, BuiltinFunctionType)

# Importing these opens a browser, prints a poem, starts a program, or belongs to no user.
_SKIPPED = {"__main__", "antigravity", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "this", "turtledemo"}


@dataclass(frozen=True, slots=True)
class DocEntry:
    """One documented object.

    Attributes:
        name: qualified name, "csv.DictReader.fieldnames"; unique.
        kind: "module", "class", "function" or "method".
        module: the public module it was found in.
        signature: "(a, b=1)" where Python knows it, else "".
        text: its docstring.
    """

    name: str
    kind: str
    module: str
    signature: str
    text: str

    def to_document(self) -> dict[str, Any]:
        """The entry as a collection takes it."""
        return {
            "id": self.name,
            "text": f"{self.name}{self.signature}\n\n{self.text}",
            "metadata": {"name": self.name, "kind": self.kind, "module": self.module},
        }


def collect() -> list[DocEntry]:
    """Every public module, class, function and method of the standard library that has a docstring, by name.

    An object that several modules offer is listed once, under the first of them by name. It is looked up once. What
    other packages have added to the library's classes is left out: every process with this Python has the same list.
    """
    return list(_collected())


@functools.cache
def _collected() -> tuple[DocEntry, ...]:
    entries: dict[str, DocEntry] = {}
    seen: dict[int, Any] = {}  # by identity; holding the objects keeps their ids from being given to others
    for module in _public_modules():
        _add(entries, seen, module, module.__name__, "module", module.__name__)
        offered = getattr(module, "__all__", None)
        for name, member in _members(module):
            if name not in offered if offered is not None else getattr(member, "__module__", "") != module.__name__:
                continue
            qualified = f"{module.__name__}.{name}"
            if inspect.isclass(member):
                _add(entries, seen, member, qualified, "class", module.__name__)
                for method_name, method in _members(member, own=True):
                    if inspect.isroutine(method):
                        _add(entries, seen, method, f"{qualified}.{method_name}", "method", module.__name__)
            elif inspect.isroutine(member):
                _add(entries, seen, member, qualified, "function", module.__name__)
    return tuple(entries[name] for name in sorted(entries))


def _add(entries: dict[str, DocEntry], seen: dict[int, Any], member: Any, name: str, kind: str, module: str) -> None:
    member = getattr(member, "__func__", member)  # a class method is a new object every time it is looked up
    text = _own_docstring(member)
    home = str(getattr(member, "__module__", None) or module)
    if not text or id(member) in seen or home.split(".")[0] not in sys.stdlib_module_names:
        return
    seen[id(member)] = member
    entries[name] = DocEntry(name, kind, module, _signature(member) if kind != "module" else "", text)


def _own_docstring(member: Any) -> str:
    doc = member.__doc__ if isinstance(getattr(member, "__doc__", None), str) else ""
    return inspect.cleandoc(doc).strip()


def _signature(member: Any) -> str:
    try:
        signature = inspect.signature(member)
        shown = [each if _is_plain(each.default) else each.replace(default=_Left()) for each in
                 signature.parameters.values()]  # fmt: skip
        return _ADDRESS.sub("", str(signature.replace(parameters=shown)))
    except (TypeError, ValueError, AttributeError, NameError):  # many C functions have none
        return ""


class _Left:
    """Stands for a default value that may be another one in every process, the whole environment say."""

    def __repr__(self) -> str:
        return "..."


def _is_plain(default: Any) -> bool:
    if isinstance(default, tuple | list | set | frozenset):
        return all(map(_is_plain, default))
    return isinstance(default, _PLAIN) or default == {}


def _members(parent: Any, *, own: bool = False) -> Iterator[tuple[str, Any]]:
    """Public attributes, by name; with ``own`` only those that a class defines itself."""
    for name in sorted(vars(parent) if own else dir(parent)):
        if not name.startswith("_"):
            with contextlib.suppress(Exception):
                yield name, getattr(parent, name)


def _public_modules() -> Iterator[ModuleType]:
    """The importable public modules of the standard library, packages' submodules included."""
    for name in sorted(sys.stdlib_module_names - _SKIPPED):
        if name.startswith("_"):
            continue
        module = _import(name)
        if module is None:
            continue
        yield module
        for submodule in sorted(
            info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []), f"{name}.")
        ):
            if not submodule.rsplit(".", 1)[-1].startswith("_") and (found := _import(submodule)) is not None:
                yield found


def _import(name: str) -> ModuleType | None:
    """The module, or None where this platform lacks it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except Exception:  # platform modules fail in many ways
            return None
