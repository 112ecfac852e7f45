"""The task text-classification: tokens, padding, calibration, abstention and its data format."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from citybrain.core.errors import BadData, BadJson, BadPackage, BadTensor, ModelFailed
from citybrain.core.tensors import bytes_array
from citybrain.models.datasets.labelled_text import read_labelled_text
from citybrain.models.package import Manifest
from citybrain.models.task import TASKS, Task

LABELS = ["water", "roads", "schools"]


def manifest(**options: Any) -> Manifest:
    return Manifest.model_validate(
        {
            "name": "router", "title": {"zh": "分派", "en": "Router"}, "domain": "city-management",
            "task": "text-classification", "runtime": "transformers", "weights": "config.json",
            "owner": "city", "licence": "Apache-2.0", "options": {"labels": LABELS, **options},
        }
    )  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"停水路坑学校a"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def task_in(folder: Path, **options: Any) -> Any:
    write_tokenizer(folder)
    task: Task = TASKS.get("text-classification")
    task.open(manifest(**options), folder)
    return task


def texts(*values: str | bytes) -> dict[str, Any]:
    return {"text": bytes_array([v if isinstance(v, bytes) else v.encode() for v in values])}


def test_a_text_becomes_ids_and_a_mask_padded_to_a_length_that_others_share(
    tmp_path: Path,
) -> None:
    task = task_in(tmp_path)
    found = task.prepare(texts("停水", " 学校路坑 "))
    assert found["input_ids"].dtype == found["attention_mask"].dtype == np.int64
    assert found["input_ids"].shape == (2, 16)
    assert found["input_ids"][0].tolist() == [2, 4, 5, 3] + [0] * 12
    assert found["attention_mask"].sum(axis=1).tolist() == [4, 6]


@pytest.mark.parametrize(("length", "width"), [(1, 16), (14, 16), (15, 32), (60, 64), (500, 100)])
def test_widths_come_from_a_small_set_and_end_at_max_length(
    tmp_path: Path, length: int, width: int
) -> None:
    task = task_in(tmp_path, max_length=100)
    found = task.prepare(texts("a" * length))
    assert found["input_ids"].shape == (1, width)
    assert found["attention_mask"].sum() == min(length + 2, 100)


def test_a_row_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadTensor, match="Row 1 of 'text' is not UTF-8"):
        task_in(tmp_path).prepare(texts("停水", b"\xff\xfe"))


@pytest.mark.parametrize("text", ["", "  \n", "a" * 2001])
def test_texts_are_one_to_two_thousand_characters_at_both_doors(tmp_path: Path, text: str) -> None:
    task = task_in(tmp_path)
    with pytest.raises(BadTensor, match="Row 0"):
        task.prepare(texts(text))
    with pytest.raises(BadJson, match="Item 1"):
        task.read([task.Input("ok"), task.Input(text)])


def test_half_a_surrogate_pair_is_refused_and_a_whole_character_beyond_is_not(
    tmp_path: Path,
) -> None:
    task = task_in(tmp_path)
    with pytest.raises(BadJson, match="surrogate pair at character 1"):
        task.read([task.Input("a\ud83d")])
    assert task.read([task.Input("a\U0001f600")])["text"][0] == "a\U0001f600".encode()


def test_temperature_and_threshold_shape_the_answer(tmp_path: Path) -> None:
    task = task_in(tmp_path, temperature=2.0, abstain_below=0.6)
    logits = np.array([[4.0, 0.0, 0.0], [1.0, 0.9, 0.0]], np.float32)
    outputs = task.finish({"logits": logits}, texts("a", "a"))
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    assert np.allclose(outputs["probabilities"], expected, atol=1e-6)
    for spec in task.signature().outputs:
        spec.check(outputs[spec.name])
    first, second = task.write(outputs)
    assert (first.label, first.abstained) == ("water", False)
    assert (second.label, second.abstained) == ("", True)
    assert second.probabilities.keys() == set(LABELS)


def test_huge_logits_do_not_overflow_and_wrong_ones_are_the_models_fault(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    huge = np.array([[1e30, 0.0, -1e30]], np.float32)
    assert task.finish({"logits": huge}, texts("a"))["probabilities"].tolist() == [[1.0, 0.0, 0.0]]
    with pytest.raises(ModelFailed, match="3 labels"):
        task.finish({"logits": np.zeros((1, 4), np.float32)}, texts("a"))
    with pytest.raises(ModelFailed, match="NaN"):
        task.finish({"logits": np.full((1, 3), np.nan, np.float32)}, texts("a"))


def test_options_that_make_no_sense_are_refused() -> None:
    for wrong in ({"labels": ["a", "a"]}, {"temperature": 0.0}, {"abstain_below": 2.0}):
        with pytest.raises(BadPackage, match="options"):
            TASKS.get("text-classification").open(manifest(**wrong))


def test_a_broken_tokenizer_is_the_packages_fault_and_names_no_folder(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(BadPackage, match="tokenizer.json") as caught:
        task.prepare(texts("a"))
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BadPackage, match="cannot be read"):
        task.prepare(texts("a"))


def test_csv_and_jsonl_give_the_same_samples(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text(
        'text,label,tag:style,other\n"停水,\n了",water,spoken,1\n路坑,roads,written,2\n'
    )
    lines = tmp_path / "a.jsonl.gz"
    lines.write_bytes(
        gzip.compress(
            '{"text": "停水,\\n了", "label": "water", "tag:style": "spoken"}\n\n'
            '{"text": "路坑", "label": "roads", "tag:style": "written", "x": 2}\n'.encode()
        )
    )
    task = TASKS.get("text-classification")
    task.open(manifest())
    for path, second in ((table, "line 4"), (lines, "line 3")):
        one, two = task.samples(path)
        assert one.inputs["text"][0].decode() == "停水,\n了"
        assert (one.truth.label, one.tags) == ("water", {"style": "spoken"})
        assert (two.truth.label, two.name) == ("roads", second)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,kind\na,b\n", "a.csv:1: the column 'label' is missing"),
        ("a.csv", 'text,label\n"a\nb",x\n\n,y\n', "a.csv:5: text is empty"),
        ("a.csv", "text,label\na,x\nb\n", "a.csv:3: 1 values for 2 columns"),
        ("a.csv", 'text,label\na,x\n"b', "a.csv:3: unexpected end of data"),
        ("a.csv", "text,label\na,x\n" + "b" * 2001 + ",x\n", "a.csv:3: text has 2001"),
        ("a.csv", "text,label\n", "no examples"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', "a.jsonl:2: label is empty"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n[1]\n', "a.jsonl:2: a JSON object"),
        ("a.jsonl", '{"text": "a"', "a.jsonl:1: not JSON"),
        ("a.jsonl", '{"text": "\\ud83d", "label": "x"}', "a.jsonl:1: half a surrogate"),
        ("a.txt", "a", "neither CSV nor JSONL"),
    ],
)
def test_the_first_bad_line_of_a_data_set_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(BadData, match=message) as caught:
        read_labelled_text(path)
    assert str(tmp_path) not in str(caught.value)


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\n停水,water\n".encode() + "路坑,路\n".encode("gb18030"))
    with pytest.raises(BadData, match="a.csv:3: not UTF-8"):
        read_labelled_text(path)
    path.with_suffix(".jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(BadData, match="cannot be read"):
        read_labelled_text(path.with_suffix(".jsonl.gz"))
