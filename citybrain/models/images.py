"""Images: encoded files to RGB arrays, safely, and to the square that a model sees and back."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from citybrain.core.errors import BadMedia
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array

MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
GREY = 114  # the field's usual colour of the bands around a letterboxed image

_MAGIC = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "WEBP": b"RIFF",
    "BMP": b"BM",
}
_ORIENTATION = 0x0112  # the EXIF tag
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Fit:
    """Where an image of `width` x `height` lies in a square of `size`: inner box and its corner."""

    width: int
    height: int
    size: int

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height of the scaled image inside the square."""
        scale = self.size / max(self.width, self.height)
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))

    @property
    def corner(self) -> tuple[int, int]:
        """Left and top edge of the scaled image inside the square."""
        wide, high = self.inner
        return (self.size - wide) // 2, (self.size - high) // 2

    def back(self, boxes: Array) -> Array:
        """Boxes `[k,4]` (x1, y1, x2, y2) in the square to pixels of the original, clipped."""
        (wide, high), (left, top) = self.inner, self.corner
        scale = np.array([self.width / wide, self.height / high] * 2, np.float32)
        moved = (boxes - np.array([left, top] * 2, np.float32)) * scale
        limit = np.array([self.width, self.height] * 2, np.float32)
        clipped: Array = np.clip(moved, 0.0, limit).astype(np.float32)
        return clipped


def image_size(raw: bytes, index: int = 0) -> tuple[int, int]:
    """Width and height as a person sees the image, from its header alone."""
    image = _open(raw, index)
    wide, high = image.size
    return (high, wide) if _orientation(image) in _SIDEWAYS else (wide, high)


def decode(raw: bytes, index: int = 0, *, at_least: int = 0) -> Array:
    """An encoded image as RGB UINT8 `[h,w,3]`, upright; BadMedia names the item.

    With `at_least`, a large JPEG may come out at a half, a quarter or an eighth of its size, as
    long as its shorter side keeps that many pixels: much cheaper for a model of a small input.
    """
    image = _open(raw, index)
    if at_least and image.format in ("JPEG", "MPO"):
        # Never below the wanted size; `draft` may not change the mode of CMYK or grey files.
        image.draft(None, (at_least, at_least))
    orientation = _orientation(image)
    try:
        image.load()
        rgb = _to_rgb(image)
    except Exception as error:
        # Pillow's decoders raise a dozen kinds of error for broken bytes.
        raise BadMedia(f"Item {index}: the image is broken or cut off.") from error
    return _upright(rgb, orientation)


def letterbox(image: Array, size: int) -> Array:
    """The image scaled into a grey square, its shape kept, UINT8 `[size,size,3]`; see `Fit`."""
    fit = Fit(image.shape[1], image.shape[0], size)
    (wide, high), (left, top) = fit.inner, fit.corner
    square = np.full((size, size, 3), GREY, np.uint8)
    square[top : top + high, left : left + wide] = resize(image, wide, high)
    return square


def resize(image: Array, width: int, height: int) -> Array:
    """The image at exactly this size, its shape not kept."""
    if image.shape[:2] == (height, width):
        return image
    with needs():
        from PIL import Image
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(small)


def encode_png(image: Array) -> bytes:
    """RGB UINT8 `[h,w,3]` as a PNG file."""
    with needs():
        from PIL import Image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _open(raw: bytes, index: int) -> Any:
    """A lazily opened Pillow image whose format and size were checked, nothing decoded yet."""
    with needs():
        from PIL import Image
    if len(raw) > MAX_BYTES:
        raise BadMedia(f"Item {index}: an image may have at most {MAX_BYTES // 10**6} MB.")
    kind = next((name for name in FORMATS if raw.startswith(_MAGIC[name])), "")
    if not kind or (kind == "WEBP" and raw[8:12] != b"WEBP"):
        raise BadMedia(
            f"Item {index}: not an image of a known format.",
            hint="Send JPEG, PNG, WebP or BMP.",
        )
    try:
        image = Image.open(io.BytesIO(raw), formats=(kind,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many(index) from error
    except Exception as error:
        raise BadMedia(f"Item {index}: the image is broken or cut off.") from error
    # MPO: a JPEG with a second picture behind it, as phones write.
    if image.format != kind and not (kind == "JPEG" and image.format == "MPO"):
        raise BadMedia(f"Item {index}: not an image of a known format.")
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise _too_many(index)
    return image


def _too_many(index: int) -> BadMedia:
    return BadMedia(f"Item {index}: an image may have at most {MAX_PIXELS // 10**6} megapixels.")


def _orientation(image: Any) -> int:
    """The EXIF orientation, 1 to 8; a broken or absent EXIF block means upright."""
    try:
        value = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1
    return value if 1 <= value <= 8 else 1


def _upright(image: Array, orientation: int) -> Array:
    """Undo the camera's rotation and mirroring (EXIF 2.32, table of tag 274)."""
    if orientation in _SIDEWAYS:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _to_rgb(image: Any) -> Array:
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would cut them at 255
        grey = (np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
