"""What a tokenizer and a model really do, found by encoding and rendering, never by trusting an attribute.

`add_bos_token` reads False in transformers 5.x although BOS is added, and a chat template says nothing about
itself; so both are tried out on short probes.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from llama_padfix.observe_model import observe_model, text_config
from llama_padfix.records import Facts, PadfixError, TemplateFacts

__all__ = [
    "call_plainly",
    "check_tokenizer",
    "encode_plain",
    "find_control_text",
    "find_opening",
    "find_rewritable",
    "find_rewritten",
    "find_tags",
    "observe",
    "observe_model",
    "observe_template",
    "render",
    "special_ids",
    "text_config",
    "untouched",
]

# Plain words, so that no template trims, splits or escapes them; each must come out exactly once.
_USER_PROBE = "Probequestion"
_ASSISTANT_PROBE = "Probeanswer"
_LOOKS_LIKE_CONTROL = re.compile(r"<[|\uff5c]\S+>|<\S+[|\uff5c]>|\[/?[A-Z][A-Z_]+\]").fullmatch
_IS_TAG = re.compile(r"[<\[].*\w.*", re.DOTALL).fullmatch  # it begins with a bracket and holds a word
# How the templates of Llama, Mistral, Granite, gpt-oss and others write a date.
_DATE_FORMATS = ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y")


def observe(tokenizer: Any, model: Any = None, *, pad_token: str | None = None, earlier: Facts | None = None) -> Facts:
    """Return the facts about a tokenizer and, when given, its model; changes neither.

    `pad_token` is the pad token that the user asks for, kept in the facts for the checks. `earlier` are facts of the
    same tokenizer whose settings may have changed since, and its model's vocabulary not: copying that takes longer
    than all the rest. Raises `PadfixError` when `tokenizer` is not a Hugging Face tokenizer, or `model` not a model.
    """
    check_tokenizer(tokenizer)
    if earlier is not None and (earlier.vocab_size, earlier.special_ids) == (len(tokenizer), special_ids(tokenizer)):
        vocabulary = earlier.vocabulary
    else:
        vocabulary = tokenizer.get_vocab()
    with untouched(tokenizer):
        bos_added, eos_added = _count_added(tokenizer)
        probe_ids = encode_plain(tokenizer, "Hello world")
        template = observe_template(tokenizer)
    pad_content, controls = tokenizer.pad_token, special_ids(tokenizer)
    return Facts(
        vocab_size=len(tokenizer),
        vocabulary=vocabulary,
        special_ids=controls,
        bos_token=tokenizer.bos_token,
        bos_token_id=tokenizer.bos_token_id,
        eos_token=tokenizer.eos_token,
        eos_token_id=tokenizer.eos_token_id,
        pad_token=pad_content,
        pad_token_id=vocabulary.get(pad_content) if pad_content is not None else None,
        unk_token_id=tokenizer.unk_token_id,
        padding_side=tokenizer.padding_side,
        bos_added=bos_added,
        eos_added=eos_added,
        tokenizer_class=type(tokenizer).__name__,
        probe_ids=tuple(probe_ids),
        probe_text=tokenizer.decode(probe_ids),
        template=template,
        requested_pad_token=pad_token,
        model=observe_model(model, {*controls.values(), *tokenizer.added_tokens_decoder})
        if model is not None
        else None,
    )


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `PadfixError` unless `tokenizer` can encode text and knows its vocabulary."""
    needed = ("get_vocab", "convert_tokens_to_ids", "apply_chat_template")
    missing = [name for name in needed if not hasattr(tokenizer, name)]
    if missing or not callable(tokenizer):
        seen = type(tokenizer).__name__
        if hasattr(tokenizer, "tokenizer"):
            raise PadfixError(
                f"Got a {seen}, which is a processor and not a tokenizer. Pass its tokenizer: processor.tokenizer"
            )
        raise PadfixError(
            f"Got a {seen} where a Hugging Face tokenizer is needed. "
            "Load one: tokenizer = transformers.AutoTokenizer.from_pretrained(name)"
        )


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Return the content and id of every control token: those that encoding cuts out of the text first.

    A named token counts only where it was added as a token: an ordinary piece such as `!`, that somebody pads
    with, is still text.
    """
    named = set(tokenizer.all_special_tokens)
    decoder = tokenizer.added_tokens_decoder
    return {str(token): int(i) for i, token in decoder.items() if token.special or str(token) in named}


def find_tags(tokenizer: Any, source: str) -> tuple[str, ...]:
    """Return the ordinary added tokens with which a template steers the model, such as `<think>` and `<tool_call>`.

    `source` is that of the template. A token counts that stands in it, or that looks like control (`<|...|>`,
    `[CAPITALS]`); words, punctuation, runs of white space and HTML tags, which some vocabularies (Gemma's) add as
    well, are text.
    """
    controls = special_ids(tokenizer)
    contents = (str(token) for token in tokenizer.added_tokens_decoder.values())
    return tuple(
        content
        for content in contents
        if content not in controls and (_LOOKS_LIKE_CONTROL(content) or (_IS_TAG(content) and content in source))
    )


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text without anything added, special tokens in it recognised."""
    return [int(token_id) for token_id in call_plainly(tokenizer, text)["input_ids"]]


def call_plainly(tokenizer: Any, text: str | list[str]) -> Any:
    """Call the tokenizer on a text, or on several, so that it adds and cuts nothing and recognises special tokens."""
    return tokenizer(
        text,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=False,
        verbose=False,  # a warning on a long text is also written into the tokenizer
    )


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Any] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Return the text that the tokenizer's own chat template makes of a conversation."""
    text = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools) if tools is not None else None,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        **(template_kwargs or {}),
    )
    if not isinstance(text, str):
        raise PadfixError(f"apply_chat_template(tokenize=False) gave a {type(text).__name__} instead of a text.")
    return text


