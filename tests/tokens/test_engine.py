"""All engines give the ids of the tokenizer's backend, and the fast one is given up as soon as it does not."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import logging
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy
import pytest

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens import engine as engines
from llama_padfix.tokens import fastokens as fast_engine
from llama_padfix.tokens import verification as proofs
from llama_padfix.tokens.cached import repeats
from llama_padfix.tokens.cached import words as cached_words
from llama_padfix.tokens.calls import encode_raw
from llama_padfix.tokens.engine import Engine, choose_engine
from llama_padfix.tokens.probe_texts import make_probe_texts
from tests.conftest import fresh_tokenizer

HAS_FAST = importlib.util.find_spec("fastokens") is not None
needs_fast = pytest.mark.skipif(not HAS_FAST, reason="fastokens is not installed")
ALL = ["tokenizers", "cached", pytest.param("fastokens", marks=needs_fast)]
LIBRARY = Path(sysconfig.get_paths()["stdlib"])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(proofs, "_known", {})
    return tmp_path / "llama_padfix" / "engines"


@pytest.fixture(scope="module")
def llama() -> Any:
    return fresh_tokenizer("3.1-instruct")


@pytest.fixture(scope="module")
def loaded(llama: Any) -> Iterator[Engine]:
    """Keeps the engine of Llama's vocabulary alive, so that the tests load it once."""
    yield choose_engine(llama, "fastokens" if HAS_FAST else "tokenizers")


@pytest.fixture(scope="module")
def wanted(llama: Any) -> list[list[int]]:
    """The ids that Llama's backend gives to `data()`."""
    return reference(llama, data())


def data() -> list[str]:
    """Sources of the standard library, cut at every 700 characters, and the probe."""
    sources = [
        (LIBRARY / name).read_text(encoding="utf-8")[:14_000]
        for name in ("argparse.py", "html/entities.py", "this.py")
    ]
    return [text[n : n + 700] for text in sources for n in range(0, len(text), 700)] + make_probe_texts(["<|eot_id|>"])


def reference(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The ids of the backend itself, on a copy that neither cuts nor pads."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.encode_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens
    backend.no_truncation()
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]


def rows(found: Any) -> list[list[int]]:
    """Flat ids and lengths as one list for each text."""
    ids, lengths = found
    assert (ids.dtype, lengths.dtype) == (numpy.int32, numpy.int64)
    assert len(ids) == lengths.sum()
    return [part.tolist() for part in numpy.split(ids, lengths.cumsum()[:-1])] if len(lengths) else []


