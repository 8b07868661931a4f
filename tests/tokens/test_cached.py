"""The engine with a cache: where it cuts, what it refuses, how much it holds; the ids are tested with all engines."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import threading
from collections.abc import Iterator, Sequence
from string import ascii_lowercase
from typing import Any

import numpy
import pytest

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens import engine as engines
from llama_padfix.tokens import verification as proofs
from llama_padfix.tokens.cached import boundaries as bounds
from llama_padfix.tokens.cached import encoder as cached_engine
from llama_padfix.tokens.cached import repeats
from llama_padfix.tokens.cached import words as cached_words
from llama_padfix.tokens.cached.added import find_parting
from llama_padfix.tokens.cached.boundaries import find_boundaries
from llama_padfix.tokens.cached.encoder import CachedEncoder
from llama_padfix.tokens.cached.pattern import UnreadPatternError, read_pattern
from llama_padfix.tokens.engine import CACHE_FROM, CACHE_FROM_WITHOUT_PATTERN, choose_engine
from llama_padfix.tokens.probe_texts import make_probe_texts
from tests.tokens.test_engine import LLAMA, data, make_small, make_wordpiece, reference, rows

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (  # of Phi 4
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+"
)
O200K = (  # of gpt-oss
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
PATTERNS = {
    "llama": (LLAMA,),
    "qwen": (LLAMA.replace("{1,3}", ""),),
    "gpt2": (GPT2,),
    "phi": (CL100K,),
    "gpt-oss": (O200K,),
    "deepseek": DEEPSEEK,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(proofs, "_known", {})
    yield


def make_split(patterns: tuple[str, ...], behavior: str = "isolated") -> Any:
    """The small tokenizer, split by one pattern after another."""
    from tokenizers import Regex, pre_tokenizers

    tokenizer = make_small()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior, behavior == "removed") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def make_fuzz(seed: int, count: int) -> list[str]:
    """Short texts of few characters, so that many kinds of neighbors meet; with and without the special token."""
    draw = random.Random(seed)
    letters = [
        *"aAbZ01 9 \n\n\r\t  .,'’ſK!-_/é漢かア한，。\u3000\u00a0\u2028👍\u0301\u0378\u180eاнЖ",
        "'s",
        "'LL",
        " the",
        "<|a|>",
    ]
    return ["".join(draw.choices(letters, k=draw.randint(1, 30))) for _ in range(count)]


def encode_all(tokenizer: Any, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids from the cache, which is used for each text, however new."""
    monkeypatch.setattr(cached_engine, "_FEW", 0)
    monkeypatch.setattr(cached_words, "_LOOK", 10**9)
    monkeypatch.setattr(repeats, "LOOK", 0)
    engine = choose_engine(tokenizer, "cached")
    found = rows(engine.encode(texts))
    assert rows(engine.encode(texts)) == found  # now from the cache
    assert engine.name == "cached"
    return found


@pytest.mark.parametrize("family", PATTERNS)
def test_the_patterns_of_the_families_are_cut_exactly(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_split(PATTERNS[family])
    texts = [*make_fuzz(3, 800), *make_probe_texts(["<|a|>"])]
    assert encode_all(tokenizer, texts, monkeypatch) == reference(tokenizer, texts)


def test_matches_alone_may_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_split((r"\p{L}+|\p{N}",), "removed")  # white space is left out
    texts = make_fuzz(4, 300)
    assert encode_all(tokenizer, texts, monkeypatch) == reference(tokenizer, texts)


def test_a_text_is_cut_only_where_nothing_reaches_across() -> None:
    boundaries = find_boundaries(make_split((LLAMA,)).backend_tokenizer)

    def is_cut(pair: str) -> bool:
        before, behind = (int(boundaries.classes[ord(character)]) for character in pair)
        return bool(boundaries.cuts[16 * before + behind] & 1)

    assert all(map(is_cut, ("a ", "a.", "a1", "1a", "1 ", ". ", ".1", "\na", "\n.", "a\n", "漢 ", "漢，", "é\u3000")))
    assert not any(map(is_cut, ("ab", "12", " a", ".a", ".\n", " \n", "\n ", "..", "漢字", "，漢", "\u3000 ", "'s")))


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bword",  # what stands in front matters
        r"^a|b",
        r"(?<=a)b",
        r"a(?=b)",
        r"a*",  # matches nothing
        r"a(?!\S)b|c",
        r"(?i:st)",  # one character may stand for both
        r"[a[b]]",
        r"[a-z&&[^b]]",
        r"a{1,3}+",
        r"(a)\1",
        r".",
    ],
)
def test_a_pattern_that_is_not_understood_is_refused(pattern: str) -> None:
    with pytest.raises(UnreadPatternError):
        read_pattern(pattern)


