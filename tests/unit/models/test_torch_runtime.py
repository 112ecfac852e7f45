"""The torch runtime loads safetensors into our own networks, strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from citybrain.core.errors import BadPackage
from citybrain.models.package import Package
from citybrain.models.recipes.spoken_digits import SpokenDigits
from citybrain.models.runtime import RUNTIMES

OPTIONS = {"sample_rate": 8_000, "n_mels": 40, "tokens": list("_0123456789")}


def folder_with(folder: Path, state: dict[str, Any], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    manifest = {
        "name": "spoken-digits", "title": {"zh": "数字", "en": "Digits"}, "task": "transcription",
        "runtime": "torch", "weights": "model.safetensors", "domain": "safety", "owner": "safety",
        "licence": "Apache-2.0", "options": OPTIONS, "lineage": {"recipe": "spoken-digits"},
    }  # fmt: skip
    manifest |= changes
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest))
    save_file(state, folder / "model.safetensors")
    return folder


def weights() -> dict[str, Any]:
    torch.manual_seed(4)
    return dict(SpokenDigits().network(OPTIONS).state_dict())


def load(folder: Path) -> Any:
    runtime = RUNTIMES.get("torch")
    runtime.load(Package.open(folder), threads=1)
    return runtime


def batch() -> dict[str, np.ndarray]:
    features = np.random.default_rng(0).normal(size=(2, 25, 40)).astype(np.float32)
    return {"features": features, "lengths": np.array([25, 20])}


def test_the_loaded_network_answers_like_the_one_that_was_saved(tmp_path: Path) -> None:
    state = weights()
    network = SpokenDigits().network(OPTIONS)
    network.load_state_dict(state)
    with torch.inference_mode():
        truth = network.eval()(**{k: torch.from_numpy(v) for k, v in batch().items()})
    answer = load(folder_with(tmp_path / "p", state)).infer(batch())
    assert answer.keys() == {"logits", "frames"}
    assert np.allclose(answer["logits"], truth["logits"].numpy(), atol=1e-5)


def test_read_only_inputs_are_answered_and_left_alone(tmp_path: Path) -> None:
    runtime = load(folder_with(tmp_path / "p", weights()))
    inputs = batch()
    frozen = np.frombuffer(inputs["features"].tobytes(), np.float32).reshape(2, 25, 40)
    answer = runtime.infer({"features": frozen, "lengths": inputs["lengths"]})
    assert np.array_equal(answer["logits"], runtime.infer(inputs)["logits"])


def test_a_missing_or_unknown_weight_is_named(tmp_path: Path) -> None:
    state = weights()
    first = sorted(state)[0]
    short = {name: value for name, value in state.items() if name != first}
    with pytest.raises(BadPackage, match=first):
        load(folder_with(tmp_path / "a", short))
    with pytest.raises(BadPackage, match="surplus"):
        load(folder_with(tmp_path / "b", state | {"surplus": torch.zeros(1)}))


def test_a_weight_of_another_size_is_refused(tmp_path: Path) -> None:
    tokens = OPTIONS | {"tokens": ["_", "a"]}
    with pytest.raises(BadPackage, match="size mismatch"):
        load(folder_with(tmp_path / "p", weights(), options=tokens))


def test_what_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "p", weights())
    (folder / "model.safetensors").write_bytes(b"\x80\x04not weights")
    with pytest.raises(BadPackage, match="not a safetensors file"):
        load(folder)
    with pytest.raises(BadPackage, match="loads .safetensors"):
        load(folder_with(tmp_path / "p", weights(), weights="algorithm.yaml"))


@pytest.mark.parametrize(
    "changes",
    [
        {"lineage": {}},
        {"lineage": {"recipe": "spoken-digit"}},
        {"lineage": {"recipe": "crowd-level"}},
        {"options": {}},
    ],
)
def test_a_package_without_a_network_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BadPackage):
        load(folder_with(tmp_path / "p", weights(), **changes))


def test_the_runtime_tells_the_library_and_the_size(tmp_path: Path) -> None:
    facts = load(folder_with(tmp_path / "p", weights())).describe()
    assert facts["library"].startswith("torch ")
    assert 10_000 < int(facts["parameters"]) < 1_000_000
