"""How models of the transformers library are called: a task's tensors to arguments, and back.

Most families take what their task prepares and answer with logits. The others have a class here
each; `family` says which one a folder needs, from its task and the `model_type` of its config.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage
from citybrain.core.tensors import Array, Tensors
from citybrain.models.package import Package
from citybrain.models.task import open_task

MOST_SECONDS = 120
"""Longer speech from one text is a broken model: it would take all memory of a replica."""


class Family:
    """A loaded model whose main output is `logits`: classification and CTC."""

    obstacle = ""
    """Why `forward` alone does not answer; empty where it does."""

    def __init__(self, model: Any, package: Package, device: str) -> None:
        self.model = model
        self.device = device
        self._accepts = set(inspect.signature(model.forward).parameters)
        self._set_up(package)

    def infer(self, inputs: Tensors) -> Tensors:
        """One call; `lengths` counts the valid steps of each row, before and behind the model."""
        lengths = inputs.get("lengths")
        if lengths is not None and self._alone:
            return self._row_by_row(inputs, lengths)
        tensors = {name: self.tensor(array) for name, array in inputs.items()}
        return {name: array_of(tensor) for name, tensor in self.forward(tensors).items()}

    def forward(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The same on the library's own tensors and by its operators alone, so it can be exported."""
        outputs = {"logits": self.model(**self._arguments(tensors)).logits}
        lengths = tensors.get("lengths")
        if lengths is not None and hasattr(self.model, "_get_feat_extract_output_lengths"):
            outputs["frames"] = self._valid(lengths)
        return outputs

    def _set_up(self, package: Package) -> None:
        # A group norm in the first convolution spans the whole row: padding would be heard.
        self._alone = getattr(self.model.config, "feat_extract_norm", "") == "group"
        if self._alone:
            self.obstacle = "it hears each sound alone, at its own length"

    def _row_by_row(self, inputs: Tensors, lengths: Array) -> Tensors:
        """Each sound at its own length, as these models were trained; logits padded with zeros."""
        (sounds,) = (array for name, array in inputs.items() if name != "lengths")
        rows = [
            array_of(self.model(self.tensor(sound[None, : int(length)])).logits)[0]
            for sound, length in zip(sounds, lengths, strict=True)
        ]
        logits = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float32)
        for index, row in enumerate(rows):
            logits[index, : len(row)] = row
        return {"logits": logits, "frames": np.array([len(row) for row in rows], np.int64)}

    def _valid(self, lengths: Any) -> Any:
        steps = self.model._get_feat_extract_output_lengths(lengths.long())  # noqa: SLF001 - the only way to know how many frames are padding
        return steps.clamp(min=0).long()

    def _arguments(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The inputs under the model's own names: its main input, and a mask for `lengths`."""
        import torch

        named = {name: tensor for name, tensor in tensors.items() if name in self._accepts}
        other = [name for name in tensors if name not in self._accepts and name != "lengths"]
        main = self.model.main_input_name
        if main not in named and len(other) == 1:
            named[main] = tensors[other[0]]
        if "lengths" in tensors and "attention_mask" in self._accepts:
            steps = torch.arange(named[main].shape[1], device=self.device)
            named["attention_mask"] = (steps < tensors["lengths"][:, None]).long()
        return named

    def tensor(self, array: Array) -> Any:
        """An array on the model's device."""
        import torch

        # An array on top of a request's bytes is read-only, and torch shares memory: then copy.
        owned = np.require(array, requirements=("C", "W"))
        return torch.from_numpy(owned).to(self.device)


class Whisper(Family):
    """`features` FP32[n,mels,3000] to `tokens` INT64[n,m] and `scores` FP32[n,m], greedily.

    `scores` are the log-probabilities of the tokens. m is always the most tokens that one answer
    may have; what a row does not use holds -1 and 0. The end token is scored and not returned.
    """

    KEPT = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id",
            "begin_suppress_tokens", "suppress_tokens", "is_multilingual", "lang_to_id",
            "task_to_id", "no_timestamps_token_id", "prev_sot_token_id")  # fmt: skip
    """Facts of the vocabulary. How to search is not the folder's choice: one greedy path."""

    def _set_up(self, package: Package) -> None:
        from transformers import GenerationConfig

        options = open_task(package.manifest).options
        self._check_features(options)
        theirs = self.model.generation_config
        facts = {name: getattr(theirs, name, None) for name in self.KEPT}
        # The library asks for room for as much again: the prompt stands before the answer.
        self._most = min(options.max_new_tokens, self.model.config.max_target_positions // 2)
        self.model.generation_config = GenerationConfig(
            **{name: value for name, value in facts.items() if value is not None},
            do_sample=False, num_beams=1, return_timestamps=False, max_new_tokens=self._most,
        )  # fmt: skip
        self._spoken: dict[str, str] = {}
        if options.language:
            known = facts["lang_to_id"] or {}
            if not facts["is_multilingual"] or f"<|{options.language}|>" not in known:
                raise BadPackage(
                    f"algorithm.yaml: options.language: the model knows no {options.language!r}.",
                    hint="It knows: " + (", ".join(sorted(known))[:300] or "one language") + ".",
                )
            self._spoken = {"language": options.language}
        if facts["is_multilingual"]:
            self._spoken["task"] = "transcribe"

    def _check_features(self, options: Any) -> None:
        if options.features != "whisper":
            raise BadPackage("algorithm.yaml: options.features must be 'whisper' for this model.")
        if options.n_mels != self.model.config.num_mel_bins:
            raise BadPackage(
                f"algorithm.yaml: options.n_mels is {options.n_mels}, "
                f"the model hears {self.model.config.num_mel_bins}."
            )

    obstacle = "it writes token by token"

    def infer(self, inputs: Tensors) -> Tensors:
        import torch
        from transformers import LogitsProcessor, LogitsProcessorList

        sure: list[Array] = []

        class Watch(LogitsProcessor):  # type: ignore[misc]
            """Comes last and notes how sure the best token is: all scores would fill gigabytes."""

            def __call__(self, input_ids: Any, scores: Any) -> Any:
                sure.append(array_of(scores.float().log_softmax(dim=-1).amax(dim=-1)))
                return scores

        features = self.tensor(inputs["features"])
        mask = torch.ones(features.shape[::2], dtype=torch.int64, device=self.device)
        watch = LogitsProcessorList([Watch()])
        found = self.model.generate(
            features, attention_mask=mask, logits_processor=watch, **self._spoken
        )
        # Without the prompt and the end token; shorter rows are filled up with padding.
        ids, best = array_of(found), np.stack(sure, axis=1)
        config = self.model.generation_config
        ends = np.isin(ids, np.hstack([config.eos_token_id, config.pad_token_id]))
        rows = len(ids)
        outputs = {
            "tokens": np.full((rows, self._most), -1, np.int64),
            "scores": np.zeros((rows, self._most), np.float32),
        }
        for row in range(rows):
            last = int(ends[row].argmax()) if ends[row].any() else ids.shape[1]
            outputs["tokens"][row, :last] = ids[row, :last]
            outputs["scores"][row, : last + 1] = best[row, : last + 1]
        return outputs


class Vits(Family):
    """`input_ids`, `attention_mask` INT64[n,w], `speaker_id` INT64[n] to `waveform` FP32[n,t].

    `lengths` INT64[n] counts the samples. The noise scales are 0, so that equal texts sound equal,
    and rows are spoken one at a time: a padded batch would be heard at the end of its shorter rows.
    """

    def _set_up(self, package: Package) -> None:
        options, config = open_task(package.manifest).options, self.model.config
        for name, ours, theirs in (
            ("sample_rate", options.sample_rate, config.sampling_rate),
            ("speakers", options.speakers, config.num_speakers),
        ):
            if ours != theirs:
                raise BadPackage(f"algorithm.yaml: options.{name} is {ours}, the model's {theirs}.")
        self.model.noise_scale = self.model.noise_scale_duration = 0.0
        hop = int(np.prod(config.upsample_rates))
        most = MOST_SECONDS * config.sampling_rate / hop * self.model.speaking_rate

        def check(_model: Any, _arguments: Any, log_duration: Any) -> None:
            if not float(log_duration.double().exp().sum()) <= most:
                raise ValueError(f"speech of more than {MOST_SECONDS} s")

        self.model.duration_predictor.register_forward_hook(check)

    obstacle = "it speaks each text alone, at its own length"

    def infer(self, inputs: Tensors) -> Tensors:
        rows = []
        for index, ids in enumerate(inputs["input_ids"]):
            known = ids[: int(inputs["attention_mask"][index].sum())]
            speaker = int(inputs["speaker_id"][index])
            several = {"speaker_id": speaker} if self.model.config.num_speakers > 1 else {}
            found = self.model(input_ids=self.tensor(known[None]), **several)
            rows.append(array_of(found.waveform)[0, : int(found.sequence_lengths[0])])
        waveform = np.zeros((len(rows), max(map(len, rows))), np.float32)
        for index, row in enumerate(rows):
            waveform[index, : len(row)] = row
        return {"waveform": waveform, "lengths": np.array([len(row) for row in rows], np.int64)}


class PatchTst(Family):
    """`series` FP32[n,context] to `forecast` FP32[n,horizon,k], the numbers of its `head`.

    Trained on squared errors the model answers with a point (k=1); on likelihood with the mean
    and deviation of a normal distribution (k=2), or with degrees of freedom, location and scale
    of Student's t (k=3).
    """

    def _set_up(self, package: Package) -> None:
        options, config = open_task(package.manifest).options, self.model.config
        head = "point" if config.loss == "mse" else config.distribution_output.replace("_", "-")
        for name, ours, theirs in (
            ("context", options.context, config.context_length),
            ("horizon", options.horizon, config.prediction_length),
            ("head", options.head, head),
            ("calendar", options.calendar, False),
        ):
            if ours != theirs:
                raise BadPackage(f"algorithm.yaml: options.{name} is {ours}, the model's {theirs}.")
        if config.num_input_channels != 1:
            raise BadPackage(f"The model takes {config.num_input_channels} series at once, not 1.")

    def forward(self, tensors: dict[str, Any]) -> dict[str, Any]:
        import torch

        found = self.model(past_values=tensors["series"][..., None])
        if self.model.distribution_output is None:
            return {"forecast": found.prediction_outputs}
        *shape, mean, spread = found.prediction_outputs
        parts = [*shape, mean * found.scale + found.loc, spread * found.scale]
        return {"forecast": torch.cat(parts, dim=2)}


FAMILIES: dict[str, dict[str, tuple[str, type[Family]]]] = {
    "text-classification": {"": ("AutoModelForSequenceClassification", Family)},
    "image-classification": {"": ("AutoModelForImageClassification", Family)},
    "transcription": {
        "whisper": ("AutoModelForSpeechSeq2Seq", Whisper),
        "": ("AutoModelForCTC", Family),
    },
    "speech-synthesis": {"vits": ("VitsModel", Vits)},
    "forecasting": {"patchtst": ("PatchTSTForPrediction", PatchTst)},
}
"""By task and `model_type`; "" stands for every other type that the library's class takes."""


def family(task: str, model_type: str) -> tuple[str, type[Family]]:
    """The library's class that loads such a model, and ours that calls it."""
    if task not in FAMILIES:
        raise BadPackage(
            f"The transformers runtime does not serve the task {task}.",
            hint=f"It serves: {', '.join(sorted(FAMILIES))}.",
        )
    known = FAMILIES[task]
    if model_type not in known and "" not in known:
        raise BadPackage(
            f"The transformers runtime serves no {model_type[:80]!r} model as {task}.",
            hint=f"It serves: {', '.join(sorted(known))}.",
        )
    return known.get(model_type) or known[""]


def array_of(tensor: Any) -> Array:
    """A tensor of any device as an array; floats in single precision."""
    array: Array = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    return array
