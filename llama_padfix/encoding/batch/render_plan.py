"""How conversations of one sequence of roles are rendered, whatever they say, and where their turns then stand.

A recipe holds for every conversation of its roles whose texts are not blank and spell neither a control token nor
the few words that the template asks for. It is learned by running the template on texts that it cannot look into,
and kept only where the same template renders probes alike, with the turns that `render_turns` proves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_padfix.chat.render import ChatTemplate
from llama_padfix.chat.symbolic import Slot, TemplateBranched, render_symbolic, trim
from llama_padfix.chat.traced_render import source_of
from llama_padfix.chat.turns import render_turns
from llama_padfix.core.compat import gives_clock
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.chat_rows import collect_row_notes
from llama_padfix.tokens.calls import is_of_transformers, preserve_backend_state
from llama_padfix.tokens.control import find_control_text
from llama_padfix.tokens.offsets import is_trimmed

__all__ = ["Piece", "RenderPlan", "learn_render_plan", "parts_at_controls"]

# What probes say: of two lengths, with white space around that some templates trim.
_PROBES = ("Probe {} asks", " \nAn answer {}, with\n\nlines\t ")
# Pre-tokenizers that look at nothing but the text that they are given, and keep all of it.
_LOCAL = {"ByteLevel", "Split", "Digits", "Punctuation", "UnicodeScripts"}
_LOSSLESS = ({"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})


@dataclass(frozen=True)
class Piece:
    """A part of a rendered conversation that holds one message's text, between two edges of control tokens.

    The message's text is trimmed by `operations`, and stands between `before` and `after`; `message` is None where
    the piece holds none, behind the last answer. The model must produce what is behind the first `header` characters
    of `before`, to the end of the piece; nothing where that is None.
    """

    message: int | None
    before: str
    after: str
    operations: tuple[tuple[str, str | None], ...] = ()
    header: int | None = None


@dataclass(frozen=True)
class RenderPlan:
    """The pieces of a conversation, in order, and the words that no message may hold."""

    pieces: tuple[Piece, ...]
    lacks: frozenset[str]


def learn_render_plan(template: ChatTemplate, roles: Sequence[str]) -> RenderPlan | None:
    """Return how conversations of these roles are rendered; None where that depends on more than their roles."""
    written = _write_opaque(template, roles)
    if written is None or sorted(slot.message for slot in written.slots) != list(range(len(roles))):
        return None
    added = {str(token): token for token in template.tokenizer.added_tokens_decoder.values()}
    unsure = _find_unsure(template, added)
    pieces = _cut(template, written, added, unsure)
    if pieces is None:
        return None
    headers, again = (_find_headers(template, roles, pieces, number) for number in range(2))
    if headers is None or headers != again:
        return None
    lacks = _fix_turns(template, roles, written, pieces, headers)
    if lacks is None:
        return None
    found = (replace(piece, header=header) for piece, header in zip(pieces, headers, strict=True))
    return RenderPlan(tuple(found), written.lacks | lacks | {*unsure})


@dataclass(frozen=True)
class _Written:
    """What a template writes around texts: one literal more than slots."""

    literals: tuple[str, ...]
    slots: tuple[Slot, ...]
    lacks: frozenset[str]


def _write_opaque(template: ChatTemplate, roles: Sequence[str], prompt: bool = False) -> _Written | None:
    """Return what is written around texts that nobody looks into; None where the template wants to, or raises."""
    kwargs = dict(template.kwargs)
    context = {**template.tokenizer.special_tokens_map, **kwargs, "tools": None, "documents": None}
    messages = [{"role": role} for role in roles]
    context["add_generation_prompt"] = prompt
    try:
        source = source_of(template.tokenizer, None, kwargs)
        written = _Written(*render_symbolic(source, messages, context, gives_clock(template.tokenizer)))
        "".join((*written.literals, *written.lacks)).encode()  # half of a surrogate pair has no ids
    except (TemplateBranched, Exception):  # a template is somebody else's program: it may raise anything
        return None
    return written


def _cut(
    template: ChatTemplate, written: _Written, added: Mapping[str, Any], unsure: Sequence[str]
) -> list[Piece] | None:
    """Return the pieces: each literal behind a text is cut behind its first control token."""
    pieces = []
    before = written.literals[0]
    for slot, literal in zip(written.slots, written.literals[1:], strict=True):
        found = find_control_text(literal, template.controls)
        if not found or not _is_sharp(added, found[0][2]):
            return None
        after = literal[: found[0][1]]
        if _are_begun(unsure, before) or _are_ended(unsure, after):
            return None  # a text could begin or end with the rest of a control token
        pieces.append(Piece(slot.message, before, after, slot.operations))
        before = literal[found[0][1] :]
    return [*pieces, Piece(None, before, "")] if before else pieces


def _find_unsure(template: ChatTemplate, added: Mapping[str, Any]) -> list[str]:
    """Return the control tokens that a text may spell and the ids not show: in a word, or before it is normalized."""
    rewrites = template.tokenizer.backend_tokenizer.normalizer is not None
    flags = [added[word] for word in template.controls + template.tags if word in added]
    return [str(token) for token in flags if token.single_word or (token.normalized and rewrites)]


def _are_begun(words: Sequence[str], before: str) -> bool:
    """Tell whether a text ends with a part of one of the words, so that what follows could complete it."""
    longest = max(map(len, words), default=0)
    ends = tuple(before[-length:] for length in range(1, min(len(before) + 1, longest)))
    return any(word[:-1].startswith(ends) for word in words)


def _are_ended(words: Sequence[str], after: str) -> bool:
    """Tell whether a text begins with the rest of one of the words, so that what stands before could complete it."""
    longest = max(map(len, words), default=0)
    beginnings = tuple(after[:length] for length in range(1, min(len(after) + 1, longest)))
    return any(word[1:].endswith(beginnings) for word in words)


def _fix_turns(
    template: ChatTemplate,
    roles: Sequence[str],
    written: _Written,
    pieces: Sequence[Piece],
    headers: Sequence[int | None],
) -> frozenset[str] | None:
    """Return what texts must lack so that their turns are where the probes' are; None where texts can move them.

    `render_turns` asks what the generation prompt is, and how the conversation up to a turn ends. Neither may depend
    on a text, and each turn must begin where the prompt ends: one that reaches further could hold what an answer
    begins with.
    """
    profile = template.profile
    if not profile.is_traced:
        return None
    lacks: set[str] = set()
    for place, (piece, header) in enumerate(zip(pieces, headers, strict=True)):
        if header is None or piece.message is None:
            continue
        literal = written.literals[place]
        opening = literal[: len(literal) - len(piece.before) + header]
        if template.tokenizer.backend_tokenizer.normalizer is not None and not _ends_plainly(template, opening):
            return None
        is_constant = profile.prompt_is_constant and profile.prompt and profile.ending
        if is_constant and literal.count(profile.prompt) == 1 and opening.endswith(profile.prompt):
            continue
        asked = _write_opaque(template, roles[: piece.message], True) if piece.message else None
        until = _write_opaque(template, roles[: piece.message + 1])
        if asked is None or until is None:
            return None
        ends = {asked.literals[-1]}
        if profile.ignores_prompt and not profile.added_prompt:
            ends = {asked.literals[-1] + profile.history_header}
        if asked.slots != written.slots[:place] or asked.literals[:-1] != written.literals[:place]:
            return None
        if opening not in ends:
            return None
        lacks |= asked.lacks | until.lacks
    return frozenset(lacks)


def _ends_plainly(template: ChatTemplate, opening: str) -> bool:
    """Tell whether no normalizer changes what stands behind the last control token in front of an answer."""
    found = find_control_text(opening, template.controls)
    return opening[found[-1][1] if found else 0 :].isascii()


def _find_headers(
    template: ChatTemplate, roles: Sequence[str], pieces: Sequence[Piece], number: int
) -> list[int | None] | None:
    """Return the length of each assistant piece's header, as a probe shows it; None where it shows no such."""
    said = [_PROBES[(index + number) % 2].format(index) for index in range(len(roles))]
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    try:
        rendered = render_turns(template, messages)
    except PadfixError:
        return None
    spoken = [index for index, role in enumerate(roles) if role == "assistant"]
    texts = [write(piece, "" if piece.message is None else said[piece.message]) for piece in pieces]
    if rendered.text != "".join(texts) or rendered.spelled or collect_row_notes(rendered, messages, spoken, ()):
        return None
    turns = {turn.message: turn for turn in rendered.turns}
    if len(turns) != len(rendered.turns) or sorted(turns) != spoken:
        return None
    headers: list[int | None] = []
    start = 0
    for piece, text in zip(pieces, texts, strict=True):
        end = start + len(text)
        turn = None if piece.message is None else turns.get(piece.message)
        headers.append(None if turn is None else turn.start - start)
        if turn is not None and (turn.end != end or not 0 < turn.start - start <= len(piece.before)):
            return None
        start = end
    return headers


