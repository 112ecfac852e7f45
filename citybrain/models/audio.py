"""Sound: files to samples, samples to another rate, samples to log-mel features.

The framing convention, the same in training and in service: 100 ms of silence before and after
(a word cut at its first sample has an edge too), windows of 25 ms every 10 ms (Hann,
not centred: frame `i` starts at `i * hop`), power spectrum, triangular filters that are equally
wide on the mel scale from 60 Hz to half the sample rate (Davis and Mermelstein 1980), natural
logarithm over at most 60 dB below the utterance's loudest value, scaled to -2.6 .. 2, then less
the utterance's mean of each filter as if it held `PRIOR_FRAMES` more frames of zero. Without
them the mean of one short word would be the word itself, and taking it away would leave little.
"""

from __future__ import annotations

import io
from functools import lru_cache
from math import gcd

import numpy as np

from citybrain.core.errors import BadMedia
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array, Tensors

MAX_BYTES = 20_000_000
MAX_SECONDS = 600
RATES = range(4_000, 192_001)
CHANNELS = range(1, 9)
MAGIC = (b"RIFF", b"fLaC", b"OggS")
FORMATS = {"WAV", "WAVEX", "FLAC", "OGG"}

WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.010
EDGE_FRAMES = 10
LOWEST_HZ = 60.0
RANGE = 1e-6  # 60 dB: what is quieter than that is the room, or digital silence
PRIOR_FRAMES = 100
FRAME_STEP = 25
"""Batches are padded to a multiple of so many frames, so that more calls share one."""
_CHUNK = 4096  # frames transformed at once: ten minutes must not need a gigabyte


def decode(raw: bytes, index: int = 0) -> tuple[Array, int]:
    """A WAV, FLAC or OGG file as mono FP32 samples and their rate; BadMedia names the item."""
    with needs():
        import soundfile
    if not raw:
        raise BadMedia(f"Item {index}: the sound is empty.")
    if len(raw) > MAX_BYTES:
        raise BadMedia(f"Item {index}: the file is larger than {MAX_BYTES // 1_000_000} MB.")
    # libsndfile reads two dozen formats; only these three are asked of it, whatever it is sent.
    if raw[:4] not in MAGIC:
        raise _broken(index)
    parts: list[Array] = []
    frames = 0
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            rate, promised = int(file.samplerate), int(file.frames)
            if file.format not in FORMATS:
                raise _broken(index)
            if rate not in RATES:
                raise BadMedia(f"Item {index}: sample rates are 4 to 192 kHz, not {rate} Hz.")
            if file.channels not in CHANNELS:
                raise BadMedia(f"Item {index}: 1 to 8 channels, not {file.channels}.")
            # Block by block, because a small FLAC can unfold into gigabytes of silence.
            while len(block := file.read(1 << 18, dtype="float32", always_2d=True)):
                frames += len(block)
                if frames > MAX_SECONDS * rate:
                    raise BadMedia(f"Item {index}: longer than {MAX_SECONDS // 60} minutes.")
                parts.append(block.mean(axis=1, dtype=np.float32))
    except (soundfile.SoundFileError, RuntimeError, ValueError, OSError) as error:
        raise _broken(index) from error
    if not frames:
        raise BadMedia(f"Item {index}: the sound is empty.")
    if frames < promised < 1 << 40:  # a stream's header promises nothing: an absurd number
        raise BadMedia(f"Item {index}: the file is cut off after {frames} of {promised} samples.")
    samples = np.concatenate(parts)
    if not np.isfinite(samples).all():
        raise BadMedia(f"Item {index}: the sound holds NaN or infinity.")
    return samples, rate


def _broken(index: int) -> BadMedia:
    return BadMedia(f"Item {index}: not a WAV, FLAC or OGG file that can be decoded.")


def encode_wav(samples: Array, rate: int) -> bytes:
    """Mono samples in -1..1 as a 16-bit WAV file."""
    with needs():
        import soundfile
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def resample(samples: Array, rate: int, wanted: int) -> Array:
    """The same sound at another sample rate, by a polyphase filter."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    common = gcd(rate, wanted)
    moved: Array = resample_poly(samples, wanted // common, rate // common)
    return moved.astype(np.float32)


def power_spectrum(samples: Array, rate: int) -> Array:
    """Power of each frequency in each frame, `FP32[frames, bins]`."""
    window, hop = _framing(rate)
    # A call may send samples beyond -1..1; scaled down they cannot overflow when squared.
    padded = samples / max(1.0, float(np.abs(samples).max(initial=0.0)))
    padded = np.pad(padded, EDGE_FRAMES * hop).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    shape = np.hanning(window + 2)[1:-1].astype(np.float32)
    size = _fft_size(rate)
    power = np.empty((len(frames), size // 2 + 1), np.float32)
    for start in range(0, len(frames), _CHUNK):
        spectrum = np.fft.rfft(frames[start : start + _CHUNK] * shape, size)
        power[start : start + _CHUNK] = spectrum.real**2 + spectrum.imag**2
    return power


@lru_cache(maxsize=64)
def mel_filters(rate: int, n_mels: int, warp: float = 1.0) -> Array:
    """Triangles on the mel scale, `FP32[bins, n_mels]`; their centres multiplied by `warp`.

    A warp other than 1 is what another length of the vocal tract does to a voice (Jaitly and
    Hinton 2013); training draws it at random, service never does.
    """
    top = rate / 2
    mel = np.linspace(_mel(LOWEST_HZ), _mel(top), n_mels + 2)
    edges = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    # Up to a knee the axis is stretched by `warp`; above it, so that the top stays the top.
    knee = 0.85 * top * min(1.0, 1.0 / warp)
    above = knee * warp + (edges - knee) * (top - knee * warp) / (top - knee)
    edges = np.where(edges <= knee, edges * warp, above)
    bins = np.fft.rfftfreq(_fft_size(rate), 1.0 / rate)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    filters: Array = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    filters.setflags(write=False)  # every caller shares it
    return filters


def log_mel_of(power: Array, filters: Array) -> Array:
    """Normalised log-mel features of a power spectrum, `FP32[frames, n_mels]`."""
    energy = power @ filters
    loudest = max(float(energy.max()), 1e-12)
    logs = np.log(np.maximum(energy / loudest, RANGE)) / 3.0 + 2.0
    features: Array = logs - logs.sum(axis=0) / (len(logs) + PRIOR_FRAMES)
    return features.astype(np.float32)


def log_mel(samples: Array, rate: int, n_mels: int) -> Array:
    """Log-mel features of one utterance, `FP32[frames, n_mels]`."""
    return log_mel_of(power_spectrum(samples, rate), mel_filters(rate, n_mels))


def padded_features(rows: list[Array]) -> Tensors:
    """Features of several utterances as one batch: `features`, and `lengths` of valid frames."""
    lengths = np.array([len(row) for row in rows], np.int64)
    frames = -(-int(lengths.max()) // FRAME_STEP) * FRAME_STEP
    features = np.zeros((len(rows), frames, rows[0].shape[1]), np.float32)
    for index, row in enumerate(rows):
        features[index, : len(row)] = row
    return {"features": features, "lengths": lengths}


def _framing(rate: int) -> tuple[int, int]:
    return round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)


def _fft_size(rate: int) -> int:
    return 1 << (_framing(rate)[0] - 1).bit_length()


def _mel(hertz: float) -> float:
    return 2595.0 * float(np.log10(1.0 + hertz / 700.0))
