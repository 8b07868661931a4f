"""The rules that find where a turn begins (`START_RULES`) and ends (`END_RULES`), strongest evidence first.

A rule looks at one part of a turn: a run of characters of one message, with what the template wrote before and behind
it. It returns a place in the rendered text, or None where it does not apply; the first place counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from llama_padfix.chat.template_profile import TemplateProfile, find_stop
from llama_padfix.chat.trace import Render, Trace, align, common_start, is_prefix
from llama_padfix.tokens.control import find_control_text


@dataclass(frozen=True)
class TracedConversation:
    """A traced conversation, and what is known about it."""

    whole: Trace
    profile: TemplateProfile
    assistant_indices: Collection[int]
    render: Render


@dataclass(frozen=True)
class Part:
    """Content spans `first` to `last` of a traced conversation, which are one part of the turn of message `index`."""

    conversation: TracedConversation
    index: int
    first: int
    last: int
    seen: int
    """How many messages stand in front of the part; more than `index` where it goes on behind a tool's answer."""

    @cached_property
    def whole(self) -> Trace:
        """The rendered conversation."""
        return self.conversation.whole

    @cached_property
    def profile(self) -> TemplateProfile:
        """What is known about the template."""
        return self.conversation.profile

    @property
    def before(self) -> int:
        """Where the content in front of the part ends."""
        return self.whole.content_spans[self.first - 1][1] if self.first else 0

    @property
    def begin(self) -> int:
        """Where the part's own characters begin."""
        return self.whole.content_spans[self.first][0]

    @property
    def end(self) -> int:
        """Where the part's own characters end."""
        return self.whole.content_spans[self.last][1]

    @property
    def after(self) -> int:
        """Where the content behind the part begins."""
        spans = self.whole.content_spans
        return spans[self.last + 1][0] if self.last + 1 < len(spans) else len(self.whole.text)

    @cached_property
    def gap(self) -> str:
        """What the template wrote in front of the part."""
        return self.whole.scaffold[self.before : self.begin]

    @cached_property
    def prompted(self) -> Trace | None:
        """The conversation up to the message, with a generation prompt."""
        return self.conversation.render(self.index, True) if self.index else None

    @property
    def seam(self) -> str:
        """What the template writes behind the last content of `prompted`."""
        return self.prompted.tail if self.prompted is not None else ""

    @property
    def gap_behind(self) -> str:
        """What the template wrote behind the part's last character, up to the next content."""
        return self.whole.scaffold[self.end : self.after]

    @cached_property
    def tail(self) -> str:
        """What the template writes behind the turn when nothing follows, without a prompt that is always there."""
        alone = self.conversation.render(max(self.seen, self.index + 1), False)
        return "" if alone is None else alone.tail.removesuffix(self.profile.added_prompt)


StartRule = Callable[[Part], "int | None"]


def _behind_constant_prompt(part: Part) -> int | None:
    r"""Begin behind the one prompt that the template can write: ChatML (Qwen 2.5), Llama 3.

    `<|im_start|>assistant\nHello<|im_end|>`
                             ^
    """
    profile = part.profile
    if not (profile.prompt_is_constant and profile.prompt and part.gap.count(profile.prompt) == 1):
        return None
    return part.before + part.gap.index(profile.prompt) + len(profile.prompt)


def _behind_rendered_prompt(part: Part) -> int | None:
    r"""Begin where the conversation up to the turn ends, rendered with a prompt: a prompt that depends on messages.

    Prompted:     `<|user|>Hi<|end|><|assistant|>`
    Conversation: `<|user|>Hi<|end|><|assistant|>Hello<|end|>` (Phi 3)
                                                 ^
    """
    if part.prompted is None or part.begin < len(part.prompted.text) or not is_prefix(part.prompted, part.whole):
        return None
    return _skip_header(part, len(part.prompted.text))


def _inside_supplied_text(part: Part) -> int | None:
    r"""Begin in the content, where the prompt writes its first characters: DeepSeek R1, QwQ, Qwen 3.5.

    Prompted:     `<|im_start|>assistant\n<think>\n`
    Conversation: `<|im_start|>assistant\n<think>\nHm\n</think>` (a content that holds its thought)
                                                   ^
    """
    shared = common_start(part.seam, part.gap)
    if part.prompted is None or shared < len(part.gap):
        return None
    return part.begin + _count_supplied(part, part.seam[shared:])


