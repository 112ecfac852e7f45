"""A small text classifier that is trained from nothing in seconds: tokenizer, encoder, training.

The encoder is DeBERTa-v2 (He et al. 2021) with its convolution over three tokens and without
positions: on a few thousand short texts, which n-grams occur tells more than where. It learns
from the labels and, on spliced texts, from a teacher (Hinton et al. 2015): TF-IDF of character
n-grams with logistic regression, the strongest simple model for data of this size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from citybrain.core.shelf import needs
from citybrain.core.tensors import Array
from citybrain.models.recipe import Progress

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
ALPHABET = 6000
PIECES = 800
WIDTH = 128
BATCH = 64
PEAK_RATE = 2e-3
SMOOTHING = 0.05
GAIN = 0.05
"""How far the embeddings start towards the teacher's opinions, in log odds."""
SPLICED = 0.5
AVERAGING = 0.99
MOST_EPOCHS = 10
TOKENS_A_SECOND = 30_000
"""Of training, on two cores: what a budget is turned into steps with."""
TEACHER_TEXTS = 20_000
TEACHER_RATE = 1000
"""Texts a second that a teacher learns from; with a budget too small for it there is none."""


def train_tokenizer(texts: Sequence[str], max_length: int) -> Any:
    """A BPE tokenizer of the characters and the most frequent pieces of these texts."""
    with needs():
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    tokenizer: Any = Tokenizer(models.BPE(unk_token="[UNK]"))  # noqa: S106 - a token of the vocabulary
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    letters = len(set("".join(texts).lower()))
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=min(letters, ALPHABET) + PIECES,
            min_frequency=10,
            limit_alphabet=ALPHABET,
            special_tokens=list(SPECIAL),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(max_length)
    return tokenizer


def new_encoder(vocabulary: int, labels: Sequence[str], max_length: int) -> Any:
    """The untrained network, a standard class of the transformers library."""
    with needs():
        from transformers import DebertaV2Config, DebertaV2ForSequenceClassification
    config = DebertaV2Config(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=4, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.0,
        max_position_embeddings=max_length, type_vocab_size=0, pad_token_id=0,
        position_biased_input=False, relative_attention=False, conv_kernel_size=3,
        conv_act="gelu", pooler_dropout=0.1, pooler_hidden_size=WIDTH,
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
    )  # fmt: skip
    return DebertaV2ForSequenceClassification(config)


class NgramTeacher:
    """TF-IDF of character 1- to 3-grams with logistic regression, fitted within some seconds."""

    def __init__(self, texts: Sequence[str], truth: Array, seed: int, seconds: float) -> None:
        with needs():
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from threadpoolctl import threadpool_limits
        began = monotonic()
        chosen = np.random.default_rng([seed, 3]).permutation(len(texts))[:TEACHER_TEXTS]
        self._grams = TfidfVectorizer(
            analyzer="char", ngram_range=(1, 3), sublinear_tf=True, max_features=60_000
        )
        rows = self._grams.fit_transform([texts[i] for i in chosen])
        self._model = LogisticRegression(C=10.0, max_iter=20, tol=1e-3, warm_start=True)
        # Rounds of a few iterations let the clock end them; threads only get in each other's way
        # on vectors of this size. A round that has not converged yet warns, and the next goes on.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for _ in range(5):
                self._model.fit(rows, truth[chosen])
                if self._model.n_iter_[0] < 20 or monotonic() - began > seconds:
                    break

    def opinion(self, texts: Sequence[str], classes: int) -> Array:
        """FP32[n, classes]: a probability for each class."""
        found = np.zeros((len(texts), classes), np.float32)
        found[:, self._model.classes_] = self._model.predict_proba(self._grams.transform(texts))
        return found


@dataclass
class Course:
    """What to learn from, the seconds that the steps are planned for, and when to be ready (`monotonic`)."""

    texts: Sequence[str]
    truth: Array
    classes: int
    seed: int
    seconds: float
    deadline: float


