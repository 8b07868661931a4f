"""The rules that find where a turn begins, strongest evidence first.

A rule looks at one part of a turn: a run of characters of one message, with what the template wrote before it. It
returns a place in the rendered text, or None where it does not apply; the first place counts.
"""

from __future__ import annotations

from collections.abc import Callable

from llama_padfix.chat.spans.parts import Part, TracedConversation
from llama_padfix.chat.tag_pairs import TAG, cut_empty_block, is_pair
from llama_padfix.chat.trace import common_start, find_header_end, is_prefix
from llama_padfix.tokens.control import find_control_text

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


def _behind_closed_answer(part: Part) -> int | None:
    r"""Begin behind what closes the answer before, where no header parts two answers: `Hello</s> More</s>`.
    ^
    """
    closing, whole = part.profile.between_answers, part.whole
    if closing is None or part.index - 1 not in part.conversation.assistant_indices:
        return None
    if not closing:
        return part.before if part.first and whole.content_spans[part.first - 1][2] == part.index - 1 else None
    return part.before + part.gap.rindex(closing) + len(closing) if closing in part.gap else None


def _behind_rendered_prompt(part: Part) -> int | None:
    r"""Begin where the conversation up to the turn ends, rendered with a prompt: a prompt that depends on messages.

    Prompted:     `<|user|>Hi<|end|><|assistant|>`
    Conversation: `<|user|>Hi<|end|><|assistant|>Hello<|end|>` (Phi 3)
                                                 ^
    """
    if part.constant_seam is not None:  # the gap does not hold that prompt
        return None
    if part.prompted is None or part.begin < part.prompted.length or not part.prompted.is_beginning:
        return None
    return _skip_header(part, part.prompted.length)


def _inside_supplied_text(part: Part) -> int | None:
    r"""Begin in the content, where the prompt writes its first characters: DeepSeek R1, QwQ, Qwen 3.5.

    Prompted:     `<|im_start|>assistant\n<think>\n`
    Conversation: `<|im_start|>assistant\n<think>\nHm\n</think>` (a content that holds its thought)
                                                   ^
    """
    shared = common_start(part.seam, part.gap)
    if not part.is_prompted or shared < len(part.gap):
        return None
    return _behind_supplied(part, part.seam[shared:])


def _behind_supplied(part: Part, rest: str) -> int:
    """Return where a turn begins whose prompt writes `rest` behind all that stands in front of the message."""
    supplied = _count_supplied(part, rest)
    return part.begin + supplied if supplied else part.before + _find_open_block(part.gap, rest)


def _find_open_block(gap: str, rest: str) -> int:
    r"""Return where the block opens that the prompt closes and the message fills, or the end of the gap.

    Prompted:     `<|im_start|>assistant\n<think>\n\n</think>\n\n`
    Conversation: `<|im_start|>assistant\n<think>\nHm\n</think>\n\nHello<|im_end|>`
                                         ^
    """
    closing = TAG.search(rest)
    opening = list(TAG.finditer(gap))[-1:]
    is_block = closing is not None and opening and is_pair(opening[0].group(), closing.group())
    return opening[0].start() if is_block else len(gap)


def _behind_equal_prompt(part: Part) -> int | None:
    r"""Begin behind what the prompt writes last, where the text before it differs: Qwen 3, whose history lacks thoughts.

    Prompted:     `...<think>\nHm\n</think>\n\nOne<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n`
    Conversation: `...One<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\nTwo<|im_end|>`
                                                                                              ^
    """  # noqa: E501
    seam = part.seam
    return _skip_header(part, part.before + len(seam)) if seam and part.gap.startswith(seam) else None


def _behind_whole_header(part: Part) -> int | None:
    r"""Begin behind a header that the prompt extends, or that differs from it in white space.

    Prompted:     `<|A|><think></think>`     `### Question:\nHi\n### Answer:`
    Conversation: `<|A|></think>Hello`       `### Question:\nHi\n\n### Answer:\nHello`
                                ^                                             ^
    """
    end = find_header_end(part.seam, part.gap) if part.is_prompted else None
    if end is None or (part.profile.find_header(part.gap) is None and _at_previous_answer(part) is not None):
        return None
    header = part.profile.history_header
    known = part.gap.rfind(header) + len(header) if header and header in part.gap else end
    if known != end and not part.gap[min(known, end) : max(known, end)].strip():  # white space behind the header
        return part.before + known
    prompt, opening = part.profile.prompt.lstrip(), cut_empty_block(header).lstrip()
    if end < len(part.gap) or not opening or opening not in part.gap or not prompt.startswith(opening):
        return part.before + end
    return _behind_supplied(part, prompt[common_start(prompt, part.gap[part.gap.rfind(opening) :]) :])


def _behind_shared_header(part: Part) -> int | None:
    r"""Begin where prompt and history part, behind the header: Nemotron 3, whose history holds empty thoughts.

    Prompted:     `<|im_start|>assistant\n<think>\n`
    Conversation: `<|im_start|>assistant\n<think></think>Hello<|im_end|>`
                                                 ^
    """
    shared, header = part.seam[: common_start(part.seam, part.gap)], part.profile.history_header
    return part.before + len(shared) if header and header in shared else None


