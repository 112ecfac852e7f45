"""Passwords, one-time codes, and the picture that carries their secret."""

import base64
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pyotp
import pytest

from citybrain.core.errors import WeakPassword
from citybrain.platform import factors


def test_a_password_is_known_again_and_its_hash_says_how_it_was_made():
    hashed = factors.hash_password("correct horse battery")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert factors.matches(hashed, "correct horse battery")
    assert not factors.matches(hashed, "correct horse batter")
    assert not factors.matches("", "x")
    assert not factors.is_dated(hashed)
    assert factors.is_dated(hashed.replace("m=19456", "m=8192"))
    assert hashed != factors.hash_password("correct horse battery")


def test_a_one_time_password_is_long_and_can_be_read_out():
    made = {factors.one_time_password() for _ in range(200)}
    assert len(made) == 200
    assert all(re.fullmatch(r"([2-9a-hkmnp-z]{5}-){3}[2-9a-hkmnp-z]{5}", one) for one in made)


@pytest.mark.parametrize("bad", ["", "short", "abababababababab", "my-name-is-li-na!", "x" * 201])
def test_a_weak_password_is_refused(bad):
    with pytest.raises(WeakPassword):
        factors.check_strength("li-na", bad)
    factors.check_strength("li-na", "四个词放在一起就很好了吧")


def test_the_code_of_now_of_before_and_of_after_is_taken_and_no_other():
    secret, at = factors.new_secret(b"seed"), datetime(2026, 11, 20, 8, tzinfo=UTC)
    step = int(at.timestamp()) // factors.STEP
    for ahead in range(-3, 4):
        code = pyotp.TOTP(secret).at(at + timedelta(seconds=ahead * factors.STEP))
        assert factors.step_of(secret, code, at) == (step + ahead if abs(ahead) <= 1 else 0)
        assert factors.step_of(secret, f" {code[:3]} {code[3:]}", at) == (
            step + ahead if abs(ahead) <= 1 else 0
        )
    for code in ("", "12345", "1234567", "é", "abcdef"):
        assert factors.step_of(secret, code, at) == 0


def test_a_secret_is_sealed_for_one_person_and_one_pepper():
    sealed = factors.seal(b"pepper", "li-na", "SECRET")
    assert "SECRET" not in sealed
    assert sealed != factors.seal(b"pepper", "li-na", "SECRET")
    assert factors.unseal(b"pepper", "li-na", sealed) == "SECRET"
    for pepper, name, text in (
        (b"other", "li-na", sealed), (b"pepper", "wang", sealed), (b"pepper", "li-na", sealed[:-8]),
        (b"pepper", "li-na", "no base64!"), (b"pepper", "li-na", ""),
    ):  # fmt: skip
        assert factors.unseal(pepper, name, text) == ""


def drawn(svg, scale=8):
    """The pixels of a QR code whose dark modules are strokes of one path."""
    side = int(re.search(r'viewBox="0 0 (\d+) ', svg)[1])
    found = np.full((side, side), 255, np.uint8)
    x = y = 0.0
    for move, right, down, line in re.findall(
        r"([Mm])(-?[\d.]+) (-?[\d.]+)|h(-?[\d.]+)", re.search(r'stroke="#000" d="([^"]+)"', svg)[1]
    ):
        if move:
            x, y = (
                (float(right), float(down)) if move == "M" else (x + float(right), y + float(down))
            )
        else:
            found[int(y), int(x) : int(x + float(line))] = 0
            x += float(line)
    return found.repeat(scale, 0).repeat(scale, 1)


def test_the_picture_holds_what_an_authenticator_app_reads():
    import cv2

    secret = factors.new_secret(b"seed")
    head, _, data = factors.picture(secret, "li-na").partition(",")
    assert head == "data:image/svg+xml;base64"
    read, _, _ = cv2.QRCodeDetector().detectAndDecode(drawn(base64.b64decode(data).decode()))
    found = pyotp.parse_uri(read)
    assert (found.secret, found.name, found.issuer) == (secret, "li-na", "citybrain")
