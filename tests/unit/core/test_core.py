"""Names, keys, shelves, errors and tensor specifications."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybrain.core import home, keys
from citybrain.core.errors import (
    BadTensor,
    CityBrainError,
    GateNotPassed,
    InvalidInput,
    MissingLibrary,
    PluginNotFound,
    Unavailable,
    all_errors,
    error_from,
)
from citybrain.core.home import Home
from citybrain.core.names import Ref, parse_ref
from citybrain.core.shelf import needs
from citybrain.core.tensors import Signature, TensorSpec
from citybrain.models.runtime import RUNTIMES

PEPPER = b"p" * 32


def test_an_unknown_plug_in_suggests_the_nearest():
    with pytest.raises(PluginNotFound, match="Did you mean 'onnx'"):
        RUNTIMES.get("onx")


def test_a_missing_library_says_how_to_install_it():
    with pytest.raises(MissingLibrary, match=r"pip install 'citybrain\[extra\]'"):
        with needs("extra"):
            import no_such_library_at_all  # noqa: F401


@pytest.mark.parametrize(
    ("text", "ref"),
    [("a1", Ref("a1")), ("a-b@champion", Ref("a-b", "champion")), ("a1@7", Ref("a1", "7"))],
)
def test_references_are_read(text, ref):
    assert parse_ref(text) == ref
    assert str(ref) == text


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_a_clear_error(text):
    try:
        ref = parse_ref(text)
    except InvalidInput as error:
        assert error.hint
    else:
        assert str(ref) == text.rstrip("@") or text.endswith("@")


def test_versions_are_numbers_of_ascii_digits_only():
    assert Ref("a1", "12").version == 12
    assert Ref("a1", "x12").version is None
    assert Ref("a1", "²").version is None


def test_a_key_is_recognised_and_a_typing_error_seen():
    key_id, key = keys.new_key("emb")
    assert key.startswith(f"cb_emb_{key_id}_")
    assert not keys.is_mistyped(key)
    swapped = key[:-10] + ("a" if key[-10] != "a" else "b") + key[-9:]
    assert keys.is_mistyped(swapped)
    assert keys.key_digest(PEPPER, key) != keys.key_digest(b"q" * 32, key)


def test_a_thousand_keys_are_a_thousand():
    made = [keys.new_key("emb") for _ in range(1000)]
    assert len({key_id for key_id, _ in made}) == len({key for _, key in made}) == 1000


def test_a_session_is_genuine_until_it_ends():
    token = keys.sign_session(PEPPER, "abc", 60)
    assert keys.read_session(PEPPER, token) == "abc"
    assert keys.read_session(PEPPER, keys.sign_session(PEPPER, "abc", -1)) == ""
    assert keys.read_session(b"q" * 32, token) == ""
    assert keys.read_session(PEPPER, token.replace("abc", "xyz")) == ""


@given(st.text())
def test_no_text_is_a_session_by_accident(text):
    assert keys.read_session(PEPPER, text) == ""


def test_errors_keep_class_and_hint_over_a_pickle_and_over_the_wire():
    error = GateNotPassed("no", hint="train")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message, again.hint) == (GateNotPassed, "no", "train")
    assert type(error_from("gate_not_passed", "no")) is GateNotPassed
    assert type(error_from("from-the-future", "no")) is CityBrainError


def test_every_error_has_a_code_of_its_own():
    classes = list(all_errors().values())
    assert len({c.code for c in classes}) == len(classes)


SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 3)), TensorSpec("t", "INT64", (-1,), True)), ())


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((1, 3))}, "must be FP32, not FP64"),
        ({"x": np.zeros((1, 4), np.float32)}, "shape"),
        ({"x": np.zeros(3, np.float32)}, "shape"),
        ({"x": np.zeros((0, 3), np.float32)}, "no rows"),
        ({"x": np.full((1, 3), np.nan, np.float32)}, "NaN"),
        ({"x": np.zeros((1, 3), np.float32), "z": np.zeros(1)}, "no input 'z'"),
        ({"x": np.zeros((2, 3), np.float32), "t": np.zeros(1, np.int64)}, "1 rows"),
    ],
)
def test_a_signature_names_what_does_not_fit(tensors, says):
    with pytest.raises(BadTensor, match=says):
        SIGNATURE.check_inputs(tensors)


def test_a_signature_counts_rows_with_and_without_the_optional_input():
    x = np.zeros((2, 3), np.float32)
    assert SIGNATURE.check_inputs({"x": x}) == 2
    assert SIGNATURE.check_inputs({"x": x, "t": np.zeros(2, np.int64)}) == 2


def test_a_home_of_any_length_has_short_sockets_and_tmpdir_has_no_say(tmp_path, monkeypatch):
    deep = Home(tmp_path / ("x" * 150))
    before = [deep.ray, deep.lanes, deep.control_socket, deep.mlflow_socket]
    assert max(len(os.fsencode(path)) for path in before) < 60
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("t" * 100)))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert [deep.ray, deep.lanes, deep.control_socket, deep.mlflow_socket] == before
    assert Home(tmp_path / ("y" * 150)).ray != deep.ray
    assert Home(Path("/srv/city")).lanes == Path("/srv/city/run/lanes")


def test_a_long_home_with_no_short_folder_beside_it_is_refused_with_the_length(monkeypatch):
    monkeypatch.setattr(home, "SHORT_BASES", (Path("/nowhere"),))
    with pytest.raises(Unavailable, match="too long a path") as refused:
        _ = Home(Path("/" + "x" * 60)).ray
    assert "at most 32 bytes" in refused.value.hint