def _behind_shared_opening(part: Part) -> int | None:
    r"""Begin where prompt and history part, behind what opens the turn: a thought where the prompt ends an empty one.

    Prompted:     `<assistant>\n</think>`
    Conversation: `<assistant>\n<think>\nHm\n</think>\nHello</assistant>`
                               ^
    """
    shared = part.seam[: common_start(part.seam, part.gap)]
    at = part.seam.rfind(_find_opening(part))
    opened = shared[at:]
    if at < 0 or not any(char.isalnum() for char in opened):
        return None
    if opened.strip() in part.profile.role_headers.get("user", ""):  # both open with the same words
        return None
    return part.before + len(shared)


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


def _behind_opened_block(part: Part) -> int | None:
    r"""Begin at the block that the prompt closes and the message fills, where no prompt is rendered before it.

    Prompt:       `<|im_start|>assistant\n<think>\n\n</think>\n\n`
    Conversation: `<|im_start|>assistant\n<think>\nHm\n</think>\n\nHello<|im_end|>`
                                         ^
    """
    prompt, opening = part.profile.prompt.lstrip(), _find_opening(part)
    own = part.gap[part.gap.rfind(opening) :] if opening and opening in part.gap else ""
    if not any(char.isalnum() for char in own) or not prompt.startswith(own):
        return None
    start = _behind_supplied(part, prompt[len(own) :])
    return None if start == part.begin else start


def _behind_first_header(part: Part) -> int | None:
    r"""Begin behind a header without what parts it from an earlier message: a conversation that an answer opens.

    `Falcon: Hello\nUser: Hi` where the header of the history is `\nFalcon: ` (Falcon)
            ^
    Where the template's own words hold it too, it is the one that stands in front of a plain answer.
    """
    opening = part.whole.scaffold[: part.begin]
    for header in (part.profile.history_header.lstrip(), part.profile.history_header.strip()):
        if not part.index and header and opening.count(header) == 1:
            return opening.index(header) + len(header)
    at = None if part.index else part.conversation.header_start
    return None if at is None else _skip_header_of_history(part, at)


def _at_beginning(part: Part) -> int | None:
    r"""Begin behind BOS, where the template writes no header for a first answer: Mistral, `<s>Hello</s>`.

    What stands in front of a first question too, such as a list of tools, is no answer's either.
    """
    opening = part.whole.scaffold[: part.begin]
    bare = opening.removeprefix(part.profile.bos)
    if part.index or not bare.strip():
        return None if part.index else len(opening) - len(bare)
    return part.conversation.bare_start


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
    _behind_closed_answer,
    _behind_rendered_prompt,
    _inside_supplied_text,
    _behind_equal_prompt,
    _behind_whole_header,
    _behind_shared_header,
    _behind_only_header,
    _behind_shared_opening,
    _behind_opened_block,
    _behind_first_header,
    _at_beginning,
    _at_previous_answer,
)


def find_start(part: Part) -> int | None:
    """Return where the turn begins: in front of the part's characters, or in them where the prompt supplies some."""
    start = next((place for rule in START_RULES if (place := rule(part)) is not None), None)
    if start is None or start > part.begin or not part.profile.history_header:
        return start
    own, header = part.whole.scaffold[start : part.begin], part.profile.history_header
    # A header that the prompt leaves out is a header all the same.
    if header in own:
        return _skip_header_of_history(part, start + own.rfind(header))
    for bare in (header.lstrip(), header.strip()):
        if bare and bare in own:
            return start + own.rfind(bare) + len(bare)
    opening = _find_opening(part)
    return _behind_opened_block(part) if opening and opening in own else start


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
    prompt, header = part.profile.opened, part.profile.history_header
    end, at = at + len(header), at + len(header) - len(header.lstrip())
    shared = common_start(prompt, part.whole.scaffold[at : part.begin])
    if at + shared == part.begin:
        return max(end, _behind_supplied(part, prompt[shared:]))
    return max(end, at + shared)


def _skip_header(part: Part, start: int) -> int:
    return start + len(header_without_prompt(part.conversation, start, part.begin))


def header_without_prompt(conversation: TracedConversation, start: int, end: int) -> str:
    """Return the header at `start`, if the template never writes it as a prompt."""
    profile = conversation.profile
    ignored = profile.ignores_prompt and not profile.added_prompt
    found = ignored and conversation.whole.scaffold[start:end].startswith(profile.history_header)
    return profile.history_header if found else ""


def _count_supplied(part: Part, rest: str) -> int:
    """Return how many characters of the content the prompt supplies already, such as an opened thought.

    It supplies all that it writes, but for white space behind a tag, or nothing: a content may share its first word.
    """
    found = find_control_text(rest, part.profile.controls)
    rest = rest[: found[0][0]] if found else rest  # spelled by a message it is no control token
    supplied = common_start(rest, part.whole.text[part.begin : part.after])
    return supplied if supplied >= len(rest.rstrip() if rest.rstrip().endswith(">") else rest) else 0


def _find_opening(part: Part) -> str:
    """Return what opens a turn: the first control token of the prompt, or all of the header."""
    opens = find_control_text(part.profile.prompt or part.profile.history_header, part.profile.controls)
    return opens[0][2] if opens else cut_empty_block(part.profile.history_header)
