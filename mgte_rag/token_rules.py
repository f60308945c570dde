"""A model's conventions about tokens: markers, mask tokens, which ones its sparse and token vectors are made of."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mgte_rag.config import ModelConfig
from mgte_rag.errors import CheckpointError
from mgte_rag.tokenization import TextTokenizer, TokenizedTexts
from mgte_rag.types import Bools, Integers, Output, Role


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the engine needs of a list of texts.

    Attributes:
        ids: int32 [length] per text.
        truncated: bool [texts].
        attended: tokens of each text that others attend to, the first ones; None is all.
        types: int32 [length] per text, token types; None is 0 everywhere.
        asked: bool [texts], which of them are queries; None is none.
        sparse_tokens: bool [length] per text, tokens that are terms; None where not asked for.
        vector_tokens: bool [length] per text, tokens that have a vector; None where not asked for.
    """

    ids: list[Integers]
    truncated: Bools
    attended: list[int] | None = None
    types: list[Integers] | None = None
    asked: Bools | None = None
    sparse_tokens: list[Bools] | None = None
    vector_tokens: list[Bools] | None = None


class TokenRules:
    """A model's conventions, resolved to token ids once.

    Instruction tokens enter neither the sparse nor the token vectors: they say what is asked, not what about.

    Args:
        config: the model's switches.
        tokenizer: its tokenizer.

    Raises:
        CheckpointError: the tokenizer lacks a marker or the mask token that the model's late interaction needs.
    """

    def __init__(self, config: ModelConfig, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._head = head = config.multi_vector
        self._uses_types = config.encoder.token_types > 1
        self._markers: dict[Role, int | None] = {"query": None, "document": None}
        self._mask_id = 0
        self._skipped = np.zeros(0, dtype=np.int32)
        if head is None:
            return
        self._markers = {"query": self._needed(head.query_marker), "document": self._needed(head.document_marker)}
        if head.query_length is not None:
            if tokenizer.mask_id is None:
                raise CheckpointError("the model fills its queries with mask tokens, and its tokenizer has none")
            self._mask_id = tokenizer.mask_id
        # The symbol itself is looked up, as PyLate and sentence-transformers do; Stanford's ColBERT takes the first
        # token of the encoded symbol, which in a sentencepiece vocabulary may be the blank before it.
        ids = [tokenizer.token_id(token) for token in head.skipped]
        self._skipped = np.array([i for i in ids if i is not None], dtype=np.int32)

    def _needed(self, marker: str | None) -> int | None:
        if marker is None:
            return None
        found = self._tokenizer.token_id(marker)
        if found is None:
            raise CheckpointError(
                f"the tokenizer lacks the token {marker!r}, with which the model marks queries or documents; "
                f"fetch the model's tokenizer.json again"
            )
        return found

    def min_length(self, role: Role) -> int:
        """Tokens of an empty text of that role, before a query is filled up."""
        return self._tokenizer.min_length + (self._markers[role] is not None)

    def default_length(self, role: Role) -> int | None:
        """The length that texts of that role are cut to unless the caller says otherwise; None is the model's limit."""
        return self._head.query_length if self._head is not None and role == "query" else None

    def read(
        self, texts: Sequence[str], role: Role, outputs: Collection[Output], *, prompt: str, max_length: int
    ) -> Inputs:
        """Texts to what the engine needs for those outputs.

        Args:
            texts: any strings.
            role: whether they ask or are searched.
            outputs: which of the model's outputs will be made.
            prompt: put before every text.
            max_length: tokens kept of each, at least min_length; the mask tokens of a query come on top.
        """
        needs_tokens = "sparse" in outputs or "multi_vector" in outputs
        tokens = self._tokenizer.tokenize(
            texts, prompt=prompt, max_length=max_length, marker=self._markers[role], count_prompt=needs_tokens
        )
        prompts = self._prompts(tokens, role)
        ids, attended = self._filled_up(tokens.ids, role)
        return Inputs(
            ids,
            tokens.truncated,
            attended=attended,
            asked=np.full(len(ids), role == "query"),
            sparse_tokens=self._sparse_tokens(ids, prompts) if "sparse" in outputs else None,
            vector_tokens=self._vector_tokens(ids, prompts, role) if "multi_vector" in outputs else None,
        )

    def offsets(self, texts: Sequence[str], role: Role, *, prompt: str) -> list[Integers]:
        """Where in each text its tokens are, int32 [tokens, 2]; as many as ``read`` would give without a max_length."""
        return self._tokenizer.offsets(texts, prompt=prompt, marker=self._markers[role])

    def read_pairs(self, pairs: Sequence[tuple[str, str]], *, max_length: int, query_max_length: int) -> Inputs:
        """Pairs of query and document to what the engine needs for scores."""
        tokens = self._tokenizer.tokenize_pairs(pairs, max_length=max_length, query_max_length=query_max_length)
        return Inputs(tokens.ids, tokens.truncated, types=tokens.types if self._uses_types else None)

    def _prompts(self, tokens: TokenizedTexts, role: Role) -> list[slice]:
        """The prompt's place in every text."""
        start = self._tokenizer.prefix_length + (self._markers[role] is not None)
        return [slice(start, start + count) for count in tokens.prompt_tokens or [0] * len(tokens.ids)]

    def _filled_up(self, ids: list[Integers], role: Role) -> tuple[list[Integers], list[int] | None]:
        head = self._head
        if head is None or head.query_length is None or role == "document":
            return ids, None
        filled = [
            np.concatenate([row, np.full(max(0, head.query_length - len(row)), self._mask_id, dtype=np.int32)])
            for row in ids
        ]
        return filled, None if head.attend_to_mask else [len(row) for row in ids]

    def _sparse_tokens(self, ids: list[Integers], prompts: list[slice]) -> list[Bools]:
        kept = [~np.isin(row, self._tokenizer.unsaid) for row in ids]
        for mask, prompt in zip(kept, prompts, strict=True):
            mask[prompt] = False
        return kept

    def _vector_tokens(self, ids: list[Integers], prompts: list[slice], role: Role) -> list[Bools]:
        skipped = self._skipped if role == "document" else self._skipped[:0]
        kept = [~np.isin(row, skipped) for row in ids]
        for mask, prompt in zip(kept, prompts, strict=True):
            mask[prompt] = False
            if self._head is not None and not self._head.first_token:
                mask[0] = False
        return kept