def _behind_equal_prompt(part: Part) -> int | None:
    r"""Begin behind what the prompt writes last, where the text before it differs: Qwen 3, whose history lacks thoughts.

    Prompted:     `...<think>\nHm\n</think>\n\nOne<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n`
    Conversation: `...One<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\nTwo<|im_end|>`
                                                                                              ^
    """  # noqa: E501
    seam = part.seam
    return _skip_header(part, part.before + len(seam)) if seam and part.gap.startswith(seam) else None


def _behind_shared_header(part: Part) -> int | None:
    r"""Begin where prompt and history part, behind the header: Nemotron 3, whose history holds empty thoughts.

    Prompted:     `<|im_start|>assistant\n<think>\n`
    Conversation: `<|im_start|>assistant\n<think></think>Hello<|im_end|>`
                                                 ^
    """
    shared, header = common_start(part.seam, part.gap), part.profile.history_header
    return part.before + shared if header and header in part.seam[:shared] else None


def _behind_only_header(part: Part) -> int | None:
    r"""Begin behind the header, where it stands once, or where no text can forge it: a first message of the assistant.

    `<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>` (Llama 3)
                                                      ^
    """
    header = part.profile.history_header
    many = part.gap.count(header) if header else 0
    if many == 1 or (many and part.profile.prompt_has_control):  # messages without text may stand before it
        return _skip_header_of_history(part, part.before + part.gap.rindex(header))
    return None


def _behind_prompt_but_for_space(part: Part) -> int | None:
    r"""Begin behind what equals the prompt but for white space: templates written by hand.

    Prompted:     `### Question:\nHi\n### Answer:`
    Conversation: `### Question:\nHi\n\n### Answer:\nHello`
                                                    ^
    """
    same = None if part.prompted is None else align(part.seam, part.gap)
    if same is None or (part.seam[same[0] :].strip() and part.gap[same[1] :].strip()):
        return None
    return part.before + same[1]


def _behind_first_header(part: Part) -> int | None:
    r"""Begin behind a header without what parts it from an earlier message: a conversation that an answer opens.

    `Falcon: Hello\nUser: Hi` where the header of the history is `\nFalcon: ` (Falcon)
            ^
    """
    opening, header = part.whole.scaffold[: part.begin], part.profile.history_header.strip()
    if part.index or not header or opening.count(header) != 1:
        return None
    return opening.index(header) + len(header)


def _at_beginning(part: Part) -> int | None:
    r"""Begin behind BOS, where the template writes no header for a first answer: Mistral, `<s>Hello</s>`."""
    opening = part.whole.scaffold[: part.begin]
    bare = opening.removeprefix(part.profile.bos)
    return None if part.index or bare.strip() else len(opening) - len(bare)


def _at_previous_answer(part: Part) -> int | None:
    r"""Begin where the answer before ends, where nothing parts them: two messages in one turn, as Gemma 4 writes them.

    `<|turn>model\nOneTwo<turn|>`
                      ^
    """
    opening = _find_opening(part)
    if not part.index or not opening or not part.first:
        return None
    found = {token for _, _, token in find_control_text(part.gap, part.profile.controls)}
    parted = opening in part.gap or found & {*part.profile.stops}
    joined = part.whole.content_spans[part.first - 1][2] in part.conversation.assistant_indices and not parted
    return part.before if joined else None


START_RULES: tuple[StartRule, ...] = (
    _behind_constant_prompt,
    _behind_rendered_prompt,
    _inside_supplied_text,
    _behind_equal_prompt,
    _behind_shared_header,
    _behind_only_header,
    _behind_prompt_but_for_space,
    _behind_first_header,
    _at_beginning,
    _at_previous_answer,
)


