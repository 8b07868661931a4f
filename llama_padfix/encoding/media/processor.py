"""What a processor makes of media and of the placeholders for them, by its own code alone.

A processor is one call from text and media to everything that the model takes. Its tokenizer is replaced in a copy for
each use: by one that keeps the text with its placeholders written out, or by one that gives ids that exist already.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.media.values import KINDS, Medium

if TYPE_CHECKING:
    from typing import TypeGuard

    import torch

_FENCE = "\ue000"  # stands around each placeholder while it is written out; a private character of no meaning
_PARTS = {"image": "image_processor", "video": "video_processor", "audio": "feature_extractor"}


def is_processor(value: object) -> TypeGuard[Any]:  # transformers.ProcessorMixin
    """Return True for a processor of transformers: it holds a tokenizer and parts for media."""
    inner = getattr(value, "tokenizer", None)
    return hasattr(inner, "get_vocab") and any(getattr(value, part, None) is not None for part in _PARTS.values())


class MediaReader:
    """Calls a processor, which stays as it is."""

    def __init__(self, processor: Any) -> None:  # transformers.ProcessorMixin
        self.processor = processor
        self.name = type(processor).__name__
        self.tokens = {
            kind: str(token)
            for kind in KINDS
            if (token := _find_token(processor, kind)) is not None
            and getattr(processor, _PARTS[kind], None) is not None
        }
        """The text that the chat template writes for a medium, by kind."""
        if not self.tokens:
            raise PadfixError(
                f"{self.name} has no image_token, video_token or audio_token, so nothing shows where its media stand. "
                "Train it on text with its tokenizer: prepare(processor.tokenizer, model)"
            )
        self._known: dict[tuple[str, tuple[int, int]], str] = {}

    def write_out(self, media: Sequence[Medium]) -> list[str]:
        """Return what the processor writes in the place of each placeholder: its tokens, as many as the medium needs.

        That of an image is kept for images of the same size, which alone decides it; batches are compared again.
        """
        keys = [(medium.kind, size) if (size := medium.size()) else None for medium in media]
        if not all(key in self._known for key in keys):
            texts: list[str] = []

            def keep(text: Sequence[str]) -> Any:  # a BatchEncoding
                texts.extend(text)
                return self._tokenize(text)

            skeleton = _FENCE + "".join(self.name_token(medium) + _FENCE for medium in media)
            self._call(keep, [skeleton], [media])
            written = texts[0].split(_FENCE)[1:-1] if texts else []
            if len(written) != len(media):
                raise PadfixError(
                    f"{self.name} does not write out its placeholders one by one, so that the place of each is not "
                    f"known. Update transformers, or train on text: prepare(processor.tokenizer, model)"
                )
            self._known |= {key: text for key, text in zip(keys, written, strict=True) if key is not None}
            return written
        return [self._known[key] for key in keys if key is not None]

    def encode(self, text: str, media: Sequence[Medium]) -> list[int]:
        """Return the ids that the processor itself makes of a rendered text and its media.

        Its tokenizer puts a BOS in front where the text has none, as `processor.apply_chat_template` has it.
        """
        bos = self.processor.tokenizer.bos_token
        outputs = self._call(None, [text], [media], add_special_tokens=not (bos and text.startswith(bos)))
        return [int(token) for token in outputs["input_ids"][0]]

    def collate(
        self, ids: torch.Tensor, mask: torch.Tensor, media: Sequence[Sequence[Medium]]
    ) -> dict[str, torch.Tensor]:
        """Return what the processor makes of rows of ids with their media, `ids` and `mask` (rows, width) included.

        Raises:
            PadfixError: A medium needs another number of tokens than the row holds.
        """

        def give(texts: Sequence[str]) -> Any:  # a BatchEncoding
            from transformers import BatchEncoding

            for row, text in enumerate(texts):
                self._compare(ids[row], text, row)
            # Some processors (Idefics 3) ask where the text that they wrote out stands.
            places = self._tokenize(texts).encodings
            return BatchEncoding({"input_ids": ids.tolist(), "attention_mask": mask.tolist()}, encoding=places)

        skeletons = ["".join(self.name_token(medium) for medium in row) for row in media]
        outputs = dict(self._call(give, skeletons, media))
        return {**outputs, "input_ids": ids, "attention_mask": mask}

    def _compare(self, ids: torch.Tensor, text: str, row: int) -> None:
        for kind, token in self.tokens.items():
            needed = text.count(token)
            held = int((ids == self.processor.tokenizer.convert_tokens_to_ids(token)).sum())
            if held != needed:
                raise PadfixError(
                    f"Row {row} of the batch has {held} tokens {token}, and its {kind}s now need {needed}: they are "
                    f"not those with which the row was encoded, or {self.name} has other settings. Encode the rows "
                    "again: prepare(processor, model).encode(dataset)"
                )

    def name_token(self, medium: Medium) -> str:
        """Return the placeholder of a medium. Raises `PadfixError` for a kind that the processor does not read."""
        if medium.kind not in self.tokens:
            raise PadfixError(
                f"{medium.where} is of kind {medium.kind}, and {self.name} reads {' and '.join(self.tokens)} only. "
                "Use a model that reads it, or drop the row: on_error='drop'"
            )
        return self.tokens[medium.kind]

    def _tokenize(self, texts: Sequence[str]) -> Any:  # a BatchEncoding
        return self.processor.tokenizer(list(texts), add_special_tokens=False, padding=False, truncation=False)

    def _call(
        self,
        tokenize: Callable[[Sequence[str]], Any] | None,
        texts: list[str],
        media: Sequence[Sequence[Medium]],
        **settings: object,
    ) -> Mapping[str, Any]:  # tensors by name
        """Call a copy of the processor with texts and the media of each; `tokenize` takes its tokenizer's place."""
        reader = copy.copy(self.processor)
        if tokenize is not None:
            reader.tokenizer = _StandIn(self.processor.tokenizer, tokenize)
        arguments = _arrange(media, getattr(self.processor, "feature_extractor", None))
        try:
            outputs: Mapping[str, Any] = reader(text=texts, return_tensors="pt", **settings, **arguments)
        except PadfixError:
            raise
        except Exception as error:  # a processor is a program of its model's maker: it may raise anything
            kinds = " and ".join(dict.fromkeys(medium.kind for row in media for medium in row)) or "text"
            fix = "Check one by hand: processor(text=processor.image_token, images=[image])"
            if any(media) and not all(media):
                fix = (
                    "Rows without media stand beside rows with some, which older versions refuse. Run: pip install -U "
                    "transformers, or leave one kind out: dataset.filter(lambda row: row['images'])"
                )
            raise PadfixError(
                f"{self.name} refuses the row's {kinds}: {type(error).__name__}: {error}. {fix}"
            ) from error
        return outputs