def fit(network: Any, tokenizer: Any, course: Course, progress: Progress) -> Any:
    """Train; the network with averaged weights, in eval mode on the CPU.

    The number of steps follows from the time and the data, not from the clock, so that equal
    seeds give equal weights; on a machine slower than assumed the clock ends the training.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    began = monotonic()
    seconds, left = course.seconds, max(0.1, course.deadline - began)
    rng = np.random.default_rng([course.seed, 5])
    teacher = None
    if min(len(course.texts), TEACHER_TEXTS) / TEACHER_RATE < seconds / 2:
        teacher = NgramTeacher(course.texts, course.truth, course.seed, left / 4)
        _start_from(teacher, network, tokenizer, course)
    network = network.to(device).train()
    weights = list(network.parameters())
    average = [weight.detach().clone() for weight in weights]
    descent = torch.optim.AdamW(weights, PEAK_RATE, (0.9, 0.98), weight_decay=0.05)
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch(list(course.texts)))
    epochs = min(MOST_EPOCHS, max(1, int(seconds * TOKENS_A_SECOND / tokens)))
    steps = epochs * -(-len(course.texts) // BATCH)
    step, share = 0, 0.0
    for _ in range(epochs):
        texts, targets = _lesson(course, teacher, rng)
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        for batch in _batches(ids, rng):
            clock = (monotonic() - began) / left
            # The first steps are slow everywhere; only a real delay hands over to the clock.
            share = max(step / steps, clock if clock > 0.5 else 0.0)
            if share >= 1.0:
                break
            for group in descent.param_groups:
                group["lr"] = PEAK_RATE * min(1.0, share / 0.1 + 0.02) * _cosine(share)
            input_ids, mask = (torch.from_numpy(a).to(device) for a in padded(batch, ids))
            logits = network(input_ids=input_ids, attention_mask=mask).logits
            target = torch.from_numpy(targets[batch]).to(device)
            loss = torch.nn.functional.cross_entropy(logits, target)
            descent.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            descent.step()
            step += 1
            keep = min(AVERAGING, (step + 1) / (step + 10))
            with torch.no_grad():
                for mean, weight in zip(average, weights, strict=True):
                    mean.lerp_(weight, 1.0 - keep)
            if step % 10 == 1:
                progress(share, f"step {step}, loss {loss.item():.3f}")
    with torch.no_grad():
        for mean, weight in zip(average, weights, strict=True):
            weight.copy_(mean)
    return network.cpu().eval()


def _start_from(teacher: NgramTeacher, network: Any, tokenizer: Any, course: Course) -> None:
    """Let each piece begin where the teacher's opinion of it lies: rare ones then mean something."""
    import torch

    pieces = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    opinion = np.log(teacher.opinion(pieces, course.classes) + 1e-6)
    opinion -= opinion[0]  # a special token: nothing but the frequencies of the classes
    opinion -= opinion.mean(axis=1, keepdims=True)
    table = network.get_input_embeddings().weight
    rng = np.random.default_rng([course.seed, 4])
    spread = rng.normal(size=(course.classes, table.shape[1])) / np.sqrt(course.classes)
    with torch.no_grad():
        table += torch.from_numpy((GAIN * opinion @ spread).astype(np.float32))


def answer(network: Any, tokenizer: Any, texts: Sequence[str]) -> Array:
    """FP32[n, classes]: the logits of a trained network."""
    import torch

    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    order = np.argsort([len(row) for row in ids], kind="stable")
    logits = np.zeros((len(ids), network.config.num_labels), np.float32)
    with torch.inference_mode():
        for start in range(0, len(ids), 256):
            batch = order[start : start + 256]
            input_ids, mask = (torch.from_numpy(array) for array in padded(batch, ids))
            logits[batch] = network(input_ids=input_ids, attention_mask=mask).logits.numpy()
    return logits


def padded(batch: Array, ids: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """`input_ids` and `attention_mask` of these rows, as wide as the longest."""
    width = max(len(ids[i]) for i in batch)
    input_ids = np.zeros((len(batch), width), np.int64)
    mask = np.zeros((len(batch), width), np.int64)
    for row, i in enumerate(batch):
        input_ids[row, : len(ids[i])] = ids[i]
        mask[row, : len(ids[i])] = 1
    return input_ids, mask


def _lesson(
    course: Course, teacher: NgramTeacher | None, rng: np.random.Generator
) -> tuple[list[str], Array]:
    """One epoch: texts with smoothed labels, a part of them spliced and judged by the teacher."""
    texts = list(course.texts)
    targets = np.full((len(texts), course.classes), SMOOTHING / course.classes, np.float32)
    targets[np.arange(len(texts)), course.truth] += 1.0 - SMOOTHING
    if teacher is None:
        return texts, targets
    spliced = np.flatnonzero(rng.random(len(texts)) < SPLICED).tolist()
    for i in spliced:
        texts[i] = _splice(course.texts[i], course.texts[int(rng.integers(len(texts)))], rng)
    if len(spliced):
        targets[spliced] = teacher.opinion([texts[i] for i in spliced], course.classes)
    return texts, targets


def _splice(one: str, other: str, rng: np.random.Generator) -> str:
    """A text that nobody wrote: two halves joined, a piece, or a text with noise put in."""
    kind = rng.random()
    cut, end = int(rng.integers(len(one) + 1)), int(rng.integers(len(other) + 1))
    if kind < 0.5:
        return one[:cut] + other[end:] or one
    if kind < 0.7:
        size = max(2, int(len(one) * rng.uniform(0.3, 1.0)))
        start = int(rng.integers(max(1, len(one) - size + 1)))
        return one[start : start + size]
    # Shuffled characters: from them the network learns what to do with words it never saw.
    letters = rng.permutation(len(other)).tolist()[: int(rng.integers(2, 16))]
    return one[:cut] + "".join(other[i] for i in letters) + one[cut:]


def _batches(ids: Sequence[Sequence[int]], rng: np.random.Generator) -> list[Array]:
    """Batches of rows of similar length, so that little of a batch is padding."""
    order = rng.permutation(len(ids))
    lengths = np.array([len(ids[i]) for i in order]) + rng.uniform(0, 6, len(order))
    order = order[np.argsort(lengths, kind="stable")]
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _cosine(share: float) -> float:
    return float(0.5 + 0.5 * np.cos(np.pi * max(0.0, share - 0.1) / 0.9))