def make_with_token(**flags: bool) -> Any:
    from tokenizers import AddedToken

    return make_small(tokens=(AddedToken("<tag>", **flags),))


def make_normalized() -> Any:
    from tokenizers import normalizers

    tokenizer = make_small()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def make_marked(kind: str) -> Any:
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = make_small()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.backend_tokenizer.pre_tokenizer = getattr(pre_tokenizers, kind)()
    return tokenizer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: make_marked("ByteLevel"), "a pre-tokenizer of type ByteLevel"),
        (lambda: make_marked("Metaspace"), "a pre-tokenizer of type Metaspace"),
        (make_wordpiece, "a pre-tokenizer of type BertPreTokenizer"),
        (lambda: make_small(dropout=0.5), "drops merges"),
        (lambda: make_small(pattern=r"\s+"), "a pre-tokenizer of type Split"),
        (lambda: make_with_token(lstrip=True), "white space beside it"),
        (lambda: make_with_token(single_word=True), "a word of its own"),
        (make_normalized, "a normalizer of type Lowercase"),
    ],
)
def test_a_tokenizer_that_depends_on_more_stays_with_tokenizers(make: Any, reason: str) -> None:
    tokenizer, texts = make(), ["text text " * 2000]
    with pytest.raises(PadfixError, match=reason):
        choose_engine(tokenizer, "cached")
    engine = choose_engine(tokenizer, characters=CACHE_FROM)
    engine.encode(texts)
    assert (engine.name, engine.failed) == ("tokenizers", "")


def test_added_tokens_are_found_as_the_backend_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import AddedToken

    names = ("<t>", "<t>x", "<tt>", "x<|a", "\n\n", "\n", "é", "<|a|><|a|>")
    tokens = [AddedToken(name, normalized=bool(place % 2)) for place, name in enumerate(names)]
    tokenizer = make_small(tokens=tuple(tokens))
    draw = random.Random(5)
    texts = ["".join(draw.choices([*names, "<|a|>", "a", " ", "<", ">", "|", "x", "\n"], k=8)) for _ in range(400)]
    assert encode_all(tokenizer, texts, monkeypatch) == reference(tokenizer, texts)
    tokenizer = make_small(tokens=(AddedToken("<t>"),))
    tokenizer.backend_tokenizer.encode_special_tokens = True
    assert encode_all(tokenizer, texts, monkeypatch) == reference(tokenizer, texts)
    tokenizer.add_tokens([AddedToken("|>x")])  # may begin within a special token that is read as text
    with pytest.raises(PadfixError, match="overlaps a special one"):
        choose_engine(tokenizer, "cached")


@pytest.mark.parametrize("kinds", [[], ["NFC"]], ids=["none", "composed"])
def test_added_tokens_that_the_normalizer_leaves_are_found_in_its_text(
    kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import AddedToken, normalizers

    names = ("<｜User｜>", "<｜fim▁hole｜>", "é", "a b")  # DeepSeek's stand behind an empty sequence of normalizers
    tokenizer = make_small(tokens=tuple(AddedToken(name, normalized=True) for name in names))
    sequence = normalizers.Sequence([getattr(normalizers, kind)() for kind in kinds])
    tokenizer.backend_tokenizer.normalizer = sequence
    draw = random.Random(7)
    letters = [*names, "<｜fim hole｜>", "<|a|>", "e", "\u0301", "\u0338", "▁", "a", " ", "<", "｜>", "\n"]
    texts = ["".join(draw.choices(letters, k=8)) for _ in range(400)]
    assert encode_all(tokenizer, texts, monkeypatch) == reference(tokenizer, texts)
    for name in ("e\u0301", "\u212b") if kinds else ():
        changed = make_small(tokens=(AddedToken(name, normalized=True),))
        changed.backend_tokenizer.normalizer = sequence
        with pytest.raises(PadfixError, match="changed by the normalizer"):
            choose_engine(changed, "cached")


def test_a_text_that_is_not_composed_goes_past_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import normalizers

    tokenizer = make_small()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()])
    texts = [
        *make_fuzz(6, 300),
        "plain",
        "\U000105d2\u0307",
        "\U00011099\U000110ba",
        "e\u0301",
        "Ω",
        "\u1100\u1161",
        "각",
        "\U0010ffff",
        "",
    ]
    assert encode_all(tokenizer, texts, monkeypatch) == reference(tokenizer, texts)


