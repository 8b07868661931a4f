from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llama_padfix.encode import ChatEncoder
from llama_padfix.offsets import encode_texts
from llama_padfix.records import PadfixError
from tests.conftest import fresh_tokenizer
from tests.conversations import rows_for, say, shared

SPACED = ["  a  \n\n b", "   ", "é🙂 你好\u3000 x", "<|eot_id|>  <|eot_id|> \n", "🇨🇭👍🏽"]


def trimming(release: str) -> Any:
    """The tokenizer with offsets as other byte-level tokenizers give them: white space left out."""
    tokenizer = fresh_tokenizer(release)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def test_offsets_that_hide_white_space_are_counted_from_the_tokens() -> None:
    tokenizer, true = trimming("3.1-instruct"), shared("3.1-instruct")
    rng = random.Random(1)
    texts = [*SPACED, *(say(rng) or "x" for _ in range(60))]
    hidden = tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert any(start == end for start, end in hidden)  # the tokenizer does hide them
    assert list(encode_texts(tokenizer, texts)) == list(encode_texts(true, texts))


def test_rows_of_such_a_tokenizer_are_labelled_as_with_true_offsets() -> None:
    rows = rows_for("3.1-instruct")[:60]
    columns, _ = ChatEncoder(trimming("3.1-instruct")).encode_rows(rows)
    expected, _ = ChatEncoder(shared("3.1-instruct")).encode_rows(rows)
    assert columns == expected


def sentencepiece(normalizer: Any) -> Any:
    """A tokenizer with SentencePiece's marks for spaces and bytes, and offsets without width."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "\u2581a", "b"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizer
    backend.decoder = decoders.ByteFallback()
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_tokens_of_sentencepiece_are_read_with_their_bytes_and_a_space_in_front() -> None:
    marks = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer = sentencepiece(marks)
    [(ids, offsets)] = encode_texts(tokenizer, ["a  a🙂b"])
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens == ["\u2581a", "\u2581", "\u2581a", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "b"]
    assert offsets == [(0, 1), (1, 2), (2, 4), (4, 5), (4, 5), (4, 5), (4, 5), (5, 6)]


def test_tokens_that_do_not_spell_the_text_are_refused() -> None:
    with pytest.raises(PadfixError, match="do not spell the text"):
        list(encode_texts(sentencepiece(normalizers.Replace(" ", "")), ["a a"]))
