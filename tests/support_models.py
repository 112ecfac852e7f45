"""Tiny models of real families, as `save_pretrained` writes them: real classes, random weights.

Each builder writes one folder as it would come from a hub or a colleague: config, weights as
safetensors, and what the family needs beside them. None writes an `algorithm.yaml`;
`manifest_of` returns what would stand there, and `write_package` does both.
"""

import json
import string
from pathlib import Path

import torch
import transformers
import yaml

LETTERS = [*string.ascii_lowercase]
BERT_WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the a road is not broken lamp tree fell water on".split()
)
CTC_TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
VITS_TOKENS = ["_", " ", "'", "-", *LETTERS]


def tiny_bert(folder: Path) -> None:
    """Text classification: three labels, word pieces with letters as the last resort."""
    torch.manual_seed(11)
    names = ["roads", "light", "parks"]
    config = transformers.BertConfig(
        vocab_size=len(BERT_WORDS) + 52, hidden_size=32, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
        id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
    )  # fmt: skip
    _save(transformers.BertForSequenceClassification(config), folder, loud=4.0)
    words = [*BERT_WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocab = {word: index for index, word in enumerate(words)}
    transformers.BertTokenizer(vocab=vocab, do_lower_case=True).save_pretrained(folder)


def tiny_vit(folder: Path) -> None:
    """Image classification: four labels, 32 x 32 pixels."""
    torch.manual_seed(12)
    names = ["clean", "rubbish", "water", "smoke"]
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8,
        id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
    )  # fmt: skip
    _save(transformers.ViTForImageClassification(config), folder, loud=4.0)
    transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.2]
    ).save_pretrained(folder)


