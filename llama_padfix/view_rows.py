"""Encoded rows as a picture needs them: what each token reads, whose turn it stands in, what the loss asks of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llama_padfix.observe import encode_plain, find_control_text, render
from llama_padfix.records import IGNORE_INDEX, Facts, PadfixError, Report, RowFacts, Severity
from llama_padfix.row_turns import find_turns_in, real_part

__all__ = ["MaskRow", "Picture", "Piece", "Problem", "Roles", "learn_roles", "make_row", "read_pieces", "shown"]

_LONGEST_NAME = 12  # tokens between what opens a turn and the end of its role
_LONGEST_CHARACTER = 32  # tokens that are tried together where one ends inside a character
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's name of a byte
_USER, _ASSISTANT, _SYSTEM = "Probequestion", "Probeanswer", "Probeorder"


@dataclass(frozen=True)
class Piece:
    """One token of the vocabulary: its text, or its bytes where they are no whole characters.

    `is_special` tells a control token, `is_known` whether the vocabulary has the id at all.
    """

    text: str
    part: bytes = b""
    is_special: bool = False
    is_known: bool = True


@dataclass(frozen=True)
class Problem:
    """One place of a row where a check sees its fault: positions `start` to `end`, `count` times in the row.

    `code` is empty for a row that could not be encoded; `remark` then says why.
    """

    code: str
    severity: Severity
    start: int
    end: int
    count: int = 1
    remark: str = ""


@dataclass(frozen=True, eq=False)
class MaskRow:
    """One row: numpy arrays of one length, `input_ids` and `labels` int64, `padding` bool.

    `labels` is None where the row has none. `turns` are (position, role) where a turn begins, in order, the first
    at 0; a role is "" where none is known. `characters` are those that several tokens make up: position of the
    first to (number of tokens, text). A row that could not be encoded has no tokens and a problem that says why.
    """

    number: int
    input_ids: Any
    labels: Any
    padding: Any
    turns: tuple[tuple[int, str], ...] = ()
    characters: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    note: str = ""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def trained(self) -> Any:
        """Which tokens the loss asks for, as booleans: those with a label."""
        return self.padding & False if self.labels is None else self.labels != IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class Picture:
    """Rows that were looked at, what each of their ids reads, and what the checks of rows say of them.

    `total` is how many rows there are, None for a stream; `source` is "dataset", "batch" or "batches".
    """

    rows: tuple[MaskRow, ...]
    pieces: Mapping[int, Piece] = field(repr=False)
    report: Report = field(repr=False)
    source: str = "dataset"
    total: int | None = None
    title: str = "What is trained"


def shown(text: str, *, white: bool = True) -> str:
    """Return a text whose every character can be seen and none can act: others are spelled as escapes.

    Line breaks and tabs stay where `white` is false. Bidirectional controls, zero-width characters, terminal
    escapes, line separators and halves of surrogate pairs are all not printable.
    """
    keep = "" if white else "\n\t"
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def read_pieces(tokenizer: Any, facts: Facts, token_ids: Iterable[int]) -> dict[int, Piece]:
    """Return what each of the ids reads, one at a time."""
    tokens = {token_id: token for token, token_id in facts.vocabulary.items()}
    special = {token_id: token for token, token_id in facts.special_ids.items()}
    added = {int(token_id): str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    splits_bytes = _splits_bytes(tokenizer)
    pieces = {}
    for token_id in token_ids:
        if token_id in special or token_id in added:
            text = special[token_id] if token_id in special else added[token_id]
            pieces[token_id] = Piece(text, is_special=token_id in special)
        elif token_id in tokens:
            pieces[token_id] = _read_piece(tokens[token_id], splits_bytes)
        else:
            pieces[token_id] = Piece(f"[id {token_id}]", is_known=False)
    return pieces


def _read_piece(token: Any, splits_bytes: bool) -> Piece:
    data: bytes | None = None
    if isinstance(token, bytes):
        data = token
    elif splits_bytes:
        alphabet = _byte_alphabet()
        data = bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else None
    elif match := _BYTE_TOKEN.fullmatch(token):
        data = bytes.fromhex(match[1])
    if data is None:
        return Piece(str(token).replace("\u2581", " "))  # SentencePiece's space
    try:
        return Piece(data.decode("utf-8"))
    except UnicodeDecodeError:
        return Piece("".join(f"\\x{byte:02x}" for byte in data), part=data)


def _splits_bytes(tokenizer: Any) -> bool:
    """Tell a byte-level vocabulary by what it makes of the letter that stands for a space."""
    try:
        return bool(tokenizer.convert_tokens_to_string(["Ġ"]) == " ")
    except Exception:  # a tokenizer of somebody's own may refuse a token that it does not have
        return False


@lru_cache
def _byte_alphabet() -> Mapping[str, int]:
    """Return the byte of each letter of a byte-level vocabulary (`bytes_to_unicode` in GPT-2's encoder.py)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in set(plain))
    return alphabet | {chr(256 + at): byte for at, byte in enumerate(others)}


def _join_characters(ids: Sequence[int], pieces: Mapping[int, Piece]) -> dict[int, tuple[int, str]]:
    """Return the characters that several tokens make up, by the position of the first."""
    joined: dict[int, tuple[int, str]] = {}
    at = 0
    while at < len(ids):
        data, end = b"", at
        while end < min(len(ids), at + _LONGEST_CHARACTER) and (part := pieces[ids[end]].part):
            data, end = data + part, end + 1
            try:
                joined[at] = (end - at, data.decode("utf-8"))
                break
            except UnicodeDecodeError:
                continue
        at += joined[at][0] if at in joined else 1
    return joined


@dataclass(frozen=True)
class Roles:
    """How turns begin in a row of ids.

    After `prefix` the name of the role is spelled out (Llama, ChatML, Gemma), and `names` translates the template's
    own; or each header of `headers` opens the turn of its role (Mistral, DeepSeek, Phi).
    """

    prefix: tuple[int, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[tuple[int, ...], str] = field(default_factory=dict)


def learn_roles(tokenizer: Any, facts: Facts) -> Roles:
    """Return how the chat template opens turns, learned by rendering; empty where that cannot be learned."""
    controls = frozenset(facts.special_ids.values())
    encoded = {
        role: tuple(encode_plain(tokenizer, text.strip())) for role, text in _render_headers(tokenizer, facts).items()
    }
    of_user, of_assistant = encoded.get("user", ()), encoded.get("assistant", ())
    same = 0
    while same < min(len(of_user), len(of_assistant)) - 1 and of_user[same] == of_assistant[same]:
        same += 1
    pieces = read_pieces(tokenizer, facts, {*of_user, *of_assistant})
    user, assistant = (_read_name(ids[same:], pieces) for ids in (of_user, of_assistant))
    if user and assistant and user != assistant and controls.intersection(of_user[:same]):
        return Roles(of_user[:same], {user: "user", assistant: "assistant"})
    headers: dict[tuple[int, ...], str] = {}
    for role, ids in encoded.items():
        # Up to its last control token: without one, ordinary text could open a turn.
        last = max((at + 1 for at, token_id in enumerate(ids) if token_id in controls), default=0)
        headers.setdefault(ids[:last], role)  # a system text may go into the first user turn
    return Roles(headers={ids: role for ids, role in headers.items() if ids})


def _render_headers(tokenizer: Any, facts: Facts) -> dict[str, str]:
    """Return the text that opens the turn of each role."""
    template = facts.template
    if template is None or template.error is not None:
        return {}
    user, assistant = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}
    headers = {}
    try:
        text = render(tokenizer, [user, assistant, user, assistant])
        between, after = text.split(_ASSISTANT)[0].rpartition(_USER)[2], text.split(_ASSISTANT)[1].split(_USER)[0]
    except Exception:  # a template is somebody else's program: it may raise anything, or write no such text
        return {}
    opener = next((token for _, _, token in find_control_text(template.header, tuple(facts.special_ids))), "")
    if template.stop_token is not None and template.stop_token in after:
        after = after.partition(template.stop_token)[2]
    elif opener and opener in after:  # what ends the last turn of a conversation may not end the others
        after = after[after.rfind(opener) :]
    headers["user"] = after
    # What opens the turn of the history, where that is not the generation prompt (which may open a thought).
    headers["assistant"] = template.header if template.header_in_history else between
    try:
        text = render(tokenizer, [{"role": "system", "content": _SYSTEM}, user])
        opening = text.partition(_SYSTEM)[0].removeprefix(tokenizer.bos_token or "")
        headers["system"] = opening if text.count(_SYSTEM) == 1 else ""
    except Exception:  # many templates refuse a system message
        headers["system"] = ""
    return {role: header for role, header in headers.items() if header.strip()}


def _read_name(ids: Sequence[int], pieces: Mapping[int, Piece]) -> str:
    """Return the name of the role at the beginning of the ids: up to a control token or the end of the line."""
    name = ""
    for token_id in ids[:_LONGEST_NAME]:
        piece = pieces[token_id]
        if piece.is_special:
            break
        name += piece.text
        if "\n" in name:
            break
    return name.partition("\n")[0].strip()


def _find_roles(ids: Any, facts: Facts, roles: Roles, pieces: Mapping[int, Piece]) -> list[tuple[int, str]]:
    """Return where turns begin in the ids of a row, and whose they are."""
    row = [int(token_id) for token_id in ids]
    turns: list[tuple[int, str]] = []
    firsts = {roles.prefix[0]} if roles.prefix else {header[0] for header in roles.headers}
    by_length = sorted(roles.headers, key=len, reverse=True)
    for at in (place for place, token_id in enumerate(row) if token_id in firsts):
        if roles.prefix:
            after = at + len(roles.prefix)
            if tuple(row[at:after]) == roles.prefix:
                name = _read_name(row[after : after + _LONGEST_NAME], pieces)
                turns.append((at, roles.names.get(name, shown(name))))
        elif header := next((h for h in by_length if tuple(row[at : at + len(h)]) == h), None):
            turns.append((at, roles.headers[header]))
    if turns or facts.markers is None:
        return turns
    for turn in find_turns_in(ids, len(row), facts.markers):
        turns += [(turn.header, "assistant"), (turn.end + (turn.stop_id is not None), "prompt")]
    return [(at, role) for at, role in turns if at < len(row)]


def make_row(
    row: RowFacts,
    facts: Facts,
    roles: Roles,
    pieces: Mapping[int, Piece],
    problems: Sequence[Problem] = (),
    note: str = "",
) -> MaskRow:
    """Return an encoded row with its turns, its padding as a turn of its own, and what checks say of it."""
    length = len(row.input_ids)
    if row.labels is not None and len(row.labels) != length:
        raise PadfixError(f"row {row.number} has {len(row.labels)} labels beside {length} input_ids.")
    padding = ~real_part(row)
    starts = dict(_find_roles(row.input_ids, facts, roles, pieces))
    turns: list[tuple[int, str]] = []
    role, padded = "", False
    edges = {0, *starts, *((padding[1:] != padding[:-1]).nonzero()[0] + 1).tolist()} if length else set()
    for at in sorted(edges):
        role, padded = starts.get(at, role), bool(padding[at])
        if not padded or not turns or turns[-1][1] != "padding":
            turns.append((at, "padding" if padded else role))
    ids = row.input_ids.tolist()
    characters = _join_characters(ids, pieces)
    return MaskRow(row.number, row.input_ids, row.labels, padding, tuple(turns), characters, tuple(problems), note)
