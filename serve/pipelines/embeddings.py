"""Prompts to embeddings, and a small cache of them."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from .devices import to_device


@dataclass(frozen=True, slots=True)
class Embedding:
    """What the text encoder made of a text: `(1, 77, D)`, and how many tokens the text has."""

    states: torch.Tensor
    tokens: int


class EmbeddingCache:
    """The embeddings that were used last. Not thread-safe, but anyone may read the counts."""

    def __init__(self, capacity: int) -> None:
        self.hits = 0
        self.misses = 0
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, str], Embedding] = OrderedDict()

    def get(self, encoder: str, text: str) -> Embedding | None:
        """What `put` was given for a text encoder and a text; counts as a hit or a miss."""
        found = self._kept.get((encoder, text))
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._kept.move_to_end((encoder, text))
        return found

    def put(self, encoder: str, text: str, embedding: Embedding) -> None:
        """Keep an embedding, and drop those that were used longest ago."""
        self._kept[encoder, text] = embedding
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)


class PromptEncoder:
    """A tokenizer and a text encoder. `name` tells it from others that share the cache."""

    def __init__(
        self, name: str, tokenizer: CLIPTokenizer, model: CLIPTextModel, cache: EmbeddingCache
    ) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._model = model
        self._cache = cache

    def encode(self, field: str, text: str) -> tuple[torch.Tensor, list[str]]:
        """Hidden states of the padded text, `(1, 77, D)`, and a warning where it was cut.

        The warning names the request's `field`.
        """
        limit = self._tokenizer.model_max_length
        found = self._cache.get(self._name, text)
        if found is None:
            found = self._compute(text, limit)
            self._cache.put(self._name, text, found)
        cut = found.tokens > limit
        warnings = [f"{field}: {found.tokens} tokens, cut to the first {limit}"] if cut else []
        return found.states, warnings

    def _compute(self, text: str, limit: int) -> Embedding:
        used = self._tokenizer(
            text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        tokens = len(self._tokenizer(text, verbose=False).input_ids)
        return Embedding(self._model(to_device(used.input_ids, self._model.device))[0], tokens)