def tiny_wav2vec2(folder: Path, norm: str = "layer") -> None:
    """Transcription by CTC from the raw waveform; `norm` is `layer` or `group`."""
    torch.manual_seed(13)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(CTC_TOKENS), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, conv_dim=(16, 16, 16), conv_kernel=(10, 8, 4),
        conv_stride=(5, 8, 4), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm, do_stable_layer_norm=norm == "layer", pad_token_id=0,
    )  # fmt: skip
    _save(transformers.Wav2Vec2ForCTC(config), folder, loud=3.0)
    transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=16_000, do_normalize=True, return_attention_mask=norm == "layer"
    ).save_pretrained(folder)
    _vocabulary(folder, CTC_TOKENS)
    settings = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": "|"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tiny_whisper(folder: Path) -> None:
    """Transcription by a sequence-to-sequence model of two languages, 30 s at a time."""
    torch.manual_seed(118)  # some sounds end before the last token, some do not
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>",
               "<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
    words = [*LETTERS, *string.digits, "Ġ"]
    ids = {word: index for index, word in enumerate([*words, *special])}
    config = transformers.WhisperConfig(
        vocab_size=len(ids), d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_mel_bins=80, max_source_positions=1500, max_target_positions=64,
        pad_token_id=ids[special[0]], bos_token_id=ids[special[0]], eos_token_id=ids[special[0]],
        decoder_start_token_id=ids[special[1]],
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=ids[special[0]], bos_token_id=ids[special[0]], eos_token_id=ids[special[0]],
        decoder_start_token_id=ids[special[1]], is_multilingual=True,
        lang_to_id={"<|en|>": ids["<|en|>"], "<|zh|>": ids["<|zh|>"]},
        task_to_id={"translate": ids["<|translate|>"], "transcribe": ids["<|transcribe|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"], prev_sot_token_id=ids["<|startofprev|>"],
        begin_suppress_tokens=[ids["Ġ"], ids[special[0]]], max_length=64,
    )  # fmt: skip
    with torch.no_grad():
        # The end token's row begins as zeros, being the padding's too: it would never be written.
        model.model.decoder.embed_tokens.weight[ids[special[0]]] = torch.randn(32) * 0.04
        for name, weight in model.named_parameters():
            if "encoder_attn" in name and weight.ndim > 1:
                weight.mul_(3.0)  # what is heard counts more than what was written
    _save(model, folder, loud=10.0)
    transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    transformers.WhisperTokenizer(
        vocab={word: ids[word] for word in words}, merges=[], additional_special_tokens=special[1:]
    ).save_pretrained(folder)


def tiny_vits(folder: Path, speakers: int = 1) -> None:
    """Speech synthesis from characters, at 16 kHz."""
    torch.manual_seed(15)
    config = transformers.VitsConfig(
        vocab_size=len(VITS_TOKENS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ffn_dim=16, flow_size=16, spectrogram_bins=17, upsample_initial_channel=16,
        upsample_rates=(4, 4), upsample_kernel_sizes=(8, 8), resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),), prior_encoder_num_flows=2,
        prior_encoder_num_wavenet_layers=1, posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=2, depth_separable_num_layers=1, num_speakers=speakers,
        speaker_embedding_size=8 if speakers > 1 else 0, sampling_rate=16_000,
    )  # fmt: skip
    _save(transformers.VitsModel(config), folder, loud=1.0)
    _vocabulary(folder, VITS_TOKENS)
    settings = {"tokenizer_class": "VitsTokenizer", "add_blank": True, "normalize": True,
                "phonemize": False, "is_uroman": False, "pad_token": "_"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tiny_patchtst(folder: Path, loss: str = "mse", distribution: str = "student_t") -> None:
    """Forecasting one channel: 32 values to the next 8."""
    torch.manual_seed(16)
    config = transformers.PatchTSTConfig(
        num_input_channels=1, context_length=32, prediction_length=8, patch_length=8,
        patch_stride=8, d_model=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
        loss=loss, distribution_output=distribution,
    )  # fmt: skip
    _save(transformers.PatchTSTForPrediction(config), folder, loud=4.0)


BUILDERS = {
    "bert": tiny_bert,
    "vit": tiny_vit,
    "wav2vec2": tiny_wav2vec2,
    "whisper": tiny_whisper,
    "vits": tiny_vits,
    "patchtst": tiny_patchtst,
}


def manifest_of(family: str, **options) -> dict:
    """The `algorithm.yaml` of a tiny model; `options` go over those of its task."""
    task, plain = {
        "bert": ("text-classification", {"labels": ["roads", "light", "parks"], "max_length": 32}),
        "vit": (
            "image-classification",
            {"labels": ["clean", "rubbish", "water", "smoke"], "image_size": 32,
             "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]},
        ),
        "wav2vec2": (
            "transcription",
            {"features": "waveform", "tokens": CTC_TOKENS, "space": "|",
             "unwritten": ["<s>", "</s>", "<unk>"]},
        ),
        "whisper": (
            "transcription", {"features": "whisper", "language": "en", "max_new_tokens": 12},
        ),
        "vits": ("speech-synthesis", {"sample_rate": 16_000}),
        "patchtst": (
            "forecasting",
            {"context": 32, "horizon": 8, "step_seconds": 300, "calendar": False, "head": "point"},
        ),
    }[family]  # fmt: skip
    return {
        "format": 1, "name": f"tiny-{family}", "title": {"zh": "小模型", "en": f"Tiny {family}"},
        "task": task, "runtime": "transformers", "weights": "config.json",
        "domain": "city-management", "owner": "platform", "licence": "Apache-2.0",
        "options": plain | options,
    }  # fmt: skip


def write_package(family: str, folder: Path, *, build: dict | None = None, **options) -> Path:
    """A tiny model's folder with its `algorithm.yaml`; `build` goes to the builder."""
    folder.mkdir(parents=True, exist_ok=True)
    BUILDERS[family](folder, **(build or {}))
    text = yaml.safe_dump(manifest_of(family, **options), allow_unicode=True)
    (folder / "algorithm.yaml").write_text(text, encoding="utf-8")
    return folder


def _save(model, folder: Path, loud: float) -> None:
    """Matrices made `loud` times larger, so that different inputs get different answers."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "norm" not in name and "parametrizations" not in name:
                weight.mul_(loud)
    model.eval().save_pretrained(folder)


def _vocabulary(folder: Path, tokens: list[str]) -> None:
    found = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(found, ensure_ascii=False))
