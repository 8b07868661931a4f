"""A GGUF file by its header: what is wrong is found, what is damaged is refused, and nothing of a size is believed."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import PadfixError, cli, diagnose
from llama_padfix.doctor.observe.gguf.header import read_gguf_header
from tests.support.saved import save, small_tokenizer

_CODES = {bool: (7, "?"), int: (4, "I"), float: (6, "f")}


def text(value: str, order: str = "<") -> bytes:
    return struct.pack(f"{order}Q", len(value.encode())) + value.encode()


def packed(value: Any, order: str = "<") -> bytes:
    if isinstance(value, str):
        return struct.pack(f"{order}I", 8) + text(value, order)
    if isinstance(value, list):
        items = [packed(item, order) for item in value]
        kind = items[0][:4] if items else struct.pack(f"{order}I", 4)
        return (
            struct.pack(f"{order}I", 9) + kind + struct.pack(f"{order}Q", len(items)) + b"".join(i[4:] for i in items)
        )
    number, code = _CODES[type(value)]
    return struct.pack(f"{order}I{code}", number, value)


def gguf(metadata: dict[str, Any], tensors: dict[str, tuple[int, ...]], order: str = "<", version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack(f"{order}IQQ", version, len(tensors), len(metadata))
    entries = b"".join(text(key, order) + packed(value, order) for key, value in metadata.items())
    infos = b"".join(
        text(name, order) + struct.pack(f"{order}I{len(shape)}QIQ", len(shape), *shape, 0, 0)
        for name, shape in tensors.items()
    )
    return head + entries + infos + bytes(64)


def metadata_of(tokenizer: Any, **changed: Any) -> dict[str, Any]:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    special = set(tokenizer.all_special_tokens) | {str(each) for each in tokenizer.added_tokens_decoder.values()}
    entries = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": ["1 2"],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": tokenizer.chat_template,
        "some.number": 1.5,
        "some.lists": [[1, 2], [3]],
    }
    entries |= {name.replace("__", "."): value for name, value in changed.items()}
    return {name: value for name, value in entries.items() if value is not None}


@pytest.fixture(scope="module")
def tok() -> Any:
    return small_tokenizer()


def write(path: Path, tok: Any, rows: int | None = None, **changed: Any) -> Path:
    path.write_bytes(gguf(metadata_of(tok, **changed), {"token_embd.weight": (16, rows or len(tok))}))
    return path


def codes(report: Any) -> set[str]:
    return {finding.code for finding in report.findings if finding.severity != "note"}


def test_a_right_file_has_nothing_above_a_note(tok: Any, tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "model.gguf", tok)
    report = diagnose(path)
    assert not codes(report), report
    assert {"GEN002", "EMB001", "TPL001"} <= set(report.passed)
    assert "no meaning in a GGUF file" in report.skipped["PAD001"]
    ends = [f"<|{name}|> ({tok.convert_tokens_to_ids(f'<|{name}|>')})" for name in ("eot_id", "end_of_text", "eom_id")]
    assert report.notes[1] == f"llama.cpp ends a text at {', '.join(ends)}, and adds a BOS."
    assert f"llama, {len(tok)} tokens, 1 tensors" in report.notes[0]
    for place in (path, tmp_path):  # a folder with nothing else
        assert cli.main(["doctor", str(place)]) == 0
        assert "Looked at the header of a GGUF file" in capsys.readouterr().out
    with pytest.raises(PadfixError, match="A GGUF file is never changed"):
        report.fix()
    assert cli.main(["doctor", str(path), "--fix", str(tmp_path / "fixed")]) == 2


def test_what_is_wrong_in_it_is_found(tok: Any, tmp_path: Path) -> None:
    assert "EMB001" in codes(diagnose(write(tmp_path / "rows.gguf", tok, rows=len(tok) - 1)))
    assert "TPL001" in codes(diagnose(write(tmp_path / "a.gguf", tok, tokenizer__chat_template="{% for %}")))
    other = tok.chat_template.replace("<|eot_id|>", "<|python_tag|>")
    assert "GEN002" in codes(diagnose(write(tmp_path / "b.gguf", tok, tokenizer__chat_template=other)))
    for key in ("eos", "bos", "padding"):
        with pytest.raises(PadfixError, match=f"{key}_token_id is 99999, and the file holds {len(tok)} tokens"):
            diagnose(write(tmp_path / "c.gguf", tok, **{f"tokenizer__ggml__{key}_token_id": 99999}))
    for held in (None, [], [1, 2]):
        with pytest.raises(PadfixError, match="holds no tokens"):
            diagnose(write(tmp_path / "d.gguf", tok, tokenizer__ggml__tokens=held))
    with pytest.raises(PadfixError, match="Rows have no meaning beside a GGUF file"):
        diagnose(tmp_path / "a.gguf", dataset=[{"input_ids": [1]}])


def test_ends_are_those_of_llama_cpp(tok: Any, tmp_path: Path) -> None:
    """Gemma's HTML tag `</s>` ends a text, gpt-oss's `<|end|>` does not, and what the file names by an id does."""

    held = metadata_of(tok)["tokenizer.ggml.tokens"]

    def find_ends(*names: str, **changed: Any) -> str:
        metadata = {"tokenizer__ggml__tokens": [*held, *names], "tokenizer__ggml__token_type": None}
        return str(
            diagnose(write(tmp_path / "ends.gguf", tok, len(held) + len(names), **metadata, **changed)).notes[1]
        )

    assert f"</s> ({len(tok) + 1})" in find_ends("</u>", "</s>")
    assert "</u>" not in find_ends("</u>", "</s>")
    assert "<|end|>" in find_ends("<|end|>", "<|call|>")
    whole = find_ends("<|end|>", "<|call|>", "<|return|>")
    assert "<|call|>" in whole and "<|return|>" in whole and "<|end|>" not in whole
    for token in ("<eos>", "[EOS]", "<turn|>", "<｜end▁of▁sentence｜>", "<|fim_pad|>", "<|file_sep|>"):
        assert token in find_ends(token)
    assert f"{held[7]} (7)" in find_ends(tokenizer__ggml__fim_pad_token_id=7)


def test_it_is_compared_with_the_tokenizer_of_the_run(tok: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", tok, tokenizer__ggml__eos_token_id=tok.convert_tokens_to_ids("<|eom_id|>"))
    [finding] = [each for each in diagnose(path, tokenizer=tok).findings if each.code == "TOK001"]
    assert "eos_token is <|eom_id|> and <|eot_id|>" in finding.message
    save(tmp_path / "run", tok)
    write(tmp_path / "run" / "model.gguf", tok)
    assert "folder" in diagnose(tmp_path / "run").looked_at  # the settings beside it come first


def test_both_byte_orders_and_versions(tok: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for order, version in (("<", 2), ("<", 3), (">", 3)):
        path.write_bytes(gguf({"a": ["b", "c"], "n": [1, 2], "f": 1.5, "t": True}, {"w": (2, 3)}, order, version))
        header = read_gguf_header(path)
        assert dict(header.metadata) == {"a": ["b", "c"], "n": [1, 2], "f": 1.5, "t": True}
        assert dict(header.shapes) == {"w": (2, 3)}
    path.write_bytes(gguf({}, {}, version=1))
    with pytest.raises(PadfixError, match="version 1; 2 and 3 are read"):
        read_gguf_header(path)


def test_a_damaged_file_is_refused_and_no_length_in_it_is_believed(tok: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    whole = gguf({"a": ["b", "c"], "n": [1, 2], "l": [["x"]], "t": True}, {"w": (2, 3)})[:-64]
    for end in range(0, len(whole), 3):
        path.write_bytes(whole[:end])
        with pytest.raises(PadfixError):
            read_gguf_header(path)
    noise = random.Random(1)
    for _ in range(120):
        damaged = bytearray(whole)
        for _ in range(noise.randrange(1, 9)):
            damaged[noise.randrange(4, len(whole))] = noise.choice((0, 1, 9, 127, 255))
        path.write_bytes(damaged)
        try:
            read_gguf_header(path)
        except PadfixError as error:
            assert len(str(error)) < 500
    for body in (b"", b"GGUF", b"PK\x03\x04", b"version https://git-lfs"):
        path.write_bytes(body)
        with pytest.raises(PadfixError, match=r"x\.gguf"):
            diagnose(path)
    with pytest.raises(PadfixError, match=r"is not a folder|cannot be read"):
        diagnose(tmp_path / "none.gguf")
