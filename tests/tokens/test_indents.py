"""Indents are words of their own exactly where the merges prove that nothing is joined with their last space."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers

from llama_padfix.tokens import engine as engines
from llama_padfix.tokens.cached import encoder as cached_engine
from llama_padfix.tokens.cached.encoder import CachedEncoder
from llama_padfix.tokens.cached.indents import cut_merges, find_longest_indent

S = "\u2581"
Merges = list[tuple[str, str]]

SPACES: Merges = [(S * 3, S), (S * 2, S * 2), (S * 2, S), (S, S)]
WORDS: Merges = [(S, "a"), ("a", "b"), (f"{S}a", "b"), ("b", "\n")]
CASES: dict[str, tuple[Merges, int]] = {
    "spaces first": (SPACES + WORDS, 4),
    "a word first": ([(S, "a"), *SPACES, *WORDS[1:]], 1),
    "a word before the third space": ([(S, S), (S, "a"), *SPACES[:3], *WORDS[1:]], 2),
    "no token of three": ([(S, S), (S * 2, S * 2), *WORDS], 2),
    "a token that goes on": ([*SPACES, *WORDS, (S * 2, "a")], 1),
    "a character in front": ([*SPACES, *WORDS, ("x", S), (f"x{S}", "a")], 4),
    "no merges of spaces": (WORDS, 1),
}


def make_backend(merges: Merges, added: Sequence[str] = ()) -> Tokenizer:
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + [S, "a", "b", "x", "\n"]
    tokens += dict.fromkeys(left + right for left, right in merges)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=False))
    backend.normalizer = normalizers.Replace(" ", S)
    backend.add_tokens([AddedToken(token, normalized=False) for token in ("<|a|>", *added)])
    return backend


@pytest.mark.parametrize("case", CASES)
def test_texts_with_indents_keep_their_ids(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_engine, "_FEW", 0)
    merges, longest = CASES[case]
    backend = make_backend(merges)
    words: set[str] = set()

    def encode(texts: Sequence[str]) -> Any:
        words.update(part for text in texts for part in text.split("<|a|>"))
        return exact(texts)

    def exact(texts: Sequence[str]) -> Any:
        return engines._encode_with(backend, texts)

    cached = CachedEncoder(backend, engines._encode_with, exact, encode, cut_merges(backend.to_str()))
    assert cached._boundaries.longest_indent == longest
    draw = random.Random(case)
    atoms = [*"ab \n", "  ", "   ", "    ", " " * 5, "x", " x", "é", S, S * 2, "<|a|>", "c", "ab", "\n  ab"]
    texts = ["".join(draw.choices(atoms, k=draw.randrange(9))) for _ in range(1500)]
    ids, counts = cached(texts)
    assert (ids.tolist(), counts.tolist()) == tuple(part.tolist() for part in exact(texts))
    words.clear()
    CachedEncoder(backend, engines._encode_with, exact, encode, cut_merges(backend.to_str()))(["\n  ab\n     ab"])
    assert ({"  ", "ab\n"} <= words) == (longest > 1) and ("     ab" in words or S * 2 not in backend.get_vocab())


@pytest.mark.parametrize("written", ['[["▁","▁"],["▁▁","▁"],["▁","a"]]}}', '["▁ ▁","▁▁ ▁","▁ a"]'])
def test_merges_are_read_in_both_forms_and_as_far_as_they_are_there(written: str) -> None:
    merges = cut_merges('{"model":{"vocab":{"\\"merges\\":[":0},"merges":' + written)
    assert find_longest_indent(merges) == 3
    assert find_longest_indent(merges[:3]) == 1
    assert find_longest_indent(cut_merges('{"model":{}}')) == 1
