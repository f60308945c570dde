"""A collection's identity: which model wrote its vectors, and how; stored with it and compared on every opening."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from mgte_rag import CorruptCollectionError, InvalidOptionError, ModelIdentity, ModelMismatchError
from mgte_rag.errors import shown
from mgte_rag.types import Output
from qdrant_mgte.encodings import OUTPUTS
from qdrant_mgte.filters import DOC_ID, field_path
from qdrant_mgte.schema import FieldType, Preset, Schema
from qdrant_mgte.store import Store
from qdrant_mgte.types import EncodingModel

_FORMAT = "mgte-rag collection"
SCHEMA_VERSION = 2  # of payloads and point ids; 1: whole documents with dense vectors


@dataclass(frozen=True, slots=True)
class Layout:
    """What a caller asks of a collection; None is the default of a new one and that of one that is there.

    Attributes:
        outputs: which of the model's outputs are stored; all of them.
        dim: components of the dense vectors, one of the model's; all of them.
        token_dim: components of a token's vector, one of the model's; all of them.
        dense_prefix: components of the Matryoshka prefix that finds candidates for the whole vector; no prefix.
        preset: "exact", "balanced" or "compact"; "balanced".
        tenant: metadata field that separates tenants.
        indexes: metadata fields to index, by type.
        shards: of a server's collection.
        replicas: of every shard.
    """

    outputs: Sequence[Output] | None = None
    dim: int | None = None
    token_dim: int | None = None
    dense_prefix: int | None = None
    preset: Preset | None = None
    tenant: str | None = None
    indexes: Mapping[str, FieldType] | None = None
    shards: int | None = None
    replicas: int | None = None

    def schema(self, model: EncodingModel, present: Schema | None = None) -> Schema:
        """The schema of a new collection; what says nothing about vectors is taken over from a present one.

        Raises:
            InvalidOptionError: the model does not have what is asked.
        """
        outputs = _check_outputs(self.outputs, model)
        indexes = {DOC_ID: "keyword", "chunk_no": "integer"}
        taken = {} if present is None else asdict(present)
        if self.indexes is None:
            indexes |= taken.get("indexes", {})
        else:
            indexes |= {field_path(name): kind for name, kind in self.indexes.items()}
        dense = _check_size("dim", self.dim, model.dims, "dense" in outputs)
        if self.dense_prefix is not None and self.dense_prefix not in model.dims[:-1]:
            allowed = ", ".join(map(str, model.dims[:-1])) or "none: it was not trained for shorter vectors"
            raise InvalidOptionError(f"dense_prefix={self.dense_prefix!r}: the model allows {allowed}")
        return Schema(
            dense=dense,
            dense_prefix=self.dense_prefix,
            sparse="sparse" in outputs,
            multi_vector=_check_size("token_dim", self.token_dim, model.token_dims, "multi_vector" in outputs),
            preset=self.preset or taken.get("preset") or "balanced",
            tenant=taken.get("tenant") if self.tenant is None else field_path(self.tenant),
            indexes=indexes,  # type: ignore[arg-type]
            shards=taken.get("shards") if self.shards is None else self.shards,
            replicas=taken.get("replicas") if self.replicas is None else self.replicas,
        )

    def differences(self, present: Schema) -> list[str]:
        """What was asked for and is otherwise in a collection that is there."""
        stored = tuple(o for o in OUTPUTS if (getattr(present, o) is not None and getattr(present, o) is not False))
        pairs: list[tuple[str, Any, Any]] = [
            ("outputs", self.outputs and tuple(o for o in OUTPUTS if o in self.outputs), stored),
            ("dim", self.dim, present.dense),
            ("token_dim", self.token_dim, present.multi_vector),
            ("dense_prefix", self.dense_prefix, present.dense_prefix),
            ("preset", self.preset, present.preset),
            ("tenant", self.tenant and field_path(self.tenant), present.tenant),
            ("shards", self.shards, present.shards),
            ("replicas", self.replicas, present.replicas),
        ]
        found = [
            f"{name} is {there!r}, asked was {asked!r}" for name, asked, there in pairs if asked not in (None, there)
        ]
        for name, kind in (self.indexes or {}).items():
            if present.indexes.get(field_path(name)) != kind:
                found.append(f"{name!r} has no index of type {kind!r}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A collection's identity.

    Attributes:
        schema_version: of payloads and point ids.
        model: identity of the model that wrote the vectors.
        prompts: what the model puts before texts, by role; for people, the fingerprint covers them.
    """

    schema_version: int
    model: ModelIdentity
    prompts: Mapping[str, str]

    @classmethod
    def of(cls, model: EncodingModel) -> Self:
        """The manifest of what a model writes now."""
        return cls(
            schema_version=SCHEMA_VERSION,
            model=model.identity,
            prompts={str(role): prompt for role, prompt in model.prompts.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {"format": _FORMAT, **asdict(self), "prompts": dict(self.prompts)}

    @classmethod
    def read(cls, store: Store) -> Self:
        """The manifest of an open collection.

        Raises:
            CorruptCollectionError: it is none of ours, or of a release after this one.
        """
        content = store.metadata
        try:
            manifest = cls(
                schema_version=content["schema_version"],
                model=ModelIdentity(**content["model"]),
                prompts=content.get("prompts", {}),
            )
        except (KeyError, TypeError) as error:
            raise CorruptCollectionError(
                f"the collection {store.location} does not say which model wrote it ({error!r}); it was not made by "
                f"mgte-rag, or its metadata was changed by hand. Give another name or location"
            ) from error
        if manifest.schema_version not in range(1, SCHEMA_VERSION + 1):
            raise CorruptCollectionError(
                f"the collection {store.location} has schema version {manifest.schema_version!r}, this release reads "
                f"up to {SCHEMA_VERSION}; use the release that wrote it"
            )
        return manifest

    def check(self, store: Store, model: EncodingModel, layout: Layout) -> None:
        """Compare with a model and with what the caller asks for.

        Raises:
            ModelMismatchError: the model's vectors cannot be compared with those stored, or the collection is laid
                out otherwise; the message says what differs.
        """
        found = layout.differences(store.schema)
        if self.model.fingerprint != model.identity.fingerprint:
            found.insert(0, f"it was written with the model {_named(self.model)}, given is {_named(model.identity)}")
        if self.schema_version != SCHEMA_VERSION:
            found.insert(0, f"it has schema version {self.schema_version}, this release writes {SCHEMA_VERSION}")
        if found:
            raise ModelMismatchError(
                f"the collection {store.location} is another: {'; '.join(found)}. Open it as it is, give another "
                f"location, or embed its documents again: HybridCollection.migrate({shown(store.location)}, model=...)"
            )


def check_still_of(store: Store, model: EncodingModel) -> None:
    """Check that nobody migrated the collection since it was opened.

    Raises:
        ModelMismatchError: its vectors are another model's now.
    """
    fingerprint = store.metadata.get("model", {}).get("fingerprint")
    if fingerprint != model.identity.fingerprint:
        raise ModelMismatchError(
            f"the collection {store.location} was migrated to another model while this handle was open; open it again "
            f"with that model"
        )


def _named(model: ModelIdentity) -> str:
    return f"{model.name!r} (revision {model.revision}, fingerprint {model.fingerprint[:12]})"


def _check_outputs(asked: Iterable[str] | None, model: EncodingModel) -> tuple[str, ...]:
    if asked is None:
        return model.outputs
    listed = tuple(asked) if not isinstance(asked, str) else (asked,)
    if not listed or any(output not in model.outputs for output in listed):
        raise InvalidOptionError(
            f"outputs={shown(asked)}: the model {model.identity.name!r} has {', '.join(model.outputs)}"
        )
    return listed


def _check_size(name: str, asked: int | None, allowed: tuple[int, ...], is_stored: bool) -> int | None:
    if not is_stored:
        if asked is not None:
            raise InvalidOptionError(f"{name}={asked!r}: the collection will have no such vectors")
        return None
    if asked is not None and asked not in allowed:
        raise InvalidOptionError(f"{name}={asked!r}: the model allows {', '.join(map(str, allowed))}")
    return allowed[-1] if asked is None else asked
