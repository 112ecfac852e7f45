"""A signed statement fits what it was made for, and nothing else, however old it is."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from citybrain.core.errors import SignatureWrong
from citybrain.core.signatures import check, sign

KEYS = {name: Ed25519PrivateKey.generate() for name in ("now", "before", "stranger")}
SIGNERS = {name: KEYS[name].public_key().public_bytes_raw().hex() for name in ("now", "before")}
SAID = {"algorithm": "flow", "version": 2, "form": "source", "digest": "d2", "at": "today"}


def signed(key="now", **changes):
    return sign(KEYS[key].private_bytes_raw(), {**SAID, "signer": key, **changes})


def test_a_statement_of_a_trusted_signer_holds_whichever_signed_it():
    for signer in SIGNERS:
        check(signed(signer), "flow", 2, "d2", SIGNERS)
    check(signed(form="onnx"), "flow", 2, "d2", SIGNERS, "onnx")


@pytest.mark.parametrize(
    "old",
    [
        {"version": 1, "digest": "d1"},
        {"version": 1},
        {"digest": "d1"},
        {"algorithm": "other"},
        {"form": "onnx"},
        {"form": "onnx", "digest": "d1"},
    ],
)
def test_a_statement_that_once_held_elsewhere_is_not_replayed_here(old):
    with pytest.raises(SignatureWrong, match="belongs to another"):
        check(signed(**old), "flow", 2, "d2", SIGNERS)


def test_the_statement_of_a_version_is_none_of_its_form():
    with pytest.raises(SignatureWrong, match="The onnx form of flow@2") as refused:
        check(signed(), "flow", 2, "d2", SIGNERS, "onnx")
    assert "citybrain convert flow@2 --to onnx" in refused.value.hint


def test_an_old_statement_ends_with_its_signer():
    old = signed("before")
    check(old, "flow", 2, "d2", SIGNERS)
    with pytest.raises(SignatureWrong, match="revoked"):
        check(old, "flow", 2, "d2", {"now": SIGNERS["now"]})


def test_a_signer_speaks_with_its_own_key_alone():
    with pytest.raises(SignatureWrong, match="does not hold"):
        check(signed("stranger", signer="now"), "flow", 2, "d2", SIGNERS)
    with pytest.raises(SignatureWrong, match="not trusted"):
        check(signed("stranger"), "flow", 2, "d2", SIGNERS)


@pytest.mark.parametrize("text", ["", ".", "[].x", "7.x", "null.", '{"signer": "now"}.x', "x"])
def test_what_is_no_statement_is_refused(text):
    with pytest.raises(SignatureWrong):
        check(text, "flow", 2, "d2", SIGNERS)


@pytest.mark.parametrize("field", ["algorithm", "version", "digest"])
def test_a_statement_that_leaves_something_open_fits_nothing(field):
    body = {**SAID, "signer": "now"}
    del body[field]
    text = json.dumps(body, separators=(",", ":"))
    signature = base64.urlsafe_b64encode(KEYS["now"].sign(text.encode())).decode()
    with pytest.raises(SignatureWrong):
        check(f"{text}.{signature}", "flow", 2, "d2", SIGNERS)
