"""Markers of a chat template, read from its profile and fitted to what the encoder labels, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from llama_padfix.chat.profile.template_profile import TemplateProfile, observe_template
from llama_padfix.chat.trace import count_equal
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.masking.labels_from_ids import label_answers
from llama_padfix.encoding.masking.marker_probes import LabeledProbe, label_probes
from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers, find_answers
from llama_padfix.tokens.calls import encode_raw
from llama_padfix.tokens.control import TEXT_END_TOKEN, find_control_text, special_ids

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike

# A letter, a digit, a bracket, a quote, a line break in a code fence, other scripts and an emoji:
# whatever follows the header, its last token must stay the same.
_PROBES = ("Word", "7", "(x)", '"', "```\ncode\n```", "你好", "🙂", "é")

_MOST_KNOWN = 8
_known: dict[int, tuple[TemplateProfile, TurnMarkers]] = {}  # a profile is made once for a tokenizer as it is


def learn_markers(tokenizer: TokenizerLike, kwargs: Mapping[str, object]) -> TurnMarkers:
    """Return the ids around an assistant turn; see `labels.find_markers`."""
    facts = observe_template(tokenizer, kwargs)
    if facts is None or (facts.error is not None and not facts.is_traced):
        seen = "has no chat template" if facts is None else f"has a chat template that cannot be read: {facts.error}"
        raise PadfixError(
            f"The tokenizer {seen}, so there are no turns to mark. "
            "Pass markers by hand: TurnMarkers(header_ids=(...), stop_ids=(...))"
        )
    known = _known.get(id(facts))
    if known is not None and known[0] is facts:
        return known[1]
    header = facts.history_header if facts.is_traced else facts.header
    specials = special_ids(tokenizer)
    opening = find_control_text(header, tuple(specials))
    if not opening and facts.header.endswith(header):  # words have other ids behind the space before them
        header = facts.header
    if not header or (facts.stop_token is None and not opening):
        raise PadfixError(
            "The chat template opens or ends an assistant turn without a token of its own. "
            "Use ChatEncoder(tokenizer), which finds the turns in the text instead."
        )
    header = header[opening[0][0] :] if opening else header
    ends = [specials.get(str(token)) for token in (facts.stop_token, *facts.stops, "<|eom_id|>", TEXT_END_TOKEN)]
    starts = [specials[opening[0][2]] if opening else None, tokenizer.bos_token_id]
    markers = TurnMarkers(
        header_ids=_encode_header(tokenizer, header),
        stop_ids=tuple(dict.fromkeys(token_id for token_id in ends if token_id is not None)),
        turn_start_ids=tuple(token_id for token_id in starts if token_id is not None),
        forgeable=not opening,
    )
    probes = list(label_probes(tokenizer, kwargs))
    if not probes:
        return markers
    at = facts.prompt.rfind(header)
    prompt = encode_raw(tokenizer, facts.prompt[at:] if at >= 0 else header)
    markers = _Fitting(tokenizer, probes, tuple(prompt)).fit(markers)
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[id(facts)] = facts, markers
    return markers


def _encode_header(tokenizer: TokenizerLike, header: str) -> tuple[int, ...]:
    header_ids, *probed = (tuple(encode_raw(tokenizer, header + probe)) for probe in ("", *_PROBES))
    for probe, ids in zip(_PROBES, probed, strict=True):
        if ids[: len(header_ids)] != header_ids:
            raise PadfixError(
                f"The header {header!r} has other ids before {probe!r}: it melts into the answer, so ids alone "
                "cannot mark the turn. Use ChatEncoder(tokenizer), which finds the turns in the text instead."
            )
    return header_ids


@dataclass(frozen=True)
class _Fitting:
    """Fits markers to labeled conversations; `prompt` are the ids of the generation prompt, from the header on."""

    tokenizer: TokenizerLike
    probes: Sequence[LabeledProbe]
    prompt: tuple[int, ...]

    def fit(self, markers: TurnMarkers) -> TurnMarkers:
        """Return the markers with all that the conversations show; raise where ids do not tell their turns."""
        markers = self._add_ends(markers)
        if markers.forgeable and self._find_shared_stops(markers):
            raise PadfixError(
                "A message can spell the header of this chat template, and the token that ends an answer ends other "
                "turns too, so ids alone do not tell whose a turn is. Use ChatEncoder(tokenizer), which knows it."
            )
        markers = self._add_melted(markers, markers.header_ids)
        markers = self._add_supplied(markers)
        markers = self._add_resumed(markers)
        markers = self._add_joined(markers)
        wrong = self._find_wrong(markers)
        if wrong and self._count_equal(closed := replace(markers, closed=True)) == self._count_equal(markers):
            markers, wrong = closed, self._find_wrong(closed)
        sure = {one for probe in self.probes if _label(probe.ids, markers) == probe.labels for one in probe.ids}
        doubtful = {one for probe in wrong for one in self._find_marks({*probe.ids} - sure, probe.has_tools)}
        markers = replace(markers, doubtful_ids=tuple(sorted(doubtful)))
        wrong = self._find_wrong(markers)
        if wrong:
            markers = replace(markers, alternating=True)
            wrong = self._find_wrong(markers)
        if wrong or _label(self.probes[0].ids, markers) != self.probes[0].labels:
            seen = self.tokenizer.decode((wrong or self.probes)[0].ids)[-300:]
            raise PadfixError(
                f"Ids alone do not tell the assistant's turns of this chat template, as in {seen!r}. "
                "Use ChatEncoder(tokenizer), which finds them in the text."
            )
        return markers

    def _find_shared_stops(self, markers: TurnMarkers) -> set[int]:
        """Return the stop tokens that stand outside of the trained spans too; a tool may speak as the model does."""
        outside = {
            one for probe in self.probes for one, label in zip(probe.ids, probe.labels, strict=True) if one != label
        }
        return outside & {*markers.stop_ids}

    def _find_marks(self, ids: set[int], has_tools: bool) -> set[int]:
        """Return which of the ids of a row are control tokens; where none is, the longest mark around a thought."""
        texts = {self.tokenizer.decode([one]): one for one in ids if not has_tools}
        marks = [text for text in texts if text and not any(char.isalnum() or char.isspace() for char in text)]
        return ids & self._added or {texts[mark] for mark in marks if mark == max(marks, key=len)}

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(map(int, self.tokenizer.added_tokens_decoder))

    @cached_property
    def _trained(self) -> list[tuple[list[int], int, int, bool]]:
        """Return each trained span: the ids of its row, where it begins and ends, and whether a stop token ends it."""
        return [
            (probe.ids, first, last, stopped)
            for probe in self.probes
            for (first, last), stopped in zip(probe.spans, probe.stopped, strict=True)
        ]

    def _find_wrong(self, markers: TurnMarkers) -> list[LabeledProbe]:
        return [probe for probe in self.probes if _label(probe.ids, markers) not in (probe.labels, None)]

    def _count_equal(self, markers: TurnMarkers) -> int:
        return sum(_label(probe.ids, markers) == probe.labels for probe in self.probes)

    def _add_ends(self, markers: TurnMarkers) -> TurnMarkers:
        """Add what ends the trained spans; what stands inside one ends none."""
        spans = [span for span in self._trained if span[1] < span[2]]
        stops = [ids[last - 1] for ids, _, last, stopped in spans if stopped]
        behind = [ids[last] for ids, _, last, stopped in spans if not stopped and last < len(ids)]
        within = {one for ids, first, last, _ in spans for one in ids[first : last - 1]}
        starts = [*markers.turn_start_ids, *(one for one in behind if one in self._added)]
        stop_ids = dict.fromkeys([*markers.stop_ids, *stops])
        return replace(
            markers,
            stop_ids=tuple(one for one in stop_ids if one not in within or one in stops),
            turn_start_ids=tuple(dict.fromkeys(one for one in starts if one not in stop_ids)),
        )

    def _add_melted(self, markers: TurnMarkers, ids: tuple[int, ...]) -> TurnMarkers:
        """Add what may stand in place of the last of some ids, if white space melts into it in a conversation."""
        if len(ids) < 2 or ids[-1] in dict(markers.melted_ids) or ids[-1] in self._added:
            return markers
        others = {
            probe.ids[at + len(ids) - 1]
            for probe in self.probes
            for at in range(len(probe.ids) - len(ids) + 1)
            if tuple(probe.ids[at : at + len(ids) - 1]) == ids[:-1]
        }
        name, *names = self.tokenizer.convert_ids_to_tokens([ids[-1], *(others - {ids[-1]})])
        if not any(other.startswith(name) for other in names):
            return markers
        alike = [token_id for other, token_id in self.tokenizer.get_vocab().items() if other.startswith(name)]
        return replace(markers, melted_ids=(*markers.melted_ids, (ids[-1], tuple(sorted(alike)))))

    def _add_supplied(self, markers: TurnMarkers) -> TurnMarkers:
        """Add those beginnings of what the prompt writes behind the header that stand untrained there."""
        width = len(markers.header_ids)
        sizes: list[int] = []
        for size in range(1, len(self.prompt) - width + 1):
            tried = self._add_melted(markers, self.prompt[: width + size])
            tried = replace(tried, supplied_ids=(self.prompt[width : width + size],), forgeable=False)
            for probe in self.probes:
                starts, before = (_starts(probe.ids, one) for one in (tried, replace(tried, supplied_ids=())))
                firsts = {first for first, _ in probe.spans}
                if any(new != old and new in firsts for new, old in zip(starts, before, strict=False)):
                    sizes.append(size)
                    markers = replace(markers, melted_ids=tried.melted_ids)
                    break
        return replace(markers, supplied_ids=tuple(self.prompt[width : width + size] for size in sizes))

    def _add_resumed(self, markers: TurnMarkers) -> TurnMarkers:
        """Add the ids behind which spans begin without a header, if more conversations are right with them."""
        found = {
            probe.ids[first - 1]
            for probe in self.probes
            for first, _ in probe.spans
            if first and first not in _starts(probe.ids, replace(markers, forgeable=False))
        }
        resumed = tuple(sorted(found & self._added - {*markers.stop_ids, *markers.turn_start_ids}))
        return self._better(markers, replace(markers, resumed_ids=resumed)) if resumed else markers

    def _find_joints(self, header: tuple[int, ...]) -> list[tuple[list[int], int, int]]:
        """Return where trained spans hold a header: the ids of the row, where the span begins, and the header."""
        return [
            (ids, first, at)
            for ids, first, last, _ in self._trained
            for at in range(first + 1, last)
            if tuple(ids[at : at + len(header)]) == header
        ]

    def _add_joined(self, markers: TurnMarkers) -> TurnMarkers:
        """Add what shows that a header inside a trained span belongs to it: the id before it, or how it begins."""
        joints = self._find_joints(markers.header_ids)
        if not joints:
            return markers
        ends = {ids[last - 1] for ids, _, last, _ in self._trained}
        markers = replace(markers, joint_ids=tuple(sorted({ids[at - 1] for ids, _, at in joints} - ends)))
        whole = [ids[first:at] for ids, first, at in joints if ids[at - 1] in ends]
        same = whole[0][: min(count_equal(whole[0], one) for one in whole)] if whole else []
        parts = [part for ids, first, last, _ in self._trained if (part := ids[first:last])[: len(same)] != same]
        size = next((n for n in range(1, len(same) + 1) if all(part[:n] != same[:n] for part in parts)), None)
        return markers if size is None else self._better(markers, replace(markers, joined_ids=(tuple(same[:size]),)))

    def _better(self, markers: TurnMarkers, tried: TurnMarkers) -> TurnMarkers:
        return tried if self._count_equal(tried) > self._count_equal(markers) else markers


def _starts(ids: list[int], markers: TurnMarkers) -> list[int]:
    """Return where the answers of a row begin."""
    import numpy as np

    found: list[int] = find_answers(np.asarray(ids), markers).start.tolist()
    return found


def _label(ids: list[int], markers: TurnMarkers) -> list[int] | None:
    """Return the labels of a row by the markers; None where they say that it is doubtful."""
    try:
        labels: list[int] = label_answers(ids, markers, last_only=False)
    except PadfixError:
        return None
    return labels