def _find_token(processor: Any, kind: str) -> object:  # a processor; a text, or an AddedToken
    """Return what stands for a medium in a rendered text."""
    if kind == "image" and hasattr(processor, "full_image_sequence"):
        return processor.boi_token  # of Gemma 3, whose `image_token` is another one before transformers 5
    return getattr(processor, f"{kind}_token", None)


class _StandIn:
    """A tokenizer in whose place a function is called; everything else is the tokenizer's."""

    def __init__(self, tokenizer: Any, tokenize: Callable[[Sequence[str]], Any]) -> None:  # of any class
        self._tokenizer, self._tokenize = tokenizer, tokenize

    def __call__(self, text: str | Sequence[str], *_: object, **settings: object) -> Any:  # a BatchEncoding
        found = self._tokenize([text] if isinstance(text, str) else text)
        return found.convert_to_tensors(settings.get("return_tensors"))

    def __getattr__(self, name: str) -> Any:  # of any type
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._tokenizer, name)


def _arrange(media: Sequence[Sequence[Medium]], sound_reader: Any) -> dict[str, object]:  # a feature extractor
    """Return the media of rows as the keywords of a processor's call: images and videos by row, sounds flat."""
    arguments: dict[str, object] = {}
    for kind, name in (("image", "images"), ("video", "videos")):
        loaded = [[medium.load() for medium in row if medium.kind == kind] for row in media]
        if any(loaded):
            arguments[name] = loaded
    sounds = [medium for row in media for medium in row if medium.kind == "audio"]
    if sounds:
        rate = getattr(sound_reader, "sampling_rate", None)
        arguments["audio"] = [_resampled(medium, rate) for medium in sounds]
        arguments["sampling_rate"] = rate
    return arguments


def _resampled(medium: Medium, rate: int | None) -> Any:  # samples of shape (samples,)
    """Return the samples of a sound, which must come at the processor's rate."""
    samples, own = medium.load()
    if own is not None and rate is not None and own != rate:
        raise PadfixError(
            f"{medium.where} has {own} samples a second, and the processor takes {rate}. Let `datasets` convert them: "
            f"dataset.cast_column('audio', datasets.Audio(sampling_rate={rate}))"
        )
    return samples
