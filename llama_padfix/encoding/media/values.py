"""An image, a video or a sound as a row holds it, to what a processor takes; nothing is fetched from a network."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.compat import list_feature
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.version import import_package

if TYPE_CHECKING:
    from types import ModuleType

    from PIL.Image import Image

KINDS = ("image", "video", "audio")

_ORIENTATION = 0x0112  # the tag of EXIF; from 5 on, width and height change places
_TURNED = 5
_LONGEST_NAME = 255  # of a file


@dataclass(frozen=True)
class Medium:
    """One image, video or sound of a row."""

    kind: str
    """One of `KINDS`."""
    value: object
    """As the row holds it: a path, an image, bytes, an array."""
    where: str
    """What an error calls it."""
    in_column: bool = False
    """Whether it stands in a column of its own, and not in a message."""

    def open_image(self) -> Image:
        """Return an image of PIL that need not be decoded yet."""
        return _open(self.value, self.where)

    def size(self) -> tuple[int, int] | None:
        """Return width and height of an image as `load` returns it, without decoding it; None for another kind."""
        if self.kind != "image":
            return None
        image = self.open_image()
        turned = image.getexif().get(_ORIENTATION, 1) >= _TURNED
        return (image.height, image.width) if turned else image.size

    def load(self) -> Any:  # what the part of a processor for this kind takes
        """Return the medium decoded.

        That is an RGB image of PIL; a video's path, or its frames, uint8 of shape (frames, height, width, 3); or a
        sound's samples, float32 of shape (samples,), with their rate.
        """
        if self.kind == "image":
            return _to_rgb(self.open_image(), self.where)
        return _load_video(self.value, self.where) if self.kind == "video" else _load_sound(self.value, self.where)

    def store(self) -> Any:  # a value of `make_features`
        """Return the medium as a dataset stores it; a path stays one, and an image in memory becomes a PNG."""
        if self.kind == "image":
            return _store_image(self.value, self.where)
        if self.kind == "audio":
            samples, rate = self.load()
            return {"array": samples, "sampling_rate": rate}
        frames = self.load()
        if isinstance(frames, str):
            raise PadfixError(
                f"{self.where} is a path, which a list of rows cannot keep beside frames. Pass a dataset: "
                "datasets.Dataset.from_list(rows)"
            )
        return [_store_image(frame, self.where) for frame in frames]


def make_features(numbers: Iterable[str], kinds: Iterable[str]) -> Any:  # datasets.Features
    """Return the types of columns of numbers, lists of int32, and of those that hold media of these kinds."""
    import datasets

    sequence = list_feature(datasets)
    sound = {"array": sequence(datasets.Value("float32")), "sampling_rate": datasets.Value("int32")}
    types = {"image": datasets.Image(), "video": sequence(datasets.Image()), "audio": sound}
    lists = dict.fromkeys(numbers, sequence(datasets.Value("int32")))
    return datasets.Features({**lists, **{f"{kind}s": sequence(types[kind]) for kind in kinds}})


def _store_image(value: object, where: str) -> dict[str, object]:
    if isinstance(value, Mapping) and (value.get("bytes") or value.get("path")):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    if isinstance(value, str | os.PathLike):
        value = _read_text(os.fspath(value), where)
    if isinstance(value, str):
        return {"bytes": None, "path": str(Path(value).absolute())}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value), "path": None}
    buffer = io.BytesIO()
    _to_rgb(_open(value, where), where).save(buffer, "PNG", compress_level=1)  # of an image that was changed too
    return {"bytes": buffer.getvalue(), "path": None}


def _import_pil() -> ModuleType:
    return import_package("PIL.Image", "Rows with images need Pillow. Run: pip install pillow")


def _open(value: object, where: str) -> Image:
    """Return an image as transformers' `load_image` opens one, but for addresses of a network."""
    pil = _import_pil()
    if isinstance(value, pil.Image):
        opened: Image = value
        return opened
    if isinstance(value, Mapping):  # as `datasets` stores one
        value = value.get("bytes") or value.get("path") or value.get("url")
    try:
        if isinstance(value, str | os.PathLike):
            value = _read_text(os.fspath(value), where)
        if isinstance(value, bytes | bytearray):
            value = io.BytesIO(value)
        elif hasattr(value, "shape"):
            return _from_array(value, pil)
        return pil.open(value)  # type: ignore[no-any-return]  # an Image
    except PadfixError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise PadfixError(
            f"{where} is {describe(value)}, which is no image that can be read here ({describe(error)}). Give one "
            "of PIL, a path from this folder, or bytes; for a path in another folder, join it first: "
            "dataset.map(lambda row: {'image': os.path.join(folder, row['image'])})"
        ) from error


def _read_text(text: str, where: str) -> str | bytes:
    """Return a path as it is, and what base64 text holds."""
    if text.startswith(("http://", "https://")):
        raise PadfixError(
            f"{where} is the address {describe(text)}, and nothing is fetched from a network. Fetch it first, and "
            "give its path"
        )
    if text.startswith("data:"):
        return base64.b64decode(text.partition(",")[2], validate=True)
    text = text.removeprefix("file://")
    try:
        is_base64 = len(text) > _LONGEST_NAME and not Path(text).is_file()
    except OSError:  # a name that is too long
        is_base64 = True
    return base64.b64decode(text, validate=True) if is_base64 else text


def _from_array(value: Any, pil: ModuleType) -> Image:  # an array or tensor
    import numpy as np

    array = np.asarray(value)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8:
        raise ValueError(f"an array of {array.dtype}, not uint8")
    image: Image = pil.fromarray(array.squeeze())
    return image


def _to_rgb(image: Image, where: str) -> Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # a file that ends too early, for one
        raise PadfixError(f"{where} cannot be decoded: {error}. Drop the row: on_error='drop'") from error


def _load_video(value: object, where: str) -> Any:  # an array or a path
    import numpy as np

    if isinstance(value, str | os.PathLike):
        return _read_text(os.fspath(value), where)
    if isinstance(value, list | tuple):
        frames = [np.asarray(_to_rgb(_open(frame, where), where)) for frame in value]
        if not frames or len({frame.shape for frame in frames}) > 1:
            raise PadfixError(f"{where} has {len(frames)} frames of different sizes. Give frames of one size")
        return np.stack(frames)
    array = np.asarray(value)
    if array.ndim != 4 or array.dtype != np.uint8:
        raise PadfixError(
            f"{where} is {describe(value)}. Give a list of images, or an array of shape (frames, height, width, 3) of "
            "uint8"
        )
    return array


def _load_sound(value: Any, where: str) -> tuple[Any, int | None]:  # of a user's; samples
    import numpy as np

    rate: int | None = None
    try:
        if not isinstance(value, str | os.PathLike | list | tuple) and not hasattr(value, "shape"):
            rate, value = value["sampling_rate"], value["array"]  # as `datasets` decodes one
        array = np.asarray(value, dtype=np.float32)
        if array.ndim != 1:
            raise ValueError(f"shape {array.shape}")
    except (TypeError, ValueError, LookupError) as error:
        raise PadfixError(
            f"{where} is {describe(value)}, which holds no samples ({error}). Give an array of shape (samples,), or "
            "what `datasets` decodes: dataset.cast_column('audio', datasets.Audio(sampling_rate=16000))"
        ) from error
    return array, rate