def observe_template(tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None) -> TemplateFacts | None:
    """Return what stands around an assistant turn in the chat template; None when there is no template.

    Learned by rendering one question and one answer with and without a generation prompt; `error` says why
    where the template does not let itself be read.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    user = {"role": "user", "content": _USER_PROBE}
    assistant = {"role": "assistant", "content": _ASSISTANT_PROBE}
    try:
        whole = render(tokenizer, [user, assistant], template_kwargs=template_kwargs)
        asked = render(tokenizer, [user], template_kwargs=template_kwargs)
        prompted = render(tokenizer, [user], add_generation_prompt=True, template_kwargs=template_kwargs)
    except Exception as error:  # a template is somebody else's program: it may raise anything
        return TemplateFacts(error=f"rendering it raised {type(error).__name__}: {error}")
    for probe, text in ((_USER_PROBE, whole), (_ASSISTANT_PROBE, whole), (_USER_PROBE, asked)):
        if text.count(probe) != 1:
            return TemplateFacts(error=f"it writes the content of a message {text.count(probe)} times")

    before, answer_tail = whole.split(_ASSISTANT_PROBE)
    between = before.split(_USER_PROBE)[1]
    asked_tail = asked.split(_USER_PROBE)[1]
    prompted_tail = prompted.split(_USER_PROBE)[1] if prompted.count(_USER_PROBE) == 1 else asked_tail

    controls = special_ids(tokenizer)
    found = find_control_text(answer_tail, tuple(controls))
    stop_token = found[0][2] if found else None
    opening = before.split(_USER_PROBE)[0].removeprefix(tokenizer.bos_token or "").lstrip()
    if stop_token is not None and opening.startswith(stop_token):
        stop_token = None  # what opens the first turn opens the next one too, and ends none
    # The template opened the next assistant turn by itself: what follows the question is what precedes the answer.
    opened = between.partition(stop_token)[2] if stop_token is not None and stop_token in between else between
    always_opens_turn = (
        asked_tail == prompted_tail and asked_tail.rstrip() == between.rstrip() and opened.strip() != ""
    )
    if always_opens_turn:
        header = opened
    elif prompted_tail.startswith(asked_tail) and prompted_tail != asked_tail:
        header = prompted_tail[len(asked_tail) :]
    else:
        # The template ignores add_generation_prompt: what stands before an answer has to do.
        header = between[len(asked_tail) :] if between.startswith(asked_tail) else between
    return TemplateFacts(
        header=header,
        # A header that the history does not repeat (a think tag opened for the model) cannot be searched for.
        header_in_history=bool(header) and header in between,
        header_has_control=bool(find_control_text(header, tuple(controls))),
        stop_token=stop_token,
        stop_token_id=controls[stop_token] if stop_token is not None else None,
        always_opens_turn=always_opens_turn,
        leading_bos=_count_leading(encode_plain(tokenizer, whole), tokenizer.bos_token_id),
        prints_date=_prints_today(whole),
    )


def _prints_today(text: str) -> bool:
    today = datetime.now()
    return any(today.strftime(form) in text for form in _DATE_FORMATS)


def find_control_text(text: str, controls: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """Return (start, end, token) of every control token spelled in a text, the longest where two begin together."""
    if not controls:
        return []
    return [(match.start(), match.end(), match.group()) for match in _pattern(controls).finditer(text)]


@lru_cache(maxsize=32)
def _pattern(controls: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(controls, key=len, reverse=True)))


@lru_cache(maxsize=32)
def find_opening(tokens: tuple[str, ...]) -> str:
    """Return what all control tokens begin with; a text without it spells none."""
    first, last = min(tokens, default=""), max(tokens, default="")
    same = [one == other for one, other in zip(first, last, strict=False)]
    return first[: [*same, False].index(False)]


def find_rewritable(tokenizer: Any, tokens: Sequence[str]) -> tuple[str, ...]:
    """Return those of the added tokens that other text may become: the backend looks for them in normalized text.

    Llama's own tokenizers have no normalizer, and so none.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.normalizer is None:
        return ()
    normalized = {token.content for token in tokenizer.added_tokens_decoder.values() if token.normalized}
    return tuple(token for token in tokens if token in normalized)


