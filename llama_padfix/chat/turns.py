"""A conversation's turns: which characters of the rendered text the model itself must produce.

Three strategies are tried. Where the generation prompt cannot depend on the conversation, turns are found in the text
alone. Else the conversation is rendered in a sandbox in which every character keeps its origin; a text equal to the
tokenizer's proves that it is the template's, and turns are looked for among the characters that the template wrote, so
`<|eot_id|>` in a user's message is text and opens or ends nothing. Where that proves nothing, every prefix of the
conversation is rendered; where that proves nothing either, an error gives the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.losses.held import find_losses
from llama_padfix.chat.losses.thoughts import find_quiet_kwargs
from llama_padfix.chat.prefixes import find_by_prefixes
from llama_padfix.chat.profile.template_profile import TemplateProfile, observe_template, read_sources
from llama_padfix.chat.render import ChatTemplate, Rendered, RenderRequest, Turn, render_text
from llama_padfix.chat.spans.by_origin import find_by_origin
from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.control import common_prefix, find_control_text, find_rewritten, find_tags, special_ids

if TYPE_CHECKING:
    from llama_padfix.core.types import Messages, TokenizerLike, Tool


# A template takes any value.
def read_template(tokenizer: TokenizerLike, kwargs: Mapping[str, Any] | None = None) -> ChatTemplate:
    """Return the tokenizer's chat template, probed.

    Args:
        tokenizer: A Hugging Face tokenizer.
        kwargs: The arguments of every rendering.

    Raises:
        PadfixError: There is no template, or it cannot be read.
    """
    kwargs = dict(kwargs or {})
    continues: bool | str = kwargs.pop("continue_final_message", False)
    profile = observe_template(tokenizer, kwargs)
    if profile is None:
        raise PadfixError(
            "The tokenizer has no chat template, so a conversation cannot be rendered. Give it the one of the model "
            "family: tokenizer.chat_template = AutoTokenizer.from_pretrained(instruct_model).chat_template"
        )
    if profile.error is not None and not profile.is_traced:
        raise PadfixError(
            f"The chat template cannot be read: {profile.error}. Check it by hand: "
            "tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hi'}], tokenize=False)"
        )
    source = read_sources(tokenizer, kwargs)
    tags, quiet_kwargs = find_tags(tokenizer, source), find_quiet_kwargs(tokenizer, source, kwargs)
    return ChatTemplate(
        tokenizer, profile, tuple(special_ids(tokenizer)), kwargs, continues, tags, quiet_kwargs, source
    )


def render_turns(
    template: ChatTemplate,
    messages: Messages,
    tools: Sequence[Tool] | None = None,
    trained_indices: Collection[int] | None = None,
    *,
    allow_loss: bool = False,
    rewritable: Sequence[str] = (),
    by_text: bool = True,
) -> Rendered:
    """Return the text of a conversation and the part of it that the model must produce, turn by turn.

    Args:
        template: What `read_template` returned.
        messages: The conversation.
        tools: The tools that the template writes into the prompt.
        trained_indices: The assistant messages whose turns are returned, all by default.
        allow_loss: Report what the template leaves out (a thought, a tool call, a text, a message, a tool) in
            `Rendered.losses` instead of raising.
        rewritable: The control tokens and tags that a normalizer may make of other text (`find_rewritable`); such
            text is `spelled` too.
        by_text: Whether turns may be found in the text alone, which does not show who wrote each character.

    Returns:
        The text, that of `apply_chat_template(messages, tokenize=False)`, and its turns.

    Raises:
        PadfixError: The template refuses the conversation or leaves out a part of it, or it cannot be proven where a
            turn begins and ends.
    """
    assistant_indices = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    _require_roles(messages, template.controls + template.tags)
    text = render_text(template, messages, tools, continues=template.continues)
    request = RenderRequest(
        template,
        messages,
        tools,
        assistant_indices,
        assistant_indices if trained_indices is None else trained_indices,
        text,
        find_rewritten(template.tokenizer, text, rewritable) if rewritable else (),
    )
    refusal: PadfixError | None = None
    for strategy in STRATEGIES[not by_text :]:
        rendered = strategy(request)
        if isinstance(rendered, Rendered):
            losses = find_losses(messages, tools, rendered)
            if losses and not allow_loss:
                raise PadfixError(losses[0].text)
            return replace(rendered, losses=losses) if losses else rendered
        refusal = refusal or rendered
    assert refusal is not None  # the second strategy returns one or the other
    raise refusal


def _find_by_constant_prompt(request: RenderRequest) -> Rendered | None:
    r"""Return the turns of a plain conversation, found in its text alone; None where that proves nothing.

    `<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n` (ChatML, Llama 3)

    Proof: the generation prompt cannot depend on the conversation and holds a control token; no message spells
    one; and each prompt in the text is followed by the next assistant message, whole, and by the stop token.
    """
    template, messages, text = request.template, request.messages, request.text
    prompt, ending = template.profile.prompt, template.profile.ending
    if request.tools is not None or request.rewritten:
        return None
    if not finds_by_prompt(template.profile):
        return None
    if not all(message.keys() == {"role", "content"} and isinstance(message["content"], str) for message in messages):
        return None
    contents = "\0".join([message["content"] for message in messages])
    if common_prefix(template.controls) in contents and find_control_text(contents, template.controls):
        return None
    if template.tags and common_prefix(template.tags) in contents:
        foreign = "\0".join([message["content"] for message in messages if message["role"] != "assistant"])
        if find_control_text(foreign, template.tags):
            return None
    roles = [message["role"] for message in messages]
    if not (has_plain_roles(template.profile, roles) and _is_in_order(messages, text)):
        return None  # a text that the template rewrites may become a control token, or be lost
    turns = []
    position = 0
    for index in request.assistant_indices:
        start = text.find(prompt, position) + len(prompt)
        if start < len(prompt):
            return None
        written = messages[index]["content"]
        for content in (written, written.strip()):
            position = start + len(content) + len(ending)
            if text.startswith(content, start) and text.startswith(ending, start + len(content)):
                break
        else:
            return None
        turns.append(Turn(index, start, position, True))
    if text.count(prompt) != len(turns):
        return None
    return Rendered(text, tuple(turn for turn in turns if turn.message in request.trained_indices), is_whole=True)


def finds_by_prompt(profile: TemplateProfile) -> bool:
    """Return True if the turns of a plain conversation stand behind a prompt that cannot depend on it."""
    is_constant = profile.prompt_is_constant and profile.ending and profile.prompt_has_control
    return bool(is_constant and not (profile.completes_controls or profile.marks_generation))


def has_plain_roles(profile: TemplateProfile, roles: Sequence[str]) -> bool:
    """Return True if the probes show that the template writes messages of these roles."""
    return set(roles[1:]) <= {"user", "assistant"} and roles[0] in profile.role_headers


def _is_in_order(messages: Messages, text: str) -> bool:
    """Return True if a text holds all messages, one behind the other."""
    position = 0
    for message in messages:
        content = message["content"].strip()
        found = text.find(content, position)
        if found < 0:
            return False
        position = found + len(content)
    return True


STRATEGIES: tuple[Callable[[RenderRequest], Rendered | PadfixError | None], ...] = (
    _find_by_constant_prompt,
    find_by_origin,
    find_by_prefixes,
)
"""How turns are found, the strongest evidence first. One that proves nothing returns its error, or None, and the next
is tried; the first error is raised where none proves anything."""


def _require_roles(messages: Messages, controls: tuple[str, ...]) -> None:
    opening = common_prefix(controls)
    for index, message in enumerate(messages):
        role = str(message.get("role"))
        if opening in role and find_control_text(role, controls):
            raise PadfixError(
                f"The role of message {index} spells a control token ({message.get('role')!r}), which the template "
                "would write into its header. Use a role that the template knows: system, user, assistant, tool."
            )
