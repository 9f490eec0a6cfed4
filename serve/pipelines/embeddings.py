"""Prompts to embeddings, with a small cache."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from .components import TextEncoder, Tokenizer
from .devices import to_device


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text's hidden states, `(1, 77, D)`, and how many tokens it has."""

    states: torch.Tensor
    tokens: int


class PromptEncoder:
    """A tokenizer with its text encoder, and a cache of the most recently used embeddings."""

    def __init__(self, tokenizer: Tokenizer, model: TextEncoder, cache_size: int) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._embedding = lru_cache(cache_size)(self._compute)

    @property
    def lookups(self) -> tuple[int, int]:
        """Hits and misses of the cache so far."""
        info = self._embedding.cache_info()
        return info.hits, info.misses

    def encode(self, field: str, text: str) -> tuple[torch.Tensor, list[str]]:
        """Hidden states of the padded text, `(1, 77, D)`, and a warning if it was truncated.

        The warning names the request's `field`.
        """
        limit = self._tokenizer.model_max_length
        embedding = self._embedding(text)
        warnings = []
        if embedding.tokens > limit:
            warnings.append(f"{field}: {embedding.tokens} tokens, cut to the first {limit}")
        return embedding.states, warnings

    def _compute(self, text: str) -> Embedding:
        limit = self._tokenizer.model_max_length
        padded = self._tokenizer(
            text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        tokens = len(self._tokenizer(text, verbose=False).input_ids)
        return Embedding(self._model(to_device(padded.input_ids, self._model.device))[0], tokens)