def find_rewritten(tokenizer: Any, text: str, rewritable: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return (start, end, token) of every token that encoding makes of a text which spells it otherwise.

    `rewritable` are the tokens to look for, see `find_rewritable`. Found in the ids themselves: which text becomes
    such a token depends on the normalizer, and on all other added tokens.
    """
    [encoding] = call_plainly(tokenizer, [text]).encodings
    wanted = {tokenizer.convert_tokens_to_ids(token): token for token in rewritable}
    wanted.pop(tokenizer.unk_token_id, None)  # any character that the vocabulary lacks becomes that one
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    found = []
    for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        token = wanted.get(token_id)
        if token is None or text[start:end].strip() == token.strip():  # white space may belong to a token
            continue
        # An accent that melts into the last character lies outside the token's offsets.
        while end < len(text) and unicodedata.combining(text[end]) and normalize(text[start:end]) != normalize(token):
            end += 1
        found.append((start, end, token))
    return found


def _count_leading(ids: Sequence[int], token_id: int | None) -> int:
    count = 0
    while token_id is not None and count < len(ids) and ids[count] == token_id:
        count += 1
    return count


@contextlib.contextmanager
def untouched(tokenizer: Any) -> Iterator[None]:
    """Put back what calling a fast tokenizer resets in its backend: truncation, padding, reading of specials."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding, as_text = backend.truncation, backend.padding, backend.encode_special_tokens
    try:
        yield
    finally:
        if truncation != backend.truncation:
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
        if padding != backend.padding:
            backend.enable_padding(**padding) if padding else backend.no_padding()
        backend.encode_special_tokens = as_text


def _count_added(tokenizer: Any) -> tuple[int, int]:
    """Return how many BOS encoding puts before a plain text, and how many EOS after it."""
    with_special = [int(i) for i in tokenizer(_USER_PROBE)["input_ids"]]
    bos_added = _count_leading(with_special, tokenizer.bos_token_id)
    eos_added = _count_leading(with_special[::-1], tokenizer.eos_token_id)
    return bos_added, eos_added
