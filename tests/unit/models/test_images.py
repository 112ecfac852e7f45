"""Decoding strangers' images, and the way to the model's square and back."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from citybrain.core.errors import BadMedia
from citybrain.models.images import GREY, Fit, decode, encode_png, image_size, letterbox


def encoded(picture, kind, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def halves(height=40, width=60):
    """Left half red, right half blue, a green stripe along the top."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0] = 250
    picture[:, width // 2 :, 2] = 250
    picture[: height // 4] = (0, 250, 0)
    return picture


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_formats_come_back_as_they_were(kind):
    assert np.array_equal(decode(encoded(halves(), kind)), halves())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_back_nearly_as_they_were(kind):
    found = decode(encoded(halves(), kind, quality=95))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - halves()).mean() < 12


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(kind):
    with pytest.raises(BadMedia, match="Item 3: not an image of a known format"):
        decode(encoded(halves(), kind), 3)


def test_a_format_in_the_coat_of_another_is_refused():
    png_magic = b"\x89PNG\r\n\x1a\n"
    with pytest.raises(BadMedia, match="Item 0"):
        decode(png_magic + encoded(halves(), "BMP"))
    with pytest.raises(BadMedia, match="known format"):
        decode(b"RIFF\x00\x00\x00\x00WAVE" + bytes(50))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_cut_off_image_is_refused_with_its_number(kind):
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)
    raw = encoded(noise, kind)
    with pytest.raises(BadMedia, match="Item 7: the image is broken or cut off"):
        decode(raw[: len(raw) * 2 // 3], 7)


@given(st.binary(max_size=200), st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]), st.integers(0, 99))
def test_broken_bytes_never_crash(junk, kind, percent):
    raw = encoded(halves(), kind)
    at = len(raw) * percent // 100
    with contextlib.suppress(BadMedia):  # any other error fails
        assert decode(raw[:at] + junk + raw[at + len(junk) :]).ndim == 3


def test_a_decompression_bomb_is_refused_from_its_header_alone():
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    def png(side):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        pixels = zlib.compress(bytes(100))
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)

    for side in (7_100, 12_000, 60_000):
        with pytest.raises(BadMedia, match="at most 50 megapixels"):
            decode(png(side))
        with pytest.raises(BadMedia, match="at most 50 megapixels"):
            image_size(png(side))


def test_a_file_of_more_than_20_megabytes_is_refused():
    with pytest.raises(BadMedia, match="at most 20 MB"):
        decode(b"\xff\xd8\xff" + bytes(20_000_001))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation):
    upright = halves()
    as_stored = {  # what a camera stores so that this tag turns it upright
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(np.ascontiguousarray(as_stored), "PNG", exif=exif)
    assert np.array_equal(decode(raw), upright)
    assert image_size(raw) == (60, 40)


def test_grey_palette_transparent_and_deep_images_become_rgb():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decode(encoded(grey, "PNG"))[..., 1], grey)
    deep = encoded(grey.astype(np.uint16) * 256, "PNG")
    assert np.array_equal(decode(deep)[..., 2], grey)
    file = io.BytesIO()
    Image.fromarray(halves()).convert("P").save(file, "PNG", transparency=0)
    assert decode(file.getvalue()).shape == (40, 60, 3)
    file = io.BytesIO()
    Image.fromarray(halves()).convert("CMYK").save(file, "JPEG")
    assert decode(file.getvalue()).shape == (40, 60, 3)


def test_a_large_jpeg_may_be_decoded_smaller_but_never_below_the_wanted_size():
    raw = encoded(np.full((1200, 1600, 3), 90, np.uint8), "JPEG")
    height, width, _ = decode(raw, at_least=192).shape
    assert 192 <= height < 1200
    assert width / height == pytest.approx(4 / 3, abs=0.02)
    assert image_size(raw) == (1600, 1200)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([32, 192, 640]))
def test_a_box_comes_back_from_the_square_to_where_it_was(width, height, size):
    fit = Fit(width, height, size)
    (wide, high), (left, top) = fit.inner, fit.corner
    assert 0 <= left <= size - wide
    assert 0 <= top <= size - high
    box = np.array([[0.25 * width, 0.5 * height, 0.75 * width, height]])
    inside = box * ([wide / width, high / height] * 2) + ([left, top] * 2)
    assert fit.back(inside) == pytest.approx(box, rel=1e-3, abs=1e-2 * max(width, height) / size)


def test_a_letterboxed_image_keeps_its_shape_between_grey_bands():
    square = letterbox(np.full((20, 40, 3), 200, np.uint8), 64)
    assert square.shape == (64, 64, 3)
    assert (square[:16] == GREY).all()
    assert (square[48:] == GREY).all()
    assert (square[16:48] == 200).all()


def test_a_png_that_we_write_reads_back():
    assert np.array_equal(decode(encode_png(halves())), halves())