def write(piece: Piece, text: str) -> str:
    """Return a piece with its message's text."""
    return piece.before + trim(text, piece.operations) + piece.after


def _is_sharp(added: Mapping[str, Any], token: str) -> bool:
    """Tell whether a control token is cut out of every text exactly where it stands, with nothing around it."""
    flags = added.get(token)
    if flags is None or flags.lstrip or flags.rstrip or flags.single_word or flags.normalized:
        return False
    # Of added tokens the one that begins first is taken, and the longest of those.
    return not any(token in other and token != other for other in added) and not _are_ended([*added], token)


def parts_at_controls(tokenizer: Any) -> bool:
    """Tell whether a text's ids are those of its parts, when it is cut beside a control token, and spell the text.

    The backend cuts control tokens out of a text first, and then treats what is between them one by one; only a
    pre-tokenizer that knows a text's beginning (`Metaspace`) or a model that draws lots (BPE with dropout) can
    tell the difference. Ids spell the text where they are those of BPE on all bytes: equal ids in front of an answer
    then stand for equal characters. A normalizer goes with tokens that cover characters only: what it changes can
    else be encoded in this way and in no other, and which rows are an error would depend on those beside them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not getattr(tokenizer, "is_fast", False) or not is_of_transformers(tokenizer):
        return False
    try:
        normalizers, pre_tokenizers = _kinds(backend.normalizer), _kinds(backend.pre_tokenizer)
    except Exception:  # one that is written in Python
        return False
    return (
        all(one.get("type") in _LOCAL and one.get("behavior") != "Removed" for one in pre_tokenizers)
        and not any(one.get("add_prefix_space") for one in pre_tokenizers)
        and all(one in _LOSSLESS for one in normalizers)
        and _knows_all_bytes(backend.model, any(one.get("type") == "ByteLevel" for one in pre_tokenizers))
        and not (normalizers and _is_trimmed(tokenizer))
    )


def _is_trimmed(tokenizer: Any) -> bool:
    with preserve_backend_state(tokenizer):
        return is_trimmed(tokenizer)


def _knows_all_bytes(model: Any, by_bytes: bool) -> bool:
    from tokenizers import models, pre_tokenizers

    if not isinstance(model, models.BPE) or model.dropout:
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix or not (by_bytes or model.byte_fallback):
        return False
    alphabet = pre_tokenizers.ByteLevel.alphabet() if by_bytes else [f"<0x{byte:02X}>" for byte in range(256)]
    return all(model.token_to_id(char) is not None for char in alphabet)


def _kinds(part: Any) -> list[Mapping[str, Any]]:
    """Return the settings of a normalizer or pre-tokenizer, or of those that it is a sequence of."""
    found = [json.loads(part.__getstate__())] if part is not None else []
    return [one for settings in found for one in _flatten(settings)]


def _flatten(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    inner = settings.get("normalizers", settings.get("pretokenizers"))
    return [settings] if inner is None else [one for part in inner for one in _flatten(part)]
