"""The transformers runtime loads local safetensors folders, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)  # fmt: skip

from citybrain.core.errors import BadPackage
from citybrain.models.package import Manifest, Package
from citybrain.models.runtime import RUNTIMES


def write_manifest(folder: Path, task: str, **changes: Any) -> None:
    manifest = {
        "name": "tiny", "title": {"zh": "小", "en": "Tiny"}, "task": task, "owner": "city",
        "runtime": "transformers", "weights": "config.json", "domain": "city-management",
        "licence": "Apache-2.0",
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest | changes))


def tiny_bert(folder: Path, **config: Any) -> Any:
    torch.manual_seed(3)
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    settings: dict[str, Any] = {**sizes, "num_attention_heads": 2, "num_labels": 3, **config}
    model = BertForSequenceClassification(BertConfig(**settings)).eval()
    model.save_pretrained(folder)
    write_manifest(folder, "text-classification")
    return model


def load(folder: Path) -> Any:
    runtime = RUNTIMES.get("transformers")
    runtime.load(Package.open(folder), threads=1)
    return runtime


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tokens() -> dict[str, np.ndarray]:
    ids = np.array([[2, 5, 6, 3, 0, 0], [2, 7, 8, 9, 9, 3]])
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}


def test_the_loaded_model_answers_like_the_one_that_was_saved(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path)
    runtime = load(tmp_path)
    with torch.inference_mode():
        truth = model(**{k: torch.from_numpy(v) for k, v in tokens().items()}).logits
    answer = runtime.infer(tokens())
    assert answer.keys() == {"logits"}
    assert answer["logits"].dtype == np.float32
    assert np.allclose(answer["logits"], truth.numpy(), atol=1e-6)
    facts = runtime.describe()
    assert facts["architecture"] == "BertForSequenceClassification"
    assert int(facts["parameters"]) == sum(p.numel() for p in model.parameters())


def test_weights_saved_in_half_precision_are_served_in_single(tmp_path: Path) -> None:
    tiny_bert(tmp_path).half().save_pretrained(tmp_path)
    assert load(tmp_path).infer(tokens())["logits"].dtype == np.float32


def test_read_only_inputs_are_answered(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    frozen = {k: np.frombuffer(v.tobytes(), np.int64).reshape(2, 6) for k, v in tokens().items()}
    assert load(tmp_path).infer(frozen)["logits"].shape == (2, 3)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_asks_for_its_own_code_is_refused(tmp_path: Path, name: str) -> None:
    tiny_bert(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    edit(tmp_path / name, nested=[{"auto_map": {"AutoModel": "evil.Model"}}])
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the package ran')")
    with pytest.raises(BadPackage, match="auto_map"):
        load(tmp_path)


def test_kernels_from_a_hub_are_refused_and_the_library_own_are_not(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    edit(tmp_path / "config.json", attn_implementation="someone/attention")
    with pytest.raises(BadPackage, match="attn_implementation"):
        load(tmp_path)
    edit(tmp_path / "config.json", attn_implementation="eager")
    load(tmp_path)


def test_pickles_adapters_and_missing_weights_are_refused(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    package = Package(tmp_path, Package.open(tmp_path).manifest)  # not checked again by open
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(BadPackage, match="pickle"):
        RUNTIMES.get("transformers").load(package)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    with pytest.raises(BadPackage, match="adapters"):
        load(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BadPackage, match="lacks model.safetensors"):
        load(tmp_path)


def test_missing_unknown_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)

    def save(changed: dict[str, Any]) -> None:
        save_file(changed, path, metadata={"format": "pt"})

    save({name: value for name, value in state.items() if name != "classifier.weight"})
    with pytest.raises(BadPackage, match="missing weights: classifier.weight"):
        load(tmp_path)
    save(state | {"surplus.weight": torch.zeros(2)})
    with pytest.raises(BadPackage, match="unexpected weights: surplus.weight"):
        load(tmp_path)
    save(state | {"classifier.weight": torch.zeros(5, 16)})
    with pytest.raises(BadPackage, match="mismatch|do not load"):
        load(tmp_path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(BadPackage, match="do not load") as caught:
        load(tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_labels_must_be_as_many_as_the_models_and_in_its_order(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    tiny_bert(
        tmp_path, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )
    write_manifest(tmp_path, "text-classification", options={"labels": names[:2]})
    with pytest.raises(BadPackage, match="2 labels, the model has 3"):
        load(tmp_path)
    write_manifest(tmp_path, "text-classification", options={"labels": ["b", "a", "c"]})
    with pytest.raises(BadPackage, match="another order"):
        load(tmp_path)
    write_manifest(tmp_path, "text-classification", options={"labels": names})
    load(tmp_path)


def test_a_task_that_no_class_serves_is_refused(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    write_manifest(tmp_path, "tabular-classification")
    with pytest.raises(BadPackage, match="does not serve the task tabular-classification"):
        load(tmp_path)
    for task in ("forecasting", "speech-synthesis"):
        write_manifest(tmp_path, task)
        with pytest.raises(BadPackage, match=f"serves no 'bert' model as {task}"):
            load(tmp_path)
    manifest = Package.open(tmp_path).manifest
    other = Manifest.model_validate(manifest.model_dump() | {"weights": "model.safetensors"})
    with pytest.raises(BadPackage, match="weights must be"):
        RUNTIMES.get("transformers").load(Package(tmp_path, other))


def test_images_go_to_the_main_input_whatever_the_task_calls_them(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=8, num_labels=4,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    write_manifest(tmp_path, "image-classification")
    pixels = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        truth = model(torch.from_numpy(pixels)).logits.numpy()
    assert np.allclose(load(tmp_path).infer({"images": pixels})["logits"], truth, atol=1e-6)


def test_sounds_of_several_lengths_come_with_the_lengths_of_their_logits(tmp_path: Path) -> None:
    config = Wav2Vec2Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        conv_dim=(8, 8), conv_kernel=(10, 4), conv_stride=(5, 4), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, vocab_size=6, feat_extract_norm="layer",
    )  # fmt: skip
    Wav2Vec2ForCTC(config).eval().save_pretrained(tmp_path)
    write_manifest(tmp_path, "transcription")
    sound = np.random.default_rng(1).normal(size=(1, 400)).astype(np.float32)
    runtime = load(tmp_path)
    alone = runtime.infer({"features": sound, "lengths": np.array([400])})
    both = np.concatenate([np.pad(sound, ((0, 0), (0, 200))), np.ones((1, 600), np.float32)])
    found = runtime.infer({"features": both, "lengths": np.array([400, 600])})
    frames = int(alone["frames"][0])
    assert alone["logits"].shape == (1, frames, 6)
    assert found["frames"].tolist() == [frames, found["logits"].shape[1]]
