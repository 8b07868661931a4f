"""Copies of a `tokenizers.Tokenizer`: equal in all that they do, and apart in all that may change."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from llama_padfix.tokens.backend import clone_backend


def make_backend(added: dict[str, int] | None = None) -> Tokenizer:
    words = {"a": 0, "b": 1, "c": 2, "<s>": 3, **(added or {})}
    backend = Tokenizer(models.WordLevel(words, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.normalizer = normalizers.Lowercase()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    backend.add_special_tokens([AddedToken("<s>", special=True), *(added or {})])
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return backend


def test_a_clone_is_the_same_with_all_its_settings_and_stays_apart() -> None:
    backend = make_backend()
    backend.enable_truncation(3, stride=1, direction="left")
    backend.enable_padding(direction="left", pad_id=2, pad_token="c", length=4)
    backend.encode_special_tokens = True
    before = backend.to_str()
    clone = clone_backend(backend)
    assert clone.to_str() == before
    assert clone.encode_special_tokens
    assert clone.encode("a b c <tool>").ids == backend.encode("a b c <tool>").ids
    clone.no_truncation()
    clone.no_padding()
    clone.add_tokens(["<new>"])
    clone.post_processor = processors.ByteLevel()
    assert backend.to_str() == before


def test_added_tokens_that_the_model_knows_keep_their_ids() -> None:
    backend = make_backend({"<y>": 5, "<x>": 4})
    clone = clone_backend(backend)
    assert clone.to_str() == backend.to_str()
    assert [clone.token_to_id(token) for token in ("<s>", "<x>", "<y>", "<tool>")] == [3, 4, 5, 6]