def test_the_cache_holds_no_more_than_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_engine, "WORDS", 1000)
    monkeypatch.setattr(cached_engine, "_FEW", 0)
    tokenizer = make_small()
    engine = choose_engine(tokenizer, "cached")
    texts = [f" word{number} and again word{number % 7}" for number in range(5000)]
    for start in range(0, 5000, 500):
        part = texts[start : start + 500]
        assert rows(engine.encode(part)) == reference(tokenizer, part)
        cached = engine._routes.fast  # type: ignore[union-attr]
        assert isinstance(cached, CachedEncoder)
        (words,) = cached._words_of.values()
        assert len(words.places) <= 1000 and len(words.arrays[2]) <= 4000
    words.clear()
    engine.encode(["x" * 300 + " and " * 1000])
    assert {*words.places} == {b" and", b" "}


def make_new_words(draw: random.Random, characters: int) -> list[str]:
    """Texts of 15 characters a word, each another one."""
    words = ("".join(draw.choices(ascii_lowercase, k=14)) + " " for _ in range(characters // 15))
    return ["".join(itertools.islice(words, 10)) for _ in range(characters // 150)]


def test_text_of_new_words_goes_past_the_cache_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("_LOOK", 6_000), ("_LATER", 60_000), ("_PAUSE", 12_000), ("_LONGEST_PAUSE", 24_000)):
        monkeypatch.setattr(cached_words, name, size)
    tokenizer, draw = make_small(), random.Random(8)
    new = make_new_words(draw, 60_000)
    old = ["the same words again and again " * 100] * 20
    engine = choose_engine(tokenizer, "cached")
    encode = engine._routes.fast  # type: ignore[union-attr]
    assert isinstance(encode, CachedEncoder)
    past: list[int] = []
    exact = encode._past

    def watch(batch: Any) -> Any:
        past.append(sum(map(len, batch)))
        return exact(batch)

    monkeypatch.setattr(encode, "_past", watch)

    def count(texts: list[str]) -> int:
        del past[:]
        assert rows(encode(texts)) == reference(tokenizer, texts)
        return sum(past)

    assert count(old) == 0
    assert count(new) == 60_000  # the first look is at words without ids
    assert 0 < count(old) <= 24_000 + 3_100
    assert (count(old), count(old)) == (0, 0)
    texts = make_new_words(draw, 60_000)
    in_small_calls = [count(texts[start : start + 10]) for start in range(0, 400, 10)]
    assert sum(in_small_calls[:3]) == 0 and sum(in_small_calls) > 30_000


def test_the_probe_never_goes_past_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOOK", "_NEW", "_NEW_LATER"):  # whatever is looked at is new
        monkeypatch.setattr(cached_words, name, -1)

    def cut_everywhere(backend: Any, merges: str) -> Any:
        found = find_boundaries(backend, merges)
        return dataclasses.replace(found, cuts=found.cuts | numpy.uint8(1))

    monkeypatch.setattr(cached_engine, "find_boundaries", cut_everywhere)
    with pytest.raises(PadfixError, match="other ids"):
        choose_engine(make_small(), "cached")


@pytest.mark.parametrize("choice", ["auto", "cached"])
def test_text_of_new_words_stays_with_tokenizers_until_words_repeat(
    choice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "_PAUSE", 60_000)
    tokenizer, draw = make_small(), random.Random(12)
    new, old = make_new_words(draw, 60_000), data()[:40] * 2
    engine = choose_engine(tokenizer, choice, characters=CACHE_FROM)
    called: list[int] = []
    encode = CachedEncoder.__call__

    def watch(cached: CachedEncoder, texts: Any) -> Any:
        called.append(len(texts))
        return encode(cached, texts)

    monkeypatch.setattr(CachedEncoder, "__call__", watch)
    for texts, is_cached in ((new, False), (old[:60], False), (old, True), (new, True)):
        called.clear()
        assert rows(engine.encode(texts)) == reference(tokenizer, texts)
        assert (len(texts) in called) is is_cached
        assert engine.name == ("cached" if is_cached or choice == "cached" else "tokenizers")
    few = choose_engine(tokenizer, choice, characters=CACHE_FROM)
    few.encode(old[:5])  # too few to tell
    assert few.name == ("cached" if choice == "cached" else "tokenizers")
    for start in range(5, 80, 5):
        few.encode(old[start : start + 5])
    assert few.name == "cached"


def test_han_characters_are_words_where_no_pattern_joins_them() -> None:
    draw = random.Random(13)
    texts = ["".join(chr(draw.randrange(0x4E00, 0x5200)) for _ in range(100)) + "。" for _ in range(300)]
    found = [
        repeats.Repeats(one.backend_tokenizer).look(texts, 30_000) for one in (make_small(), make_sentencepiece())
    ]
    assert found == [False, True]
    assert [repeats.Repeats(None).look(data()[:count], 700 * count) for count in (40, 3)] == [True, None]


def test_threads_share_a_cache_that_is_emptied_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_engine, "WORDS", 300)
    monkeypatch.setattr(cached_engine, "_FEW", 0)
    tokenizer = make_small()
    engine, texts = choose_engine(tokenizer, "cached"), data()[:40]
    wanted, found = reference(tokenizer, texts), []

    def work(first: int) -> None:
        for place in [*range(first, 40), *range(first)]:
            found.append(rows(engine.encode([texts[place]])) == [wanted[place]])

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 13, 26)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 120 and not engine.failed


def test_auto_takes_the_cache_when_the_work_is_worth_it() -> None:
    tokenizer, texts = make_small(), data()[:40]
    engine = choose_engine(tokenizer, characters=CACHE_FROM - 1)
    assert rows(engine.encode(texts)) == reference(tokenizer, texts)
    assert engine.name == "tokenizers"
    engine = choose_engine(tokenizer, characters=CACHE_FROM)
    assert rows(engine.encode(texts)) == reference(tokenizer, texts)
    assert engine.name == "cached"
    without_pattern, names = make_sentencepiece(), []
    for characters in (CACHE_FROM, CACHE_FROM_WITHOUT_PATTERN - 1, CACHE_FROM_WITHOUT_PATTERN):
        engine = choose_engine(without_pattern, characters=characters)
        engine.encode(texts)
        names.append(engine.name)
    assert names == ["tokenizers", "tokenizers", "cached"]


def make_sentencepiece(added: Sequence[str] = ("<|a|>",), apart: bool = False, **changes: Any) -> Any:
    """A tokenizer as Gemma's: U+2581 for spaces, bytes for what is no token; punctuation stands apart or not."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
    )
    texts = [" ".join(text.split()) + "\n\n" for text in data()[:20]]
    if apart:
        backend.pre_tokenizer = pre_tokenizers.Split(
            Regex("\u2581*(?:[A-Za-z]+|[0-9]|[^A-Za-z0-9\u2581]+)"), "isolated"
        )
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = None
    source = json.loads(backend.to_str())
    source["model"] |= {"byte_fallback": True, "fuse_unk": True} | changes
    source["added_tokens"] = []
    if apart:  # but for one token, as in Gemma 3's
        made = [("<", "/"), (">", "\u2581"), (">\u2581", "</")]
        for token in (*"</>", *map("".join, made)):
            source["model"]["vocab"].setdefault(token, len(source["model"]["vocab"]))
        source["model"]["merges"] += map(list, made)
    backend = Tokenizer.from_str(json.dumps(source))
    backend.add_tokens([AddedToken(name, normalized=False, special="|" in name) for name in added])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_words_of_a_vocabulary_without_patterns_are_cut_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_sentencepiece()
    texts = [*make_fuzz(9, 600), *make_probe_texts(["<|a|>"]), "a\u2581b \u2581 c\u2581"]
    assert encode_all(tokenizer, texts, monkeypatch) == reference(tokenizer, texts)
    joined = make_sentencepiece().backend_tokenizer.get_vocab(with_added_tokens=False)
    beside = {token[place - 1] for token in joined for place in range(1, len(token)) if token[place] == "\u2581"}
    boundaries = find_boundaries(tokenizer.backend_tokenizer)
    space = int(boundaries.classes[ord(" ")])
    cuts = {char: boundaries.cuts[16 * int(boundaries.classes[ord(char)]) + space] for char in "aeiz.,\n"}
    assert {char for char, cut in cuts.items() if not cut} == beside & set(cuts) - {"\u2581"}
    with pytest.raises(PadfixError, match="does not know each byte"):
        choose_engine(make_sentencepiece(byte_fallback=False), "cached")


def test_tokens_that_join_no_words_are_cut_beside_punctuation(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, spaces = ["\n" * count for count in range(1, 5)], ["\u2581" * count for count in range(2, 6)]
    tokenizer = make_sentencepiece((*lines, *spaces, "<td>", "</td>", "<|a|>", "\t\t", "Ă!"), apart=True)
    backend = tokenizer.backend_tokenizer
    assert ">\u2581</" in backend.get_vocab() and find_boundaries(backend).holds_tokens
    boundaries = find_boundaries(backend)
    parts = [
        *"ab,.><! \n\t\u2581\u3000\x00é漢👍Ă",
        "  ",
        "    ",
        ">\u2581</",
        "> </",
        *lines,
        *spaces,
        "<td>",
        "<|a|>",
        "<0x0A>",
    ]
    draw = random.Random(10)
    texts = ["".join(draw.choices([*parts, " the", "def", "self"], k=draw.randint(0, 14))) for _ in range(1500)]
    texts += ["", *make_probe_texts([*lines, *spaces, "<td>", "<|a|>"])]
    for special_is_text in (False, True):
        backend.encode_special_tokens = special_is_text
        assert encode_all(tokenizer, texts, monkeypatch) == reference(tokenizer, texts)

    def is_cut(pair: str) -> bool:
        before, behind = (int(boundaries.classes[ord(character)]) for character in pair)
        return bool(boundaries.cuts[16 * before + behind])

    assert all(map(is_cut, ("a ", ". ", "a.", "1a", "a\n", "\na", "12")))
    assert not any(
        map(is_cut, ("ab", "> ", ">\u2581", "  ", "\n\n", "\t\t", "td", " a", "a\x00", "Ă!", "a👍"[:1] + "\ud800"))
    )


@pytest.mark.parametrize(
    ("added", "parting"),
    [
        (("<|a|>", "<|b|>"), "<|a|>"),
        (("<|a|>", "<|a|>x", "[b]"), "<|a|>x"),  # which is longer
        (("\u2581b", "<|b|>"), "<|b|>"),  # a space makes the first
        (("<|a|>", "b<"), "b<"),  # in which the first could end
        (("<|b|>", "b<"), None),
    ],
)
def test_a_faster_engine_gets_new_words_in_few_texts(
    added: tuple[str, ...], parting: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_engine, "_FEW", 0)
    tokenizer = make_sentencepiece(added, apart=True)
    backend = tokenizer.backend_tokenizer
    found = find_parting(backend)
    assert found == (parting and (parting, backend.token_to_id(parting)))
    exact, counts = engines._make_exact_encoder(tokenizer), []

    def encode(texts: Sequence[str]) -> Any:
        counts.append(len(texts))
        return exact(texts)

    cached = CachedEncoder(backend, engines._encode_with, exact, encode)
    words = ["the", " def", "  b", " <", "</", "<|", "|a|>", "<|b|", ">a", ">", " x\n", "é", "漢", "\u2581b", ".", "1"]
    draw = random.Random(11)
    texts = ["".join(draw.choices(words, k=12)) for _ in range(200)]
    texts = [text for text in texts if parting is None or parting not in text]
    assert rows(cached(texts)) == reference(tokenizer, texts)
    assert (counts[0] == 1) == (parting is not None)
    spelled = [f"NEW{text}{parting}{text}" for text in texts]
    assert rows(cached(spelled)) == reference(tokenizer, spelled)
    assert counts[1] > 1  # each as a text


def test_a_token_that_may_be_text_parts_no_words() -> None:
    from tokenizers import AddedToken

    backend = make_sentencepiece().backend_tokenizer
    backend.encode_special_tokens = True
    assert find_parting(backend) is None
    backend.add_tokens([AddedToken("[x]", normalized=True), AddedToken("[y]", normalized=False)])
    assert find_parting(backend) == ("[y]", backend.token_to_id("[y]"))


@pytest.mark.parametrize(("token", "reason"), [("<0x0A><0x0B>", "of bytes"), ("x<0x41>", "of bytes")])
def test_a_token_of_bytes_and_others_is_refused(token: str, reason: str) -> None:
    from tokenizers import AddedToken

    with pytest.raises(UnreadPatternError, match=reason):
        find_boundaries(make_sentencepiece((token,)).backend_tokenizer)
    with pytest.raises(UnreadPatternError, match="white space beside it"):
        tokenizer = make_sentencepiece()
        tokenizer.add_tokens([AddedToken("<b>", rstrip=True)])
        find_boundaries(tokenizer.backend_tokenizer)


def test_sets_of_classes_hold_what_the_pattern_engine_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    match = bounds._match

    def count(atom: str, characters: str) -> Any:
        asked.append(atom)
        return match(atom, characters)

    atoms = [r"\S", r"\p{L}", r"[\r\n]", r"[^\s\p{L}\p{N}]", r"[^\r\n\p{L}]"]
    characters = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000)]))
    monkeypatch.setattr(bounds, "_match", count)
    for atom, held in zip(atoms, bounds._find_held(atoms), strict=True):
        found = match(atom, characters)
        assert (held[:0xD800] == found[:0xD800]).all() and (held[0xE000:] == found[0xD800:]).all()
    assert sorted(asked) == [r"\p{L}", r"\p{N}", r"\s"]
