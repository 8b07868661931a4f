"""What was trained: each generation point of each row, with the text and ids up to there, and where answers end."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from llama_padfix.chat.traced_render import aliases_reasoning, source_of
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.row_encoder import RowEncoder
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError, RenderStoppedError
from llama_padfix.serving.rendering.render import render_chat
from llama_padfix.serving.row_kinds import RowKind, read_served_row, require_rows
from llama_padfix.tokens.calls import encode_raw

if TYPE_CHECKING:
    from llama_padfix.encoding.chat_rows import RenderedChat
    from llama_padfix.encoding.row_formats import Conversation
    from llama_padfix.serving.folder import ServedFolder

_TOGETHER = 256  # rows whose texts are encoded in one call


@dataclass(frozen=True)
class Point:
    """A place in a row where the model begins to generate."""

    row: int
    """The number of the row."""

    turn: int
    """The index of the message that is generated."""

    chat: Chat
    """The conversation up to there, as the training renders it."""

    row_text: str = field(repr=False)
    """The trained text of the row."""

    row_ids: array[int] = field(repr=False)
    """The ids of the row, of 4 bytes each."""

    start: int
    """The place in `row_text` from which the model generates."""

    end: int
    """The place in `row_text` behind the answer."""

    first: int
    """The place in `row_ids` from which the model generates."""

    @property
    def text(self) -> str:
        """The trained text up to there."""
        return self.row_text[: self.start]

    @property
    def ids(self) -> tuple[int, ...]:
        """The trained ids up to there."""
        return tuple(self.row_ids[: self.first])

    @property
    def answer(self) -> str:
        """The trained text of the answer."""
        return self.row_text[self.start : self.end]


@dataclass
class TrainedRows:
    """The points of rows, and what was seen of their answers."""

    points: list[Point] = field(default_factory=list)

    chats: list[Chat] = field(default_factory=list)
    """The whole conversations."""

    read: int = 0
    """How many rows were read."""

    kinds: dict[RowKind, int] = field(default_factory=dict)
    """How many of the rows that were read are of each kind (`row_kinds.KINDS`)."""

    left_out: dict[str, int] = field(default_factory=dict)
    """How many rows have no point, by the reason."""

    ends: dict[int, int] = field(default_factory=dict)
    """The ids with which trained turns end, with the number of turns."""

    inside: dict[int, list[int]] = field(default_factory=dict)
    """Ids inside of trained turns, with the numbers of the rows."""


@dataclass
class PointReader:
    """Reads the points of rows as an encoder encodes them."""

    folder: ServedFolder
    encoder: ChatEncoder

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, ChatEncoder):
            raise PadfixError(
                f"Got a {type(self.encoder).__name__} where an encoder is needed. Pass that of the training: "
                "encoder=prepared.encoder"
            )
        self._rows = RowEncoder(self.encoder.tokenizer, self.encoder.settings, self.encoder.text_end_id)

    def read(self, rows: Iterable[object], limit: int) -> TrainedRows:
        """Return the points of the first rows.

        Args:
            rows: Rows of any shape that the encoder reads.
            limit: The most rows that are read.

        Raises:
            PadfixError: the folder has no chat template, or one that does not end.
        """
        if not (self.encoder.tokenizer.chat_template or self.encoder.template_kwargs.get("chat_template")):
            raise PadfixError(
                "The folder has no chat template, so no server can render a conversation. Save it with the tokenizer: "
                "tokenizer.chat_template = AutoTokenizer.from_pretrained(instruct_model).chat_template"
            )
        found = TrainedRows()
        waiting: list[tuple[int, Conversation, RenderedChat]] = []
        for number, row in enumerate(take_rows(rows, limit)):
            found.read += 1
            try:
                self._read_row(found, waiting, number, row)
            except RenderStoppedError as error:
                raise PadfixError(
                    f"row {number}: {error} Look at what wrote the template before it is used."
                ) from None
            except (PadfixError, RecursionError) as error:
                reason = str(error).partition(". ")[0] or "it is nested too deeply"
                found.left_out[reason] = found.left_out.get(reason, 0) + 1
            if len(waiting) == _TOGETHER:
                self._add(found, waiting)
                waiting = []
        self._add(found, waiting)
        found.points.sort(key=lambda point: (point.row, point.turn))
        return found

    def _read_row(
        self,
        found: TrainedRows,
        waiting: list[tuple[int, Conversation, RenderedChat]],
        number: int,
        row: object,
    ) -> None:
        conversation, kind = read_served_row(row)
        if conversation.messages is None:
            raise PadfixError("the row is plain text, which no server renders")
        if kind == "prompt":
            found.points.append(self._point_of_prompt(number, conversation))
        else:
            waiting.append((number, conversation, self._render(conversation)))
        found.kinds[kind] = found.kinds.get(kind, 0) + 1

    def _point_of_prompt(self, number: int, conversation: Conversation) -> Point:
        """Return the only point of a prompt without an answer: behind the generation prompt."""
        turn = len(conversation.messages or ())
        chat = self._chat_of(conversation, turn)
        try:
            text = render_chat(chat)
        except RenderStoppedError:
            raise
        except RenderRefusedError as error:
            raise PadfixError(f"the chat template refuses the row: {error}") from None
        ids = array("i", encode_raw(self.encoder.tokenizer, text))
        return Point(number, turn, chat, text, ids, len(text), len(text), len(ids))

    def _render(self, conversation: Conversation) -> RenderedChat:
        assert conversation.messages is not None  # `_read_row` refuses plain text
        renderer = self._rows.choose_renderer(conversation.template_kwargs)
        chat = self._chat_of(conversation, len(conversation.messages), add_generation_prompt=False)
        try:
            render_chat(chat)  # within limits: the library's own renderings have none
        except RenderStoppedError:
            raise
        except RenderRefusedError as error:
            raise PadfixError(f"the chat template refuses the row: {error}") from None
        settings = self.encoder.settings
        return renderer.render(conversation.messages, conversation.tools, conversation.trained_from, settings)

    def _chat_of(self, conversation: Conversation, end: int, *, add_generation_prompt: bool = True) -> Chat:
        """Return the conversation up to a message, with the arguments and the template of the training."""
        kwargs = {**self.encoder.template_kwargs, **conversation.template_kwargs}
        try:
            source = source_of(self.encoder.tokenizer, conversation.tools, kwargs)
        except ValueError as error:  # several templates with names, and none is "default"
            raise PadfixError(f"the tokenizer has no template for the row: {error}") from None
        messages = (conversation.messages or [])[:end]
        return Chat(
            messages,
            conversation.tools,
            kwargs,
            source,
            self.folder.tokens,
            self.folder.day,
            add_generation_prompt=add_generation_prompt,
            aliases_thoughts=aliases_reasoning(),
        )

    def _add(self, found: TrainedRows, waiting: list[tuple[int, Conversation, RenderedChat]]) -> None:
        encoded = self._rows.encode_chats([chat for _, _, chat in waiting])
        for (number, conversation, chat), one in zip(waiting, encoded, strict=True):
            found.chats.append(
                self._chat_of(conversation, len(conversation.messages or ()), add_generation_prompt=False)
            )
            text, ids = chat.rendered.text, array("i", one.ids)
            for turn, (start, end) in zip(chat.rendered.turns, one.places, strict=False):
                before = self._chat_of(conversation, turn.message)
                found.points.append(Point(number, turn.message, before, text, ids, turn.start, turn.end, start))
                answer = one.ids[start:end]
                if turn.stops and answer:
                    found.ends[answer[-1]] = found.ends.get(answer[-1], 0) + 1
                for token_id in set(answer[:-1] if turn.stops else answer):
                    rows = found.inside.setdefault(token_id, [])
                    if not rows or rows[-1] != number:
                        rows.append(number)


def take_rows(rows: Iterable[object], limit: int) -> Iterator[object]:
    """Return the first rows.

    Raises:
        PadfixError: These are no rows, or `limit` is no number of them.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise PadfixError(f"rows={limit!r} reads nothing. Pass an int above 0.")
    require_rows(rows)
    return islice(rows, limit)


def read_trained(
    folder: ServedFolder, rows: Iterable[object], limit: int, encoder: ChatEncoder | None = None
) -> TrainedRows:
    """Return the generation points of rows as they were trained.

    Args:
        folder: The folder, whose tokenizer renders and encodes where no encoder is given.
        rows: Rows of any shape that the encoder reads.
        limit: The most rows that are read.
        encoder: The encoder of the training; by default `ChatEncoder(tokenizer)`.
    """
    return PointReader(folder, encoder or ChatEncoder(folder.tokenizer)).read(rows, limit)
