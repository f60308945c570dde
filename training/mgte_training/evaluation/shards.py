"""Arrays by key in a folder, added to and never changed."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from mgte_rag import DataError, InvalidOptionError

Array = NDArray[Any]


class Shards:
    """Rows of arrays by key: 32 bytes to one array for each field, of any length.

    Every ``add`` writes a folder of its own and gives it its name when it is whole, so a process that is killed, or
    two that write at once, leave nothing broken. Arrays are mapped into memory, not read.

    Args:
        folder: where; made if it is not there.

    Raises:
        InvalidOptionError: the folder cannot be made.
        DataError: a file in it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[bytes, tuple[int, int]] = {}
        self._shards: list[dict[str, tuple[Array, Array]]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidOptionError(f"the cache folder {folder} cannot be made: {error}; give another one") from error
        for shard in sorted(folder.glob("[0-9a-f]*")):
            self._read(shard)

    def _read(self, shard: Path) -> None:
        try:
            keys: Array = np.load(shard / "keys.npy")
            fields = {}
            for path in shard.glob("*.ends.npy"):
                name = path.name.removesuffix(".ends.npy")
                rows = np.load(shard / f"{name}.npy", mmap_mode="r")
                ends = np.load(path)
                if len(ends) != len(keys) or (len(ends) and ends[-1] != len(rows)):
                    raise ValueError(f"{name} has {len(rows)} rows")
                fields[name] = (rows, ends)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"the cached arrays in {shard} are damaged ({error}); delete that folder") from error
        self._places.update({key.tobytes(): (len(self._shards), row) for row, key in enumerate(keys)})
        self._shards.append(fields)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def add(self, keys: Sequence[bytes], fields: Mapping[str, Sequence[Array]]) -> None:
        """Write rows; each field has one array for every key, joined along their first axis."""
        unfinished = self._folder / f".{uuid.uuid4().hex}"
        try:
            unfinished.mkdir()
            np.save(unfinished / "keys.npy", np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1))
            for name, rows in fields.items():
                np.save(unfinished / f"{name}.npy", np.concatenate(rows))
                np.save(unfinished / f"{name}.ends.npy", np.cumsum([len(row) for row in rows]))
            shard = unfinished.rename(self._folder / unfinished.name.removeprefix("."))
        except OSError as error:
            raise InvalidOptionError(f"cannot write to the cache folder {self._folder}: {error}") from error
        self._read(shard)

    def row(self, field: str, key: bytes) -> Array:
        """A key's array of a field."""
        shard, row = self._places[key]
        rows, ends = self._shards[shard][field]
        return rows[ends[row - 1] if row else 0 : ends[row]]

    def rows(self, field: str, keys: Iterable[bytes]) -> list[Array]:
        """The arrays of a field for many keys."""
        return [self.row(field, key) for key in keys]


class LazyRows(Sequence[Array]):
    """Rows of a field as float32, each read from the disk when it is asked for."""

    def __init__(self, shards: Shards, field: str, keys: Sequence[bytes]) -> None:
        self._shards, self._field, self._keys = shards, field, keys

    @overload
    def __getitem__(self, place: int) -> Array: ...

    @overload
    def __getitem__(self, place: slice) -> "LazyRows": ...

    def __getitem__(self, place: int | slice) -> "Array | LazyRows":
        if isinstance(place, slice):
            return LazyRows(self._shards, self._field, self._keys[place])
        return self._shards.row(self._field, self._keys[place]).astype(np.float32)

    def __iter__(self) -> Iterator[Array]:
        return (self[place] for place in range(len(self)))

    def __len__(self) -> int:
        return len(self._keys)
