"""Where a collection is: a folder, memory, or a server."""

from pathlib import Path

from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown
from qdrant_mgte.stores import MEMORY


def place_of(location: str | Path) -> Path | str:
    """A folder as a Path, ":memory:" or a URL.

    Raises:
        InvalidOptionError: none of these.
    """
    if location == "":
        raise InvalidOptionError("location is empty; give a folder, ':memory:' or the URL of a server")
    if isinstance(location, str) and (location == MEMORY or "://" in location):
        return location
    try:
        return Path(location).expanduser().resolve()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidOptionError(f"location {shown(location)} is no folder: {error}") from error
