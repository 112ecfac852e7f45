"""Uploaded forms are bounded: parts, boundaries, and what a parser may be made to do with them."""

import time

import pytest

from citybrain.core.errors import BadJson, CityBrainError, TooLarge
from citybrain.serving.protocols.task import MAX_FILES, decode

KIND = "multipart/form-data; boundary={}"
PART = b'--b\r\ncontent-disposition: form-data; name="f"; filename="f"\r\n\r\n'
END = b"\r\n--b--\r\n"


class Images:
    media = "image"

    def read_media(self, files):
        return files


def read(body, boundary="b"):
    return decode(body, KIND.format(boundary), Images())


def test_a_form_has_so_many_files_and_a_boundary_of_a_line():
    part = PART + b"x\r\n"
    assert read(part * MAX_FILES + END[2:]) == [b"x"] * MAX_FILES
    with pytest.raises(TooLarge):
        read(part * 100_000 + END[2:])
    with pytest.raises(BadJson):
        read(PART + b"x" + END, "b" * 10_000)


@pytest.mark.parametrize(
    "body",
    [PART + b"\r" * (1 << 20) + END, PART + b"\r\n--" * (1 << 18) + END,
     b"\r\n" * (1 << 19) + PART + b"x" + END, b"--b\r\n" + b"h: v\r\n" * 100_000 + b"\r\nx" + END,
     b"--b\r\nh: " + b"v" * (1 << 20) + b"\r\n\r\nx" + END, PART + b"x" + END + b"z" * (1 << 20)],
)  # fmt: skip
def test_forms_made_to_be_slow_are_not(body):
    began = time.process_time()
    try:
        read(body)
    except CityBrainError:
        pass
    assert time.process_time() - began < 1