def make_small(*, pattern: str | None = None, tokens: tuple[Any, ...] = (), **model: Any) -> Any:
    """A byte-level BPE tokenizer of 500 tokens, split by Llama 3's pattern or another one."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(train_small(pattern, **model))
    backend.add_special_tokens([AddedToken("<|a|>", special=True, normalized=False)])
    backend.add_tokens(list(tokens))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@functools.cache
def train_small(pattern: str | None, **model: Any) -> str:
    """The backend of such a tokenizer as JSON, without added tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(**model))
    splits = pre_tokenizers.Split(Regex(pattern or LLAMA), "removed" if pattern else "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([(LIBRARY / "argparse.py").read_text(encoding="utf-8")], trainer)
    return str(backend.to_str())


LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_overlapping() -> Any:
    """A tokenizer whose ordinary token `end<` overlaps its special one; of the two fastokens takes the first.

    Nothing in the probe writes the two into one another.
    """
    from tokenizers import AddedToken

    return make_small(tokens=(AddedToken("end<", normalized=True),))


OVERLAP = "At the end<|a|> of it"


@pytest.mark.parametrize("choice", ALL)
@pytest.mark.slow
def test_the_ids_are_those_of_the_backend(llama: Any, loaded: Engine, wanted: Any, choice: Any) -> None:
    texts = data()
    engine = choose_engine(llama, choice)
    assert engine.name == choice
    assert rows(engine.encode(texts)) == wanted
    assert rows(engine.encode([])) == []
    assert rows(engine.encode([""])) == [[]]
    assert rows(engine.encode(tuple(texts[:2]))) == wanted[:2]


@needs_fast
def test_characters_of_every_block_agree(llama: Any, loaded: Engine) -> None:
    points = [point for point in range(0, 0x110000, 67) if not 0xD800 <= point < 0xE000]
    texts = [f"a{chr(point)}b 1{chr(point)}2 {chr(point)}\n{chr(point)}'s" for point in points]
    assert not proofs.describe_difference(
        texts, loaded.encode(texts), choose_engine(llama, "tokenizers").encode(texts)
    )
    assert loaded.name == "fastokens"


@pytest.mark.parametrize("choice", ALL)
@pytest.mark.slow
def test_the_users_tokenizer_stays_as_it_was(loaded: Engine, wanted: Any, choice: Any) -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    before = tokenizer.backend_tokenizer.to_str()
    engine = choose_engine(tokenizer, choice)
    assert rows(engine.encode(data()[:5])) == wanted[:5]
    with pytest.raises(PadfixError, match="half of a surrogate pair at character 1"):
        engine.encode(["fine", "a\ud800"])
    assert (engine.name, engine.failed) == (choice, "")
    assert tokenizer.backend_tokenizer.to_str() == before


@pytest.mark.parametrize("choice", ALL)
def test_special_tokens_are_read_as_the_backend_reads_them(choice: Any) -> None:
    tokenizer = make_small()
    engine = choose_engine(tokenizer, choice)
    special = tokenizer.convert_tokens_to_ids("<|a|>")
    assert special in engine.encode(["x<|a|>y"])[0]
    tokenizer.backend_tokenizer.encode_special_tokens = True
    assert special not in engine.encode(["x<|a|>y"])[0]
    assert rows(engine.encode(data())) == reference(tokenizer, data())
    assert engine.name == choice
    assert tokenizer.backend_tokenizer.encode_special_tokens is True


@pytest.mark.parametrize("choice", ALL)
def test_a_changed_tokenizer_is_noticed(choice: Any) -> None:
    from tokenizers import normalizers

    tokenizer = make_small()
    engine = choose_engine(tokenizer, choice)
    engine.encode(["x<|new|>Y"])
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<|new|>") in engine.encode(["x<|new|>Y"])[0]
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC() if choice == "cached" else normalizers.Lowercase()
    texts = ["x<|new|>Y", "e\u0301" * 1000]
    assert rows(engine.encode(texts)) == reference(tokenizer, texts)
    assert engine.name == choice


@pytest.mark.parametrize("choice", ALL)
def test_threads_share_an_engine(choice: Any) -> None:
    engine, texts = choose_engine(make_small(), choice), data()
    wanted = rows(engine.encode(texts))
    found: list[list[list[int]]] = []
    threads = [
        threading.Thread(target=lambda: found.extend(rows(engine.encode(texts)) for _ in range(5))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [wanted] * 15


@pytest.mark.parametrize("choice", ALL)
def test_an_engine_pickles(choice: Any) -> None:
    engine = choose_engine(make_small(), choice)
    wanted = rows(engine.encode(data()[:9]))
    again = pickle.loads(pickle.dumps(engine))
    assert rows(again.encode(data()[:9])) == wanted
    assert again.name == choice


FORKING = """
    import os, signal, sys, threading, time
    import pyarrow  # once, and not in each child
    from llama_padfix.tokens.engine import choose_engine
    from tests.tokens.test_engine import data, make_overlapping, make_small

    texts = data()[:60]
    engine, other = choose_engine(make_small(), sys.argv[1]), make_overlapping()
    wanted = engine.encode(texts)[0].tobytes()

    def work():
        while True:
            engine.encode(texts)

    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
    for _ in range(int(sys.argv[2])):
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            same = engine.encode(texts)[0].tobytes() == wanted
            ahead = 10**9 if sys.argv[1] == "fastokens" else 0
            new = choose_engine(other, "cached" if sys.argv[1] == "cached" else "auto", characters=ahead)
            new.encode(texts)
            os._exit(0 if same and engine.name == sys.argv[3] and new.name in (engine.name, "cached") else 3)
        assert os.waitpid(child, 0)[1] == 0, "the child hung, or has other ids, or another engine"
    print(engine.name, engine.failed or "held")
    sys.stdout.flush()
    os._exit(0)
"""


def run(script: str, *arguments: str, **environment: str | None) -> str:
    """The output of a script in a process of its own, which is ended after a minute."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    for name, value in environment.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.parametrize(
    ("choice", "environment", "in_child"),
    [
        ("tokenizers", {"TOKENIZERS_PARALLELISM": None}, "tokenizers"),
        # A child waits forever, unless it encodes one text after another.
        ("tokenizers", {"TOKENIZERS_PARALLELISM": "true"}, "tokenizers"),
        ("cached", {"TOKENIZERS_PARALLELISM": None}, "cached"),
        pytest.param("fastokens", {"FASTOKENS_BPE_THREADS": None}, "fastokens", marks=needs_fast),
        # Its threads may hold a lock when the process is copied, and nobody opens the copy.
        pytest.param("fastokens", {"FASTOKENS_BPE_THREADS": "2"}, "tokenizers", marks=needs_fast),
    ],
)
@pytest.mark.slow
def test_a_child_that_is_forked_during_encoding_encodes(
    choice: str, environment: dict[str, str | None], in_child: str
) -> None:
    assert run(FORKING, choice, "8", in_child, **environment) == f"{choice} held"


@needs_fast
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell its threads")
@pytest.mark.slow
def test_the_fast_engine_makes_no_threads_and_narrows_nothing() -> None:
    script = """
        import os
        from pathlib import Path
        from llama_padfix.tokens.engine import choose_engine
        from tests.tokens.test_engine import data, make_small

        before = os.sched_getaffinity(0), dict(os.environ)
        engine = choose_engine(make_small(), "fastokens")
        engine.encode(data())
        assert (os.sched_getaffinity(0), dict(os.environ)) == before
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        print(engine.name, sum(name.startswith("fastokens") for name in names))
    """
    assert run(script, FASTOKENS_BPE_THREADS=None) == "fastokens 0"


@pytest.mark.slow
def test_tokenizers_never_imports_the_fast_engine() -> None:
    script = """
        import sys
        from llama_padfix.tokens.engine import choose_engine
        from tests.tokens.test_engine import make_small

        choose_engine(make_small(), "tokenizers", characters=10**9).encode(["text"])
        print("fastokens" in sys.modules)
    """
    assert run(script) == "False"


def test_a_missing_package_is_named_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    tokenizer = make_small()
    with pytest.raises(PadfixError, match=r'not installed\. Run: pip install -U "llama-padfix\[fast\]"'):
        choose_engine(tokenizer, "fastokens")
    engine = choose_engine(tokenizer, characters=10**9)
    assert rows(engine.encode(data()[:3])) == reference(tokenizer, data()[:3])
    assert engine.name == "cached"


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(PadfixError, match="engine='fast' is not known"):
        choose_engine(make_small(), "fast")  # type: ignore[arg-type]


@needs_fast
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: make_small(pattern=r"\s+"), "gives other ids to the text"),  # U+180E is a space to one of them
        (lambda: make_small(dropout=0.5), "gives other ids to the text"),
        (lambda: make_wordpiece(), "unsupported"),
    ],
)
def test_a_tokenizer_that_the_fast_engine_gets_wrong_stays_with_tokenizers(
    make: Any, reason: str, cache: Path
) -> None:
    tokenizer = make()
    with pytest.raises(PadfixError, match=reason):
        choose_engine(tokenizer, "fastokens")
    engine = choose_engine(tokenizer, characters=10**9)
    engine.encode(["text"])
    assert (engine.name, engine.failed) == ("tokenizers", "")
    (kept,) = cache.glob("*")
    assert reason in json.loads(kept.read_text(encoding="utf-8"))["difference"]


def make_wordpiece() -> Any:
    """A tokenizer of a kind that fastokens does not read."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "text": 1, "##s": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


@needs_fast
def test_a_verdict_is_kept_and_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_small()
    choose_engine(tokenizer, "fastokens")
    (kept,) = cache.glob("*")
    record = json.loads(kept.read_text(encoding="utf-8"))
    assert record["difference"] == ""
    assert record["subject"]["fastokens"] and record["subject"]["tokenizers"]

    def forget() -> None:
        monkeypatch.setattr(proofs, "_known", {})

    def no_probe(tokens: Any) -> list[str]:
        raise AssertionError("the probe was made again")

    forget()
    with monkeypatch.context() as patched:
        patched.setattr(fast_engine, "make_probe_texts", no_probe)
        assert choose_engine(tokenizer, "fastokens").name == "fastokens"
    forget()
    kept.write_text(json.dumps({**record, "difference": "it was wrong once"}), encoding="utf-8")
    with pytest.raises(PadfixError, match=rf"it was wrong once.*{re.escape(str(kept))}"):
        choose_engine(tokenizer, "fastokens")
    forget()
    kept.write_text("{", encoding="utf-8")  # cannot be read: tried again, and kept again
    assert choose_engine(tokenizer, "fastokens").name == "fastokens"
    assert json.loads(kept.read_text(encoding="utf-8")) == record
    assert [path.name for path in cache.iterdir()] == [kept.name]


@needs_fast
def test_a_verdict_is_of_one_tokenizer_and_version(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_engine(make_small(), "fastokens")
    choose_engine(make_overlapping(), "fastokens")
    assert len(list(cache.glob("*"))) == 2
    for count, package in ((3, "fastokens"), (4, "tokenizers")):
        with monkeypatch.context() as patched:
            patched.setattr(proofs, "version", lambda name, other=package: "0.0" if name == other else version(name))
            choose_engine(make_small(), "fastokens")
        assert len(list(cache.glob("*"))) == count


@pytest.mark.parametrize("choice", ALL[1:])
def test_a_verdict_on_other_code_or_packages_is_not_used(
    choice: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_small()
    choose_engine(tokenizer, choice)
    (kept,) = cache.glob("*")
    record = json.loads(kept.read_text(encoding="utf-8"))
    kept.write_text(json.dumps({**record, "difference": "it was wrong once"}), encoding="utf-8")

    def is_refused() -> bool:
        monkeypatch.setattr(proofs, "_known", {})  # as in a later process
        try:
            return bool(choose_engine(tokenizer, choice).name != choice)
        except PadfixError as error:
            return "it was wrong once" in str(error)

    assert is_refused()
    sources = tmp_path / "sources"
    shutil.copytree(proofs._CODE, sources)
    for name in ("cached/boundaries.py", "fastokens.py", "engine.py"):
        with monkeypatch.context() as patched:
            with (sources / name).open("a", encoding="utf-8") as source:
                source.write("# fixed\n")
            proofs._hash_code.cache_clear()
            patched.setattr(proofs, "_CODE", sources)
            assert not is_refused()
    with monkeypatch.context() as patched:
        patched.setattr(proofs, "library_info", lambda: {"version": "0.0"})
        assert not is_refused()
    with monkeypatch.context() as patched:
        patched.setattr(proofs, "installed_versions", lambda names: {"numpy": "0.0"})
        assert not is_refused()
    assert is_refused()  # by the code of the verdict


def test_files_of_verdicts_do_not_pile_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "_KEPT", 4)
    keys = [proofs.make_engine_key(f"tokenizer {number}", False, "") for number in range(9)]
    for time, key in enumerate(keys):
        proofs.keep_verdict(key, "")
        os.utime(proofs.verdict_path(key), (time, time))
    assert {*cache.iterdir()} == {proofs.verdict_path(key) for key in keys[5:]}


@needs_fast
def test_a_folder_that_cannot_be_written_only_costs_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert choose_engine(make_small(), "fastokens").name == "fastokens"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


@needs_fast
def test_a_difference_while_running_stops_the_fast_engine(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_overlapping()
    engine = choose_engine(tokenizer, "fastokens")
    plain = ["plain text"] * 1500
    assert rows(engine.encode(plain)) == reference(tokenizer, plain)
    assert (engine.name, engine.failed) == ("fastokens", "")

    secret = "x" * 200 + OVERLAP + "y" * 200
    texts = [secret] * 1500
    with caplog.at_level(logging.WARNING, "llama_padfix"):
        assert rows(engine.encode(texts)) == reference(tokenizer, texts)  # repaired
        assert rows(engine.encode(texts)) == reference(tokenizer, texts)
    assert engine.name == "tokenizers"
    assert "gives other ids to the text 'xxxx" in engine.failed
    assert engine._routes is not None
    engine._stop(engine._routes, "another thread found it as well")
    assert len(caplog.records) == 1 and secret not in caplog.text and "encode again" in caplog.text
    assert len(caplog.text) < 500
    monkeypatch.setattr(proofs, "_known", {})  # as in a later process
    with pytest.raises(PadfixError, match="on a text of the data"):
        choose_engine(tokenizer, "fastokens")
    (kept,) = cache.glob("*")
    assert "xxxx" not in kept.read_text(encoding="utf-8")
    tokenizer.add_tokens(["another"])  # would be another verdict, but this engine was wrong once
    assert rows(engine.encode(plain)) == reference(tokenizer, plain)
    assert engine.name == "tokenizers"


@needs_fast
def test_one_text_of_a_thousand_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sizes = choose_engine(make_small(), "fastokens"), []
    exact = engines._encode_with

    def watch(backend: Any, batch: Any) -> Any:
        sizes.append(len(batch))
        return exact(backend, batch)

    monkeypatch.setattr(engines, "_encode_with", watch)
    engine = choose_engine(engine.tokenizer, "fastokens")
    for _ in range(30):
        engine.encode(["one text"] * 100)
    assert sizes == [32, 1, 1, 1]  # the sample of the first call, then one of each thousand


@needs_fast
def test_the_first_texts_are_compared_before_any_is_handed_out() -> None:
    tokenizer = make_overlapping()
    engine = choose_engine(tokenizer, "fastokens")
    texts = [OVERLAP if n % 32 == 2 else "plain" for n in range(64)]
    assert rows(engine.encode(texts)) == reference(tokenizer, texts)
    assert engine.name == "tokenizers"


@needs_fast
def test_an_engine_that_raises_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_small()
    engine = choose_engine(tokenizer, "fastokens")
    engine.encode(["text"])
    routes = engine._routes
    assert routes is not None
    monkeypatch.setattr(routes.fast, "_encode", lambda *_, **__: (b"\0\0\0\0", b"\0" * 7))  # no whole number
    assert rows(engine.encode(["text"])) == reference(tokenizer, ["text"])
    assert "it raised ValueError" in engine.failed


@needs_fast
def test_auto_changes_over_when_the_work_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BREAK_EVEN", 10_000)
    tokenizer, texts = make_small(), ["a text of 20 letters"] * 300
    engine = choose_engine(tokenizer)
    names = []
    for _ in range(3):
        assert rows(engine.encode(texts)) == reference(tokenizer, texts)
        names.append(engine.name)
    assert names == ["tokenizers", "tokenizers", "fastokens"]
    assert choose_engine(tokenizer, characters=9_999).name == "tokenizers"
    assert choose_engine(tokenizer, characters=10_000).name == "fastokens"
    at_once = choose_engine(tokenizer)
    at_once.encode(texts * 2)
    assert at_once.name == "fastokens"


@needs_fast
def test_auto_loads_each_engine_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "CACHE_FROM", 5_000)
    monkeypatch.setattr(repeats, "LOOK", 5_000)
    monkeypatch.setattr(engines, "BREAK_EVEN", 10_000)
    loads: list[str] = []
    for name in ("load_cached", "load_fastokens"):
        monkeypatch.setattr(engines, name, count_calls(loads, name, getattr(engines, name)))
    engine = choose_engine(make_small())
    for _ in range(5):
        engine.encode(["a text of 20 letters"] * 300)
    assert (loads, engine.name) == (["load_cached", "load_fastokens"], "fastokens")


def count_calls(calls: list[str], name: str, function: Any) -> Any:
    def call(*arguments: Any) -> Any:
        calls.append(name)
        return function(*arguments)

    return call


@needs_fast
def test_fastokens_encodes_new_words_where_no_pattern_parts_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tokens.test_cached import make_sentencepiece

    for name in ("_LOOK", "_LATER"):
        monkeypatch.setattr(cached_words, name, 10_000)
    tokenizer, draw = make_sentencepiece(apart=True), random.Random(11)
    encoded: list[str] = []
    encode = fast_engine.FastEncoder.__call__

    def watch(fast: fast_engine.FastEncoder, texts: list[str]) -> Any:
        encoded.extend(texts)
        return encode(fast, texts)

    monkeypatch.setattr(fast_engine.FastEncoder, "__call__", watch)
    engine = choose_engine(tokenizer, "fastokens")
    texts = ["the same words again and again. " * 10] * 100
    for _ in range(3):
        encoded.clear()
        assert rows(engine.encode(texts)) == reference(tokenizer, texts)
    assert engine.name == "fastokens" and not encoded
    new = ["".join(draw.choices(ascii_lowercase, k=400)) for _ in range(200)]
    for _ in range(4):  # what goes past the cache
        encoded.clear()
        assert rows(engine.encode(new)) == reference(tokenizer, new)
    assert {*new} <= {*encoded}


def test_a_tokenizer_without_a_backend_is_encoded_by_itself() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    texts = ["Grüße</s>", "", " two  spaces"]
    engine = choose_engine(tokenizer, characters=10**9)
    assert rows(engine.encode(texts)) == [encode_raw(tokenizer, text) for text in texts]
    assert engine.name == "tokenizers"
    with pytest.raises(PadfixError, match="ByT5Tokenizer has no backend"):
        choose_engine(tokenizer, "fastokens")


def test_one_text_of_each_thousand_is_compared_however_they_come() -> None:
    whole = proofs.choose_places(0, 10_000, 1000)
    assert [place // 1000 for place in whole] == list(range(10))
    assert len({place % 1000 for place in whole}) == 10
    split = [
        first + place
        for first in range(0, 10_000, 77)
        for place in proofs.choose_places(first, min(77, 10_000 - first), 1000)
    ]
    assert split == whole
    assert proofs.choose_places(5, 0, 1000) == []


def test_a_sample_is_bounded_and_spread() -> None:
    texts = [f"{n} " * 100 for n in range(1000)]
    sample = proofs.choose_sample(texts, 10, 10**6)
    assert [text.split()[0] for text in sample] == [str(n) for n in range(0, 1000, 100)]
    assert sum(map(len, proofs.choose_sample(texts, 10, 500))) == 500
    assert proofs.choose_sample([], 10, 500) == []


def test_long_work_is_encoded_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, texts = make_small(), [text * 3 for text in data()]
    wanted = reference(tokenizer, texts)
    sizes: list[int] = []
    exact = engines._encode_with

    def watch(backend: Any, batch: Any) -> Any:
        sizes.append(len(batch))
        return exact(backend, batch)

    monkeypatch.setattr(engines, "_encode_with", watch)
    monkeypatch.setattr(engines, "_BATCH_TEXTS", 7)
    monkeypatch.setattr(engines, "_BATCH_CHARACTERS", 9000)
    assert rows(choose_engine(tokenizer, "tokenizers").encode(texts)) == wanted
    assert max(sizes) == 7 and sum(sizes) == len(texts) and min(sizes) < 4
