"""The roles of a chat template's headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from llama_padfix.core.text import printable
from llama_padfix.doctor.facts import Facts
from llama_padfix.encoding.masking.turns_in_ids import find_turns_in
from llama_padfix.tokens.calls import encode_raw
from llama_padfix.view.pieces import Piece, read_pieces

if TYPE_CHECKING:
    from llama_padfix.core.types import LongArray, TokenizerLike

_LONGEST_NAME = 12  # tokens between what opens a turn and the end of its role


@dataclass(frozen=True)
class Roles:
    """How turns start in a row of ids.

    After `prefix` the name of the role is written (Llama, ChatML, Gemma), and `names` translates the template's own;
    or each of `headers` starts the turn of its role (Mistral, DeepSeek, Phi).
    """

    prefix: tuple[int, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[tuple[int, ...], str] = field(default_factory=dict)


def learn_roles(tokenizer: TokenizerLike, facts: Facts) -> Roles:
    """Return how the chat template opens turns, learned by rendering; empty where that cannot be learned."""
    controls = frozenset(facts.special_ids.values())
    headers_of_roles = facts.template.role_headers if facts.template is not None else {}
    encoded = {role: tuple(encode_raw(tokenizer, text.strip())) for role, text in headers_of_roles.items()}
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


def _read_name(ids: Sequence[int], pieces: Mapping[int, Piece]) -> str:
    """Return the name of the role at the beginning of the ids: up to a control token or the end of the line."""
    named = takewhile(lambda piece: not piece.is_special, (pieces[token_id] for token_id in ids[:_LONGEST_NAME]))
    return "".join(piece.text for piece in named).partition("\n")[0].strip()


def find_roles(ids: LongArray, facts: Facts, roles: Roles, pieces: Mapping[int, Piece]) -> list[tuple[int, str]]:
    """Return where turns start in the ids of a row, with their roles."""
    row = ids.tolist()
    turns: list[tuple[int, str]] = []
    firsts = {roles.prefix[0]} if roles.prefix else {header[0] for header in roles.headers}
    by_length = sorted(roles.headers, key=len, reverse=True)
    for at in (place for place, token_id in enumerate(row) if token_id in firsts):
        if roles.prefix:
            after = at + len(roles.prefix)
            if tuple(row[at:after]) == roles.prefix:
                name = _read_name(row[after : after + _LONGEST_NAME], pieces)
                turns.append((at, roles.names.get(name, printable(name))))
        elif header := next((h for h in by_length if tuple(row[at : at + len(h)]) == h), None):
            turns.append((at, roles.headers[header]))
    if turns or facts.markers is None:
        return turns
    for turn in find_turns_in(ids, len(row), facts.markers):
        turns += [(turn.header, "assistant"), (turn.end + (turn.stop_id is not None), "prompt")]
    return [(at, role) for at, role in turns if at < len(row)]
