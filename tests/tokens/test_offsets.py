from __future__ import annotations

import random
import re
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.tokens.control import find_rewritable, find_rewritten
from llama_padfix.tokens.offsets import EncodedText, encode_spans, place_spans
from llama_padfix.tokens.span_encoder import SpanEncoder
from llama_padfix.tokens.spelled import _ANCHOR, encode_around, make_text_backend
from llama_padfix.tokens.token_bytes import TokenBytes
from tests.conftest import fresh_tokenizer
from tests.support.conversations import rows_for, say, shared

SPACED = ["  a  \n\n b", "   ", "é🙂 你好\u3000 x", "<|eot_id|>  <|eot_id|> \n", "🇨🇭👍🏽"]


def trimming(release: str) -> Any:
    """The tokenizer with offsets as other byte-level tokenizers give them: white space left out."""
    tokenizer = fresh_tokenizer(release)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def spans_in(text: str) -> list[list[tuple[int, int]]]:
    """Spans with edges at every place of the text, inside tokens as well; some apart, some that touch."""
    cuts = range(0, len(text), max(1, len(text) // 12))
    return [
        [*([(0, cut)] if cut else []), (cut + gap, len(text))]
        for cut in cuts
        for gap in (0, 1)
        if cut + gap < len(text)
    ]


def told(made: EncodedText) -> tuple[list[int], list[int], list[int]]:
    """The ids, the places of all tokens inside a span, and the ends."""
    return made.ids, [place for first, last in made.places for place in range(first, last)], made.ends


def by_edges(tokenizer: Any, text: str) -> list[Any]:
    spans = spans_in(text)
    return [told(made) for made in encode_spans(tokenizer, [text] * len(spans), spans)]


def by_offsets(tokenizer: Any, text: str) -> list[Any]:
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [told(place_spans(made["input_ids"], made["offset_mapping"], spans)) for spans in spans_in(text)]


def test_offsets_that_hide_white_space_are_counted_from_the_tokens() -> None:
    tokenizer, true = trimming("3.1-instruct"), shared("3.1-instruct")
    rng = random.Random(1)
    texts = [*SPACED, *(say(rng) or "x" for _ in range(60))]
    hidden = tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert any(start == end for start, end in hidden)  # the tokenizer does hide them
    for text in texts:
        assert by_edges(tokenizer, text) == by_offsets(true, text)


def test_spans_looked_up_at_their_edges_are_those_that_all_offsets_give() -> None:
    tokenizer, rng = shared("3.1-instruct"), random.Random(2)
    for text in [*SPACED, "one two<|eot_id|>\n\nthree", *(say(rng) or "x" for _ in range(40))]:
        assert by_edges(tokenizer, text) == by_offsets(tokenizer, text)


def by_bytes(tokenizer: Any, text: str) -> list[Any]:
    ids, places = tokenizer(text, add_special_tokens=False)["input_ids"], TokenBytes(tokenizer)
    return [told(made) for spans in spans_in(text) if (made := places.place(ids, text, spans)) is not None]


def test_spans_counted_from_bytes_are_those_that_offsets_give() -> None:
    tokenizer, rng = shared("3.1-instruct"), random.Random(3)
    for text in [*SPACED, "one two<|eot_id|>\n\nthree", *(say(rng) or "x" for _ in range(40))]:
        assert by_bytes(tokenizer, text) == by_offsets(tokenizer, text)


def test_bytes_prove_nothing_where_the_tokens_do_not_spell_the_text() -> None:
    tokenizer = sentencepiece(normalizers.Replace(" ", ""))
    assert TokenBytes(tokenizer).place(tokenizer("a a")["input_ids"], "a a", [(0, 1)]) is None
    upper = fresh_tokenizer("3.1-instruct")
    upper.add_tokens(["<u>"])
    ids = upper("x<u>y", add_special_tokens=False)["input_ids"]
    assert TokenBytes(upper).place(ids, "x<U>y", [(0, 1)]) is None  # as long, and other bytes
    assert TokenBytes(upper).place(ids, "x<u>y", [(1, 4)]) == (ids, [(1, 2)], [2])


def test_an_engine_that_gives_other_ids_is_dropped_before_its_first_row() -> None:
    import numpy as np

    tokenizer = shared("3.1-instruct")
    texts = [(f"one {number} two<|eot_id|>", [(0, 3)]) for number in range(5)]
    exact = [next(encode_spans(tokenizer, [text], [spans])) for text, spans in texts]
    encoder = SpanEncoder(tokenizer)
    encoder.encode_texts = lambda given: (np.full(len(given), 7, np.int32), np.ones(len(given), np.int64))
    assert encoder.encode_all(texts) == exact
    assert encoder.encode_texts is None


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
    # The offsets are (0, 1), (1, 2), (2, 4), four times (4, 5), and (5, 6).
    spans = [[(0, 1), (2, 4)], [(1, 3)], [(4, 5)], [(3, 6)], [(2, 5)]]
    made = list(encode_spans(tokenizer, ["a  a🙂b"] * 5, spans))
    tokens = tokenizer.convert_ids_to_tokens(made[0].ids)
    assert tokens == ["\u2581a", "\u2581", "\u2581a", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "b"]
    assert [one.places for one in made] == [[(0, 1), (2, 3)], [(1, 2)], [(3, 7)], [(3, 8)], [(2, 7)]]


def test_tokens_that_do_not_spell_the_text_are_refused() -> None:
    with pytest.raises(PadfixError, match="do not spell the text"):
        list(encode_spans(sentencepiece(normalizers.Replace(" ", "")), ["a a"], [[(0, 1)]]))


# Text that spells tokens, between true ones

CHARS = ["<unk>", "\u2581", *"abefu<>- ", "\n", "<u>"]
ESCAPING: dict[str, Any] = {
    "first": (None, pre_tokenizers.Metaspace(prepend_scheme="first")),
    "first in a sequence": (
        None,
        pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Split("-", "isolated")]
        ),
    ),
    "always": (None, pre_tokenizers.Metaspace(prepend_scheme="always")),
    "never": (None, pre_tokenizers.Metaspace(prepend_scheme="never")),
    "a normalizer that prepends": (normalizers.Prepend("\u2581"), None),
}