def find_start(part: Part) -> int | None:
    """Return where the turn begins: in front of the part's characters, or in them where the prompt supplies some."""
    start = next((place for rule in START_RULES if (place := rule(part)) is not None), None)
    if start is None or start > part.begin or not part.profile.history_header:
        return start
    again = part.whole.scaffold[start : part.begin].rfind(part.profile.history_header)
    # A header that the prompt leaves out is a header all the same.
    return start if again < 0 else _skip_header_of_history(part, start + again)


def find_resumed(part: Part) -> int | None:
    """Return where a message's turn goes on behind messages of others, such as a tool's answer."""
    prompted = part.conversation.render(part.seen, True, part.index)
    if prompted is None:
        return None
    if part.before <= len(prompted.text) <= part.begin and is_prefix(prompted, part.whole):
        return len(prompted.text)
    seam = prompted.scaffold[
        max((end for _, end, origin in prompted.content_spans if origin != part.index), default=0) :
    ]
    return part.before + len(seam) if seam and part.gap.startswith(seam) else None


def _skip_header_of_history(part: Part, at: int) -> int:
    """Return where the turn begins whose header stands at `at`."""
    prompt = part.profile.prompt
    shared = common_start(prompt, part.whole.scaffold[at : part.begin])
    if at + shared == part.begin:
        return part.begin + _count_supplied(part, prompt[shared:])
    return at + max(len(part.profile.history_header), shared)


def _skip_header(part: Part, start: int) -> int:
    return start + len(header_without_prompt(part.conversation, start, part.begin))


def header_without_prompt(conversation: TracedConversation, start: int, end: int) -> str:
    """Return the header at `start`, if the template never writes it as a prompt."""
    profile = conversation.profile
    ignored = profile.ignores_prompt and not profile.added_prompt
    found = ignored and conversation.whole.scaffold[start:end].startswith(profile.history_header)
    return profile.history_header if found else ""


def _count_supplied(part: Part, rest: str) -> int:
    """Return how many characters of the content the prompt supplies already, such as an opened thought."""
    found = find_control_text(rest, part.profile.controls)
    rest = rest[: found[0][0]] if found else rest  # spelled by a message it is no control token
    return common_start(rest, part.whole.text[part.begin : part.end])


def _find_opening(part: Part) -> str:
    """Return what opens a turn: the first control token of the prompt, or all of the header."""
    opens = find_control_text(part.profile.prompt or part.profile.history_header, part.profile.controls)
    return opens[0][2] if opens else part.profile.history_header


EndRule = Callable[[Part], "int | None"]


def _at_constant_ending(part: Part) -> int | None:
    r"""End behind the ending that every answer has: ChatML, `Hello<|im_end|>`, without the line break behind it."""
    profile = part.profile
    if not (profile.prompt_is_constant and profile.ending):
        return None
    found = find_control_text(part.gap_behind, profile.controls)
    is_whole = part.gap_behind.startswith(profile.ending)
    if not is_whole and not (found and found[0][2] in profile.stops):
        return None
    return part.end + max(found[0][1], len(profile.ending) * is_whole)


def _at_ending_alone(part: Part) -> int | None:
    r"""End behind the stop token that the turn has when nothing follows: Mistral, `[INST] Hi[/INST] Hello</s>`."""
    stop = find_stop(part.tail, part.profile)
    return part.end + stop if stop is not None and part.gap_behind.startswith(part.tail[:stop]) else None


def _at_stop_of_history(part: Part) -> int | None:
    r"""End behind the first stop token, where the next message ends the turn: gpt-oss.

    Last:    `<|channel|>final<|message|>Hello<|return|>`
    History: `<|channel|>final<|message|>Hello<|end|><|start|>user`
    """
    found = find_control_text(part.gap_behind, part.profile.stops) if part.profile.stops else []
    return part.end + found[0][1] if found else None


END_RULES: tuple[EndRule, ...] = (_at_constant_ending, _at_ending_alone, _at_stop_of_history)


def find_end(part: Part) -> tuple[int, bool]:
    """Return where the turn ends, between the part's last character and the next content; and if it stops.

    A turn without a stop token ends where what follows it alone and in the conversation differ: `[assistant] Hi\n`.
    """
    for rule in END_RULES:
        place = rule(part)
        if place is not None:
            return place, True
    return part.end + common_start(part.tail, part.gap_behind), False
