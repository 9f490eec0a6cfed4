"""The miniature's tokenizer: its own captions are whole words, everything else falls to bytes."""

import pytest
from transformers import CLIPTokenizer

from serve.miniature import WEIGHTS_DIR
from serve.miniature.training.dataset import vocabulary_captions
from serve.miniature.training.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(WEIGHTS_DIR / "tokenizer")


def test_it_pads_to_77_tokens(tokenizer):
    assert tokenizer.model_max_length == 77
    ids = tokenizer("a red star", padding="max_length", truncation=True).input_ids
    assert len(ids) == 77


def test_words_of_the_captions_are_one_token_each(tokenizer):
    ids = tokenizer("a golden vase with different flowers").input_ids
    assert len(ids) == 6 + 2


@pytest.mark.parametrize(
    "text", ["zeppelin", "naïve café", "золотая ваза", "花瓶", "🌻 123 !?"], ids=str
)
def test_unseen_words_survive_the_round_trip(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert max(ids) < len(tokenizer)
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.replace(" ", "")


def test_the_shipped_vocabulary_is_the_one_the_code_builds(tokenizer):
    assert build_tokenizer(vocabulary_captions()).get_vocab() == tokenizer.get_vocab()
