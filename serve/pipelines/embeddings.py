"""Prompts to embeddings, with a small cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from .components import Tokenizer
from .devices import to_device


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text's hidden states, `(1, 77, D)`, and how many tokens it has."""

    states: torch.Tensor
    tokens: int


class PromptEncoder:
    """A tokenizer with a call of its text encoder, and a cache of the last used embeddings.

    The call takes token ids `(1, 77)` on the device, hidden states are the first of its results.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        call: Callable[[torch.Tensor], Sequence[torch.Tensor]],
        device: torch.device,
        cache_size: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._call = call
        self._device = device
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
        return Embedding(self._call(to_device(padded.input_ids, self._device))[0], tokens)
