"""Conversations with media to ids and labels: the text is proven as ever, then each placeholder is written out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.trace import count_equal
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.encoded_rows import EncodedRow, find_cuts
from llama_padfix.encoding.media.forms import ContentForms
from llama_padfix.encoding.media.processor import MediaReader
from llama_padfix.encoding.media.values import KINDS, Medium

if TYPE_CHECKING:
    from llama_padfix.encoding.chat_rows import RenderedChat
    from llama_padfix.encoding.row_encoder import RowEncoder
    from llama_padfix.encoding.row_formats import Conversation

_FIRST, _EVERY = 8, 1000  # the rows that are compared with the processor's own ids: the first, then one in so many


@dataclass(frozen=True)
class MediaRow:
    """One encoded row with the images, videos and sounds of which it holds the tokens."""

    input_ids: list[int]
    labels: list[int]
    media: Sequence[Medium]

    @property
    def media_counts(self) -> list[int]:
        """The numbers of images, videos and sounds."""
        return [sum(medium.kind == kind for medium in self.media) for kind in KINDS]


@dataclass(frozen=True)
class MediaChat:
    """An encoded row and its media, where they end and where it may be cut, both by characters."""

    row: EncodedRow
    media: Sequence[Medium] = ()
    ends: Sequence[int] = ()
    cuts: Sequence[int] = ()

    def keep(self, length: int) -> list[Medium]:
        """Return the media that stand in the first `length` tokens, which are the whole row or a cut one."""
        end = None
        if length < len(self.row.input_ids):
            end = self.cuts[list(self.row.turn_ends).index(length)]
        return [medium for medium, at in zip(self.media, self.ends, strict=True) if end is None or at <= end]


class ChatsWithMedia:
    """Encodes conversations with media, and compares some with what the processor itself makes of them."""

    def __init__(self, processor: Any) -> None:  # transformers.ProcessorMixin
        self.reader = MediaReader(processor)
        self._compared = 0
        self._forms: tuple[RowEncoder, ContentForms] | None = None
        self._additions: tuple[RowEncoder, list[int]] | None = None

    def encode(self, rows: RowEncoder, found: Conversation, media: Sequence[Medium]) -> MediaChat:
        """Return a row with its placeholders written out, and where each medium ends."""
        assert found.messages is not None  # it is no text
        chats = rows.choose_renderer(found.template_kwargs)
        messages = [self._find_forms(rows).adapt(message) for message in found.messages]
        chat = chats.render(messages, found.tools, found.trained_from, rows.settings)
        chat = replace(chat, notes={**chat.notes, **found.notes})
        whole, ends = self._write_out(chat, media)
        row = rows.label(whole, None)
        bos = self.reader.processor.tokenizer.bos_token
        row = row if bos and whole.rendered.text.startswith(bos) else _put_before(self._find_additions(rows), row)
        if media and not chat.escaped and self._is_next():
            self._compare(chat.rendered.text, media, row.input_ids)
        turns = whole.rendered.turns
        return MediaChat(row, media, ends, [turns[place].end for place in find_cuts(turns)])

    def _find_forms(self, rows: RowEncoder) -> ContentForms:
        if self._forms is None or self._forms[0] is not rows:
            self._forms = rows, ContentForms(rows.tokenizer, rows.settings.template_kwargs)
        return self._forms[1]

    def _find_additions(self, rows: RowEncoder) -> list[int]:
        """What the tokenizer itself puts before a text that the chat template begins without a BOS."""
        if self._additions is None or self._additions[0] is not rows:
            self._additions = rows, self._read_additions()
        return self._additions[1]

    def _read_additions(self) -> list[int]:
        plain = self.reader.processor.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = [int(token) for token in self.reader.processor.tokenizer("a")["input_ids"]]
        added = whole[: len(whole) - len(plain)]
        if whole != [*added, *plain]:
            raise PadfixError(
                "The tokenizer puts an end token behind each text, in mid-conversation too. Switch it off: "
                "tokenizer.add_eos_token = False"
            )
        return added

    def _write_out(self, chat: RenderedChat, media: Sequence[Medium]) -> tuple[RenderedChat, list[int]]:
        """Return a rendered chat whose placeholders are written out, and behind which character each of them ends."""
        rendered = chat.rendered
        pattern = "|".join(re.escape(token) for token in sorted(self.reader.tokens.values(), key=len, reverse=True))
        spelled = {at for start, end in rendered.spelled for at in range(start, end)}
        written = [*re.finditer(pattern, rendered.text)]
        found = [match for match in written if match.start() not in spelled]
        if len(found) < len(written) and len(chat.escaped) < len(rendered.spelled):
            raise PadfixError(
                "a message spells the placeholder of a medium, and special_tokens lets control tokens stay: it would "
                "stand for a medium that is not there. Encode it as text: special_tokens='escape'"
            )
        if [match.group() for match in found] != [self.reader.name_token(medium) for medium in media]:
            wanted = ", ".join(medium.kind for medium in media)
            raise PadfixError(
                f"the chat template writes {len(found)} placeholders ({', '.join(self.reader.tokens.values())}) for "
                f"the media {wanted or '(none)'}. Use the model's own template: prepare(processor, template=...)"
            )
        pieces, moves, last = list[str](), list[tuple[int, int]](), 0
        for match, text in zip(found, self.reader.write_out(media), strict=True):
            pieces += [rendered.text[last : match.start()], text]
            moves.append((match.end(), len(text) - len(match.group())))
            last = match.end()

        def move(place: int) -> int:
            return place + sum(more for end, more in moves if end <= place)

        if any(turn.start < match.end() and match.start() < turn.end for turn in rendered.turns for match in found):
            raise PadfixError("the chat template writes a medium into the model's own turn. Move it into a question")
        turns = tuple(replace(turn, start=move(turn.start), end=move(turn.end)) for turn in rendered.turns)
        text = "".join([*pieces, rendered.text[last:]])
        escaped = tuple((move(start), move(end)) for start, end in chat.escaped)
        whole = replace(rendered, text=text, turns=turns, spelled=(), generation=(), content_spans=None)
        return replace(chat, rendered=whole, escaped=escaped), [move(match.end()) for match in found]

    def _is_next(self) -> bool:
        self._compared += 1
        return self._compared <= _FIRST or self._compared % _EVERY == 0

    def _compare(self, text: str, media: Sequence[Medium], ids: Sequence[int]) -> None:
        own = self.reader.encode(text, media)
        if own != list(ids):
            place = count_equal(own, ids)
            raise PadfixError(
                f"{self.reader.name} itself makes other ids of the row, from token {place} on: "
                f"{own[place : place + 4]}, not {list(ids[place : place + 4])}. Update transformers, "
                "or train this model on text: prepare(processor.tokenizer, model)"
            )


def _put_before(ids: Sequence[int], row: EncodedRow) -> EncodedRow:
    """Return a row with ids in front that are not trained."""
    more = len(ids)
    return replace(
        row,
        input_ids=[*ids, *row.input_ids],
        labels=[*([IGNORE_INDEX] * more), *row.labels],
        trained=[(first + more, last + more) for first, last in row.trained],
        turn_ends=[end + more for end in row.turn_ends],
    )
