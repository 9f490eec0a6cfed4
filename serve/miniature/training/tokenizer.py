"""The miniature's tokenizer: byte-level BPE with merges learnt from its own captions.

As in CLIP's, every byte is a token, within and at the end of a word, so unseen words and other
scripts fall back to bytes; merges make each word of the captions one token.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

MAX_LENGTH = 77
_END = "</w>"
_START_TOKEN, _END_TOKEN = "<|startoftext|>", "<|endoftext|>"


def learn_merges(captions: Iterable[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pairs until every word of the captions is one token."""
    words: Counter[tuple[str, ...]] = Counter()
    for caption in captions:
        for word in re.findall(r"[a-z]+|[^\sa-z]", caption.lower()):
            words[(*word[:-1], word[-1] + _END)] += 1
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, count in words.items():
            for left, right in pairwise(parts):
                pairs[left, right] += count
        if not pairs:
            return merges
        # Ties are broken alphabetically, so that the vocabulary is deterministic.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for parts, count in words.items():
            merged[_merge(parts, best)] += count
        words = merged


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(parts):
        if parts[i : i + 2] == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return tuple(out)


def build_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A CLIPTokenizer over bytes, word-final bytes, merges and two special tokens."""
    merges = learn_merges(captions)
    symbols = bytes_to_unicode().values()  # Printable ones for the 256 bytes, in GPT-2's order.
    tokens = [*symbols, *(s + _END for s in symbols), *(a + b for a, b in merges)]
    tokens = [*dict.fromkeys(tokens), _START_TOKEN, _END_TOKEN]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=MAX_LENGTH,
    )
