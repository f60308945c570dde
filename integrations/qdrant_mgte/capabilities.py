"""What a server can do by its version, and what we do where it cannot.

Versions are from the OpenAPI file of each release. Falling back without a word costs memory or disk space only, never
a result: compact vectors are stored larger, metadata in a point of its own. What would change a result is an error.
"""

import re
from dataclasses import dataclass
from typing import Self

from mgte_rag import CollectionError, InvalidOptionError

_SINCE = {
    "the query API, multi-vectors and float16": (1, 10),
    "fusion by distribution (DBSF)": (1, 11),
    "tenant indexes": (1, 11),
    "weighted sums of scores (formulas)": (1, 14),
    "maximal marginal relevance (MMR)": (1, 15),
    "RRF with a k other than 2": (1, 16),
    "collection metadata": (1, 16),
    "RRF with weights": (1, 17),
    "TurboQuant": (1, 18),
    "memory tiers": (1, 19),
    "turbo8 vectors": (1, 20),
}
BASIS = "the query API, multi-vectors and float16"
DBSF = "fusion by distribution (DBSF)"
TENANT = "tenant indexes"
FORMULA = "weighted sums of scores (formulas)"
MMR = "maximal marginal relevance (MMR)"
RRF_K = "RRF with a k other than 2"
METADATA = "collection metadata"
RRF_WEIGHTS = "RRF with weights"
TURBO_QUANT = "TurboQuant"
MEMORY_TIERS = "memory tiers"
TURBO8 = "turbo8 vectors"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server, or the in-memory engine, can do.

    Attributes:
        version: major and minor.
        is_server: False for the in-memory engine, which has no indexes and compares every point exactly.
    """

    version: tuple[int, int]
    is_server: bool = True

    @classmethod
    def of_server(cls, version: str) -> Self:
        """Of a server's version as it tells it.

        Raises:
            CollectionError: no version, or one too old for everything here.
        """
        match = re.match(r"v?(\d+)\.(\d+)", version)
        if match is None:
            raise CollectionError(f"the server says that its version is {version!r}, which is no Qdrant version")
        found = cls((int(match[1]), int(match[2])))
        if not found.has(BASIS):
            raise CollectionError(f"the server has version {version}; {found._needed(BASIS)}. Update the server")
        return found

    def has(self, feature: str) -> bool:
        """Whether this version has a feature of the table above."""
        return self.version >= _SINCE[feature]

    def require(self, feature: str) -> None:
        """Check for a feature that nothing can stand in for.

        Raises:
            InvalidOptionError: the server does not have it.
        """
        if not self.has(feature):
            raise InvalidOptionError(
                f"the server has version {self.version[0]}.{self.version[1]}; {self._needed(feature)}. "
                f"Update the server or search without"
            )

    @staticmethod
    def _needed(feature: str) -> str:
        major, minor = _SINCE[feature]
        return f"{feature} need {major}.{minor} or newer"


IN_MEMORY = Capabilities((1, 20), is_server=False)
