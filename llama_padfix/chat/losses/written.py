r"""The texts that a template wrote of each message, and which of the texts that a message holds are among them.

What is found is used up, in the text that it was found in: of a message with the thought `ba` and the answer `aa`, the
template wrote both in `<think>ba</think>aa`, and one of them in `aa`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llama_padfix.chat.messages import texts_in
from llama_padfix.chat.traced_str import LOST

if TYPE_CHECKING:
    from llama_padfix.chat.render import Rendered

USED = "\0"
"""Stands where a text was found, so that it is not found again, and what stands around it is not one text."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_ENCODINGS = 2  # JSON inside of JSON


class WrittenTexts:
    """The texts of each message, and those of the tools (`TOOLS`); the whole text where authors are not known."""

    def __init__(self, rendered: Rendered) -> None:
        self.text = rendered.text
        self.are_known = rendered.content_spans is not None
        self.own: dict[int, list[str]] = {}
        for start, end, origin in rendered.content_spans or ():
            self.own.setdefault(origin, []).append(rendered.text[start:end])
        lost = self.own.pop(LOST, [])
        self.lost = [USED, *lost] if any(lost) else []

    def of(self, origin: int) -> list[str]:
        """Return what may be of a message, or of the tools."""
        return [*self.own.get(origin, ()), *self.lost] if self.are_known else [self.text]

    def find_missing(self, origin: int, pieces: Sequence[str], others: Sequence[str] = ()) -> set[int]:
        """Return the places of those pieces that are not in the text; each occurrence stands for one piece.

        `others` may be written too and need not be (a name, a key).
        """
        own, given = self.of(origin), [piece.strip() for piece in pieces]
        if not self.are_known:
            return {place for place, piece in enumerate(given) if not _use([*own], piece)}
        opened = [inner for text in own for inner in _open_json(text, given)]
        alone = {text.strip() for text in opened if text.strip()}
        given += [other.strip() for other in others if other.strip() in alone]
        return {place for place in _read(own, opened, given) if place < len(pieces)}


def _read(own: list[str], opened: list[str], pieces: Sequence[str]) -> set[int]:
    """Return the places of the pieces that are missing in the texts of a message.

    JSON is opened, and longer pieces are looked for first, since they may hold shorter ones. Where one is missing,
    other readings are tried: with those first that are a text of their own, which holds if it leaves no character
    over, and with JSON as it is. Else that holds which misses the fewest pieces and leaves the fewest characters over.
    """
    longest = sorted(range(len(pieces)), key=lambda place: -len(pieces[place]))
    found = _use_all(opened, pieces, longest)
    if not found[0]:
        return set()
    readings: list[tuple[set[int], int]] = []
    for texts in [opened] if opened == own else [opened, own]:
        alone = {text.strip() for text in texts}
        order = sorted(longest, key=lambda place: pieces[place] not in alone)
        readings.append(found if texts is opened and order == longest else _use_all(texts, pieces, order))
        if not readings[-1][1]:
            return readings[-1][0]
    readings += [found] if opened == own else [found, _use_all(own, pieces, longest)]
    return min(readings, key=lambda one: (len(one[0]), one[1]))[0]


def _open_json(text: str, pieces: Sequence[str]) -> list[str]:
    """Return the texts inside of a text that is JSON, keys included, or else the text; a piece stays as it is."""
    if text.strip() in pieces or not text.lstrip().startswith(("{", "[", '"')):
        return [text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    return _open_json(value, pieces) if isinstance(value, str) else [*texts_in(value)]


def _use_all(own: Sequence[str], pieces: Sequence[str], order: Sequence[int]) -> tuple[set[int], int]:
    """Return the places of the pieces that are missing, and the number of characters that are left over."""
    left = [*own]
    missing = {place for place in order if not _use(left, pieces[place])}
    return missing, sum(map(len, "".join(left).replace(USED, "").split()))


def _use(texts: list[str], piece: str) -> bool:
    """Use up a piece in the texts, and return True if it is there.

    It is looked for as it is, in a text of its own and then inside of others; and then without white space, case and
    escapes, as one text, as several, and inside of others.
    """
    places = [place for place, text in enumerate(texts) if piece in text]
    if places:
        place = next((place for place in places if texts[place].strip() == piece), places[0])
        texts[place] = texts[place].replace(piece, USED, 1)
        return True
    squashed = squash(piece)
    for forms in _forms_of(texts):
        if run := _find_run(forms, squashed):
            texts[run] = [USED]
            return True
        place = next((place for place, form in enumerate(forms) if squashed in form), -1)
        if place >= 0:
            texts[place] = forms[place].replace(squashed, USED, 1)
            return True
    return False


def _forms_of(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts without white space and case: as they are, and with the escapes of each encoding undone."""
    yield [squash(text) for text in texts]
    for _ in range(_ENCODINGS):
        if not any("\\" in text for text in texts):
            return
        texts = [unescape(text) for text in texts]
        yield [squash(text) for text in texts]


def _find_run(texts: Sequence[str], piece: str) -> slice | None:
    """Return which of the texts, one after another, are the piece; None where there are no such.

    A template that replaces each line break by ` ` writes a text of several lines as several texts.
    """
    for first, text in enumerate(texts):
        end, last = 0, first
        while last < len(texts) and text and piece.startswith(texts[last], end):
            end, last = end + len(texts[last]), last + 1
            if end == len(piece):
                return slice(first, last)
    return None


def unescape(text: str) -> str:
    """Return a text without the escapes of JSON."""
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _CONTROLS.get(m[2], m[2]), text)


def squash(text: str) -> str:
    """Return a text without white space and case."""
    return "".join(text.split()).casefold()
