"""Prompts to embeddings, with a small cache."""

from collections import OrderedDict
from dataclasses import dataclass

import torch

from .components import TextEncoder, Tokenizer
from .devices import to_device


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text's hidden states, `(1, 77, D)`, and how many tokens it has."""

    states: torch.Tensor
    tokens: int


class EmbeddingCache:
    """Keeps the most recently used embeddings. Not thread-safe, except for reading the counts."""

    def __init__(self, capacity: int) -> None:
        self.hits = 0
        self.misses = 0
        self._capacity = capacity
        self._entries: OrderedDict[tuple[str, str], Embedding] = OrderedDict()

    def get(self, encoder: str, text: str) -> Embedding | None:
        """Look up a text encoder's embedding of a text; counts as a hit or a miss."""
        found = self._entries.get((encoder, text))
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._entries.move_to_end((encoder, text))
        return found

    def put(self, encoder: str, text: str, embedding: Embedding) -> None:
        """Keep an embedding, and drop the least recently used ones beyond the capacity."""
        self._entries[encoder, text] = embedding
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)


class PromptEncoder:
    """A tokenizer with its text encoder; `name` identifies it in a shared cache."""

    def __init__(
        self, name: str, tokenizer: Tokenizer, model: TextEncoder, cache: EmbeddingCache
    ) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._model = model
        self._cache = cache

    def encode(self, field: str, text: str) -> tuple[torch.Tensor, list[str]]:
        """Hidden states of the padded text, `(1, 77, D)`, and a warning if it was truncated.

        The warning names the request's `field`.
        """
        limit = self._tokenizer.model_max_length
        embedding = self._cache.get(self._name, text)
        if embedding is None:
            embedding = self._compute(text, limit)
            self._cache.put(self._name, text, embedding)
        warnings = []
        if embedding.tokens > limit:
            warnings.append(f"{field}: {embedding.tokens} tokens, cut to the first {limit}")
        return embedding.states, warnings

    def _compute(self, text: str, limit: int) -> Embedding:
        padded = self._tokenizer(
            text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        tokens = len(self._tokenizer(text, verbose=False).input_ids)
        return Embedding(self._model(to_device(padded.input_ids, self._model.device))[0], tokens)
