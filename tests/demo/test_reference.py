"""The tokenizers that everything here is proven on are Meta's own."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llama_padfix import PadfixError
from llama_padfix.demo.reference import RELEASES, build_tokenizer, make_tiny_llama
from llama_padfix.tokens.calls import copy_tokenizer
from tests.conftest import ALL, INSTRUCT, fresh_tokenizer

TEXTS = [
    "",
    " ",
    "Hello world",
    "  two spaces\n\n\tand a tab  \r\n\r\n",
    "I'll DON'T we've 'S 'lL",
    "1234567890 3.14159 1e-9 0xFF",
    "def f(x):\n    return {'a': [x ** 2]}\n",
    "你好，世界。 안녕하세요 세계 こんにちは",
    "Привет مرحبا שלום नमस्ते สวัสดี",
    "🙂🏳️‍🌈👩‍👩‍👧‍👦 e\u0301 ﷽ \u00a0\u200b\ufeff",
    "a" * 300,
    "\x00\x01\x7f \udbff".encode("utf-8", "ignore").decode(),
    "<|eot_id|> spelled, <|start_header_id|>assistant<|end_header_id|>\n\n and <|unknown|>",
]


def random_texts(count: int) -> list[str]:
    rng = random.Random(7)
    blocks = [(32, 127), (0x80, 0x2000), (0x4E00, 0x9FFF), (0x1F300, 0x1F700), (9, 14)]
    return ["".join(chr(rng.randrange(*rng.choice(blocks))) for _ in range(rng.randrange(80))) for _ in range(count)]


@pytest.fixture(scope="module")
def meta() -> Any:
    from llama_models.llama3.tokenizer import Tokenizer

    return Tokenizer.get_instance()


def test_ids_are_those_of_metas_own_tokenizer(meta: Any) -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    for text in [*TEXTS, *random_texts(400)]:
        as_control = meta.encode(text, bos=True, eos=False, allowed_special="all")
        assert tokenizer(text)["input_ids"] == as_control, text
        as_text = meta.encode(text, bos=False, eos=False, disallowed_special=())
        assert tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == as_text, text
        assert tokenizer.decode(as_text) == text


def test_names_and_ids_of_the_control_tokens(meta: Any) -> None:
    vocabulary = fresh_tokenizer("3.1-instruct").get_vocab()
    for name in ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"):
        assert vocabulary[f"<|{name}|>"] == meta.special_tokens[f"<|{name}|>"]
    early, base = fresh_tokenizer("3.1-instruct-early"), fresh_tokenizer("3-base")
    assert early.convert_ids_to_tokens([128004, 128008, 128009]) == [
        "<|reserved_special_token_2|>",
        "<|eom_id|>",
        "<|eot_id|>",
    ]
    assert base.convert_ids_to_tokens([128008, 128010, 128255]) == [
        "<|reserved_special_token_4|>",
        "<|reserved_special_token_5|>",
        "<|reserved_special_token_250|>",
    ]


@pytest.mark.parametrize("release", ALL)
def test_what_sets_the_releases_apart(release: str) -> None:
    tokenizer, spec = fresh_tokenizer(release), RELEASES[release]
    assert len(tokenizer) == 128256
    assert tokenizer.pad_token is None
    assert tokenizer.eos_token == spec.eos_token
    assert tokenizer("Hi")["input_ids"] == [128000] * spec.adds_bos + [13347]
    assert (tokenizer.chat_template is not None) == (release in INSTRUCT)
    if release in INSTRUCT:
        text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        assert text.startswith("<|begin_of_text|><|start_header_id|>")
        assert ("Today Date" in text) == release.startswith(("3.1", "3.2"))
        assert text.endswith("assistant<|end_header_id|>\n\n") == (release == "3-instruct-early")
        dated = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, date_string="D")
        assert ("Today Date: D" in dated) == release.startswith(("3.1", "3.2"))


def test_tiny_llama_is_the_same_for_the_same_seed() -> None:
    import torch

    state = torch.random.get_rng_state()
    one, two, other = (make_tiny_llama(hidden_size=16, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are left alone"
    weights = [model.get_input_embeddings().weight for model in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.generation_config.eos_token_id == [128001, 128008, 128009]
    assert make_tiny_llama("3-base", hidden_size=16).generation_config.eos_token_id == 128001


def test_errors_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    with pytest.raises(PadfixError, match=r"Unknown release '4'\. The known ones are: 3-base"):
        build_tokenizer("4")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PadfixError, match=r'llama_models is not installed.*pip install "llama-padfix\[demo\]"'):
        build_tokenizer("3-base")


@pytest.mark.parametrize("release", ["3.1-instruct", "3-base"])
def test_a_copy_is_equal_and_independent(release: str) -> None:
    from tokenizers import processors

    original = build_tokenizer(release)
    before = original.backend_tokenizer.to_str()
    copied = copy_tokenizer(original)
    assert copied.backend_tokenizer.to_str() == before
    assert copied.special_tokens_map == original.special_tokens_map
    copied.add_tokens(["<new>"])
    copied.backend_tokenizer.post_processor = processors.ByteLevel()
    copied.backend_tokenizer.enable_truncation(3)
    copied.pad_token = "<|eot_id|>"
    copied.chat_template = "other"
    assert original.backend_tokenizer.to_str() == before
    assert (len(original), original.pad_token) == (128256, None) and original.chat_template != "other"
