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


def test_ids_with_a_gap_between_them_are_kept() -> None:
    document = make_backend().to_str().replace('"id": 4', '"id": 9')
    backend = Tokenizer.from_str(document)
    assert backend.token_to_id("<tool>") == 9
    clone = clone_backend(backend)
    assert clone.token_to_id("<tool>") == 9 and clone.to_str() == backend.to_str()