def spelling(way: str, **flags: bool) -> Any:
    """A tokenizer of single characters in which `<e>` and `<u>` are special and `<f>` is text."""
    vocab = {piece: number for number, piece in enumerate(CHARS)}
    backend = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    normalizer, pre_tokenizer = ESCAPING[way]
    if normalizer:
        backend.normalizer = normalizer
    if pre_tokenizer:
        backend.pre_tokenizer = pre_tokenizer
    backend.add_special_tokens([AddedToken("<e>", special=True, **flags), AddedToken("<u>", special=True, **flags)])
    backend.add_tokens([AddedToken("<b>"), AddedToken("\n\n", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize("flags", [{}, {"rstrip": True}, {"lstrip": True, "rstrip": True}], ids=str)
@pytest.mark.parametrize("way", list(ESCAPING))
@pytest.mark.parametrize(
    "text",
    ["<e> a<f>b<e>a b<f>", "<f>", "a<f>", " <f> a<e> \n a <f> <u> b<e>", "<e><f><f><e>", "<u>a-<f><b>\n\nb<u>-a<f>"],
)
def test_spelled_tokens_are_encoded_as_other_text_in_their_place_is(text: str, way: str, flags: Any) -> None:
    tokenizer = spelling(way, **flags)
    honest = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spelled = [(found.start(), found.end()) for found in re.finditer("<f>", text)]
    spans = [(0, len(text) // 2)]
    made = encode_around(
        tokenizer,
        text.replace("<f>", "<e>"),
        spelled,
        ("<e>", "<u>"),
        make_text_backend(tokenizer, ("<e>", "<u>")),
        spans,
    )
    escaped = {CHARS.index("f"): CHARS.index("e")}
    assert made.ids == [escaped.get(token_id, token_id) for token_id in honest["input_ids"]]
    assert made.places == place_spans(honest["input_ids"], honest["offset_mapping"], spans).places


def test_a_vocabulary_that_makes_the_token_of_text_is_refused() -> None:
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("<e>", 0.0), *((char, -9.0) for char in "abe<>")], unk_id=0))
    backend.add_special_tokens([AddedToken("<e>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    blind = make_text_backend(tokenizer, ("<e>",))
    with pytest.raises(PadfixError, match="makes a control token of a message's text"):
        encode_around(tokenizer, "a<e>b", [(1, 4)], ("<e>",), blind, [])
    other = spelling("never")
    made = encode_around(other, "a?<e>", [(2, 5)], ("<e>", "<unk>"), make_text_backend(other, ("<e>", "<unk>")), [])
    assert other.unk_token_id in made.ids, "a character that the vocabulary lacks is no control token"
    with pytest.raises(PadfixError, match="Remove the mark"):
        encode_around(tokenizer, f"{_ANCHOR}<e>", [], ("<e>",), blind, [])


def test_text_that_becomes_a_token_when_it_is_normalized_is_found_where_it_stands() -> None:
    tokenizer = spelling("never", lstrip=True, normalized=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<f>", special=True, normalized=False)]})
    tokens = ("<e>", "<u>", "<f>", "<unk>")
    assert find_rewritable(tokenizer, tokens) == ()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert find_rewritable(tokenizer, tokens) == ("<e>", "<u>")
    found = find_rewritten(tokenizer, "a <E>? <e><f><F> <E>", ("<e>", "<unk>"))
    assert [(start, end) for start, end, token in found if token == "<e>"] == [(1, 5), (16, 20)]
    assert len(found) == 2, "neither the token as it is written, nor a character that the vocabulary lacks"
