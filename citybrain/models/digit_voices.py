"""Generated speakers who read digits: a small formant synthesiser.

Source and filter after Klatt, "Software for a cascade/parallel formant synthesizer" (JASA 67,
1980): glottal pulses of Klatt and Klatt (1990) and noise, through resonances that move from one
phoneme's targets to the next. Targets are rounded from published averages of adult speakers
(Peterson and Barney 1952; Klatt 1980). The resonators are applied to short overlapping frames in
the frequency domain, which needs no loop over samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from citybrain.core.tensors import Array

RATE = 16_000
HOP = 80  # 5 ms: how often the tract moves
FFT = 512


class Phone(NamedTuple):
    """Targets of one phoneme: formants in Hz, durations in ms, levels from 0 to 1."""

    f1: float
    f2: float
    f3: float
    ms: float
    voice: float = 1.0
    breath: float = 0.0  # noise at the glottis, shaped by the formants
    hiss: float = 0.0  # noise at a constriction
    hiss_hz: float = 4000.0
    hiss_width: float = 2000.0
    damping: float = 1.0  # a nasal tract loses energy: wider resonances


PHONES = {
    "IY": Phone(290, 2280, 3000, 130), "IH": Phone(400, 1950, 2560, 80),
    "EH": Phone(540, 1800, 2480, 100), "AH": Phone(640, 1200, 2400, 120),
    "AO": Phone(560, 850, 2420, 140), "UW": Phone(310, 950, 2250, 150),
    "EY1": Phone(500, 1950, 2550, 90), "EY2": Phone(340, 2250, 2800, 80),
    "AY1": Phone(720, 1220, 2520, 120), "AY2": Phone(390, 2050, 2600, 90),
    "OW1": Phone(540, 1050, 2380, 90), "OW2": Phone(390, 800, 2350, 100),
    "AX": Phone(500, 1450, 2500, 50), "W": Phone(300, 620, 2200, 70, voice=0.6),
    "R": Phone(340, 1080, 1450, 80, voice=0.7), "RX": Phone(450, 1250, 1600, 90, voice=0.8),
    "N": Phone(280, 1400, 2500, 80, voice=0.45, damping=2.5),
    "Z": Phone(280, 1500, 2550, 90, voice=0.3, hiss=0.3, hiss_hz=5200, hiss_width=1700),
    "V": Phone(280, 1100, 2200, 65, voice=0.35, hiss=0.03, hiss_hz=4200, hiss_width=6000),
    "S": Phone(330, 1500, 2550, 120, voice=0, hiss=0.5, hiss_hz=5400, hiss_width=1800),
    "F": Phone(340, 1150, 2150, 110, voice=0, hiss=0.06, hiss_hz=4200, hiss_width=6000),
    "TH": Phone(320, 1350, 2550, 100, voice=0, hiss=0.05, hiss_hz=4800, hiss_width=5000),
    "TCL": Phone(300, 1700, 2650, 60, voice=0), "KCL": Phone(300, 1950, 2500, 60, voice=0),
    "T": Phone(330, 1750, 2700, 16, voice=0, hiss=0.6, hiss_hz=4200, hiss_width=2200),
    "K": Phone(330, 1950, 2500, 20, voice=0, hiss=0.6, hiss_hz=2000, hiss_width=700),
    "HH": Phone(420, 1500, 2500, 35, voice=0, breath=0.5),
    "SIL": Phone(450, 1450, 2500, 100, voice=0),
}  # fmt: skip

WORDS: dict[str, tuple[str, ...]] = {
    "0": ("Z IH R OW1 OW2", "Z IY R OW1 OW2"),
    "1": ("W AH N", "W AH AX N"),
    "2": ("TCL T HH UW", "TCL T HH UW UW"),
    "3": ("TH R IY", "TCL T R IY", "F R IY", "TH R IY IY"),
    "4": ("F AO RX", "F AO AX", "F OW1 RX"),
    "5": ("F AY1 AY2 V", "F AY1 AY2 F", "F AY1 AY2"),
    "6": ("S IH KCL K S", "S IH KCL S", "S IY KCL K S"),
    "7": ("S EH V AH N", "S EH V AX N", "S EH V N"),
    "8": ("EY1 EY2 TCL T", "EY1 EY2 TCL", "EH EY2 TCL T HH"),
    "9": ("N AY1 AY2 N", "N AH AY2 N"),
}
"""Ways to say each digit; the first is the most frequent."""


@dataclass(frozen=True)
class Voice:
    """What stays the same while one speaker speaks on one line."""

    pitch: float
    melody: float  # how far the pitch moves
    tract: float  # formants are multiplied by it: a shorter tract, higher formants
    pace: float
    breath: float
    tilt_hz: float  # above it the voice loses another 6 dB an octave
    open_quotient: float
    jitter: float
    accent: dict[str, Array]  # factors on F1..F3 and the duration of each phoneme
    habits: dict[str, int]  # which way to say each digit
    pause: float
    rate: int
    phone_line: bool
    noise_db: float
    noise_slope: float
    room: float
    room_seconds: float


def draw_voice(rng: np.random.Generator) -> Voice:
    """A random speaker on a random line."""
    height = float(rng.normal(0, 1))  # one draw moves pitch and tract together, as in people
    pitch = float(np.clip(145 * np.exp(0.33 * height + 0.15 * rng.normal()), 75, 320))
    phone_line = bool(rng.random() < 0.5)
    accent = {name: np.exp(rng.normal(0, 1, 4) * [0.07, 0.06, 0.035, 0.15]) for name in PHONES}
    habits = {
        digit: 0 if rng.random() < 0.6 else int(rng.integers(len(ways)))
        for digit, ways in WORDS.items()
    }
    return Voice(
        pitch=pitch,
        melody=float(rng.uniform(0.03, 0.25)),
        tract=float(np.clip(np.exp(0.075 * height + 0.05 * rng.normal()), 0.82, 1.28)),
        pace=float(np.exp(rng.normal(0.05, 0.2))),
        breath=float(rng.beta(1.5, 6) * 0.6),
        tilt_hz=float(np.exp(rng.uniform(np.log(600), np.log(5000)))),
        open_quotient=float(rng.uniform(0.4, 0.8)),
        jitter=float(rng.uniform(0.002, 0.02)),
        accent=accent,
        habits=habits,
        pause=float(rng.uniform(0, 0.18)),
        rate=8_000 if phone_line or rng.random() < 0.4 else 16_000,
        phone_line=phone_line,
        noise_db=float(rng.uniform(-45, -16)),
        noise_slope=float(rng.uniform(0, 1.2)),
        room=float(rng.uniform(0, 0.35) * (rng.random() < 0.6)),
        room_seconds=float(rng.uniform(0.1, 0.5)),
    )


def speak(digits: str, voice: Voice, rng: np.random.Generator) -> Array:
    """The digits as this voice says them, FP32 samples at the voice's rate."""
    tracks = _tracks(digits, voice, rng)
    clean = _voice_and_noise(tracks, voice, rng)
    return _record(clean, voice, rng)


def _tracks(digits: str, voice: Voice, rng: np.random.Generator) -> dict[str, Array]:
    """Every control of the synthesiser, one value a hop."""
    targets: list[Array] = []
    names: list[str] = []
    stress: list[float] = []

    def say(name: str, ms: float, lift: float) -> None:
        phone = np.array(PHONES[name])
        factors = voice.accent[name] * np.exp(rng.normal(0, 1, 4) * [0.03, 0.03, 0.02, 0.12])
        phone[:3] *= factors[:3] * voice.tract
        phone[7] *= 0.5 + 0.5 * voice.tract
        hops = max(2, round(ms * factors[3] / voice.pace / 5))
        targets.extend([phone] * hops)
        names.extend([name] * hops)
        stress.extend([lift] * hops)

    say("SIL", float(rng.uniform(60, 350)), 0.0)
    for position, digit in enumerate(digits):
        ways = WORDS[digit]
        way = voice.habits[digit] if rng.random() < 0.85 else int(rng.integers(len(ways)))
        last = position == len(digits) - 1
        lift = float(rng.normal(0.0, 1.0)) - (1.0 if last else 0.0)
        for name in ways[way].split():
            say(name, PHONES[name].ms * (1.25 if last else 1.0), lift)
        if not last and rng.random() < 0.7:
            say("SIL", 1000 * voice.pause * float(rng.uniform(0.2, 2.0)), 0.0)
    say("SIL", float(rng.uniform(60, 350)), 0.0)
    raw = np.array(targets)
    stops = np.isin(names, ("T", "K", "TCL", "KCL"))
    slow, fast = _smooth(raw, 13), _smooth(raw, 5)
    levels = np.where(stops[:, None], _smooth(raw, 3), fast)
    time = np.linspace(0, 1, len(raw))
    wander = _smooth(rng.normal(0, 1, (len(raw), 1)), 41)[:, 0]
    tune = _smooth(np.array(stress)[:, None], 25)[:, 0] - 1.2 * time + wander
    return {
        "formants": slow[:, :3], "voice": levels[:, 4], "breath": levels[:, 5],
        "hiss": levels[:, 6], "hiss_hz": fast[:, 7], "hiss_width": fast[:, 8],
        "damping": fast[:, 9], "pitch": voice.pitch * np.exp(voice.melody * tune),
    }  # fmt: skip


def _smooth(track: Array, width: int) -> Array:
    kernel = np.hanning(width + 2)[1:-1]
    kernel /= kernel.sum()
    padded = np.pad(track, ((width // 2, width // 2), (0, 0)), mode="edge")
    return np.apply_along_axis(np.convolve, 0, padded, kernel, "valid")


def _voice_and_noise(tracks: dict[str, Array], voice: Voice, rng: np.random.Generator) -> Array:
    """The source through the moving filter, by overlapping frames of 10 ms."""
    hops = len(tracks["pitch"])
    each = np.repeat(np.arange(hops), HOP)
    size = hops * HOP
    shaky = 1 + voice.jitter * _smooth(rng.normal(0, 4, (size, 1)), 79)[:, 0]
    phase = np.cumsum(tracks["pitch"][each] * shaky / RATE) % 1.0
    inside = phase / voice.open_quotient
    pulses = np.where(inside < 1, inside * (2 - 3 * inside), 0.0)  # KLGLOTT88, differentiated
    white = rng.normal(0, 1, size)
    voiced = tracks["voice"][each] * pulses
    breathy = voice.breath * tracks["voice"][each] * (inside < 1) + tracks["breath"][each]

    hertz = np.fft.rfftfreq(FFT, 1 / RATE)
    glottal = _frames(voiced) / (1 + 1j * hertz / voice.tilt_hz) + 0.25 * _frames(breathy * white)
    tract = np.ones((hops, len(hertz)), complex)
    for index, width in enumerate((60.0, 90.0, 130.0)):
        bandwidth = width * tracks["damping"] * (1 + voice.breath)
        tract *= _resonator(hertz, tracks["formants"][:, index, None], bandwidth[:, None])
    for centre, width in (
        (3500, 220),
        (4500, 300),
        (5500, 400),
        (6500, 500),
        (7500, 600),
    ):
        tract *= _resonator(hertz, np.array([[centre * voice.tract]]), np.array([[width]]))
    hissing, spread = tracks["hiss_hz"][:, None], tracks["hiss_width"][:, None]
    turbulence = 1 / (1 + ((hertz - hissing) / (spread / 2)) ** 2)
    spectrum = glottal * tract
    spectrum += _frames(tracks["hiss"][each] * rng.normal(0, 1, size)) * turbulence
    frames = np.fft.irfft(spectrum, FFT)
    out = np.zeros(size + FFT)
    for offset in range(0, FFT, HOP):  # overlap-add, a column of hops at a time
        part = frames[:, offset : offset + HOP].ravel()
        whole = np.zeros((hops, HOP))
        whole[:, : len(part) // hops] = part.reshape(hops, -1)
        out[offset : offset + size] += whole.ravel()
    return out[:size]


def _frames(signal: Array) -> Array:
    """Spectra of Hann windows of two hops; the windows add up to one."""
    padded = np.pad(signal, (0, HOP))
    window = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * HOP) / HOP)
    cut = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP)[::HOP]
    return np.fft.rfft(cut * window, FFT)


def _resonator(hertz: Array, centre: Array, bandwidth: Array) -> Array:
    """A second-order resonance with gain 1 at 0 Hz."""
    squared = centre**2
    resonance: Array = squared / (squared - hertz**2 + 1j * bandwidth * hertz)
    return resonance


def _record(clean: Array, voice: Voice, rng: np.random.Generator) -> Array:
    """The room, the line and the noise, then 60 % of full scale give or take."""
    from scipy.signal import fftconvolve, resample_poly

    if voice.room:
        length = int(voice.room_seconds * RATE)
        tail = rng.normal(0, 1, length) * np.exp(-6.9 * np.arange(length) / length)
        tail *= voice.room / np.sqrt((tail**2).sum())
        clean = clean + fftconvolve(clean, tail)[: len(clean)]
    spectrum = np.fft.rfft(clean / np.sqrt((clean**2).mean()))
    hertz = np.fft.rfftfreq(len(clean), 1 / RATE)
    colour = (np.maximum(hertz, 50) / 1000) ** (-voice.noise_slope / 2)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(0, 1, len(clean))) * colour, len(clean))
    noise *= 10 ** (voice.noise_db / 20) / noise.std()
    spectrum += np.fft.rfft(noise)
    low, high = (300, 3400) if voice.phone_line else (60, 7600)
    spectrum *= 1 / (1 + (low / np.maximum(hertz, 1)) ** 8) / (1 + (hertz / high) ** 16)
    heard = np.fft.irfft(spectrum, len(clean))
    if voice.rate != RATE:
        heard = resample_poly(heard, voice.rate, RATE)
    level = 0.6 * float(np.exp(rng.uniform(-1.5, 0.4)))
    loud: Array = (heard / np.abs(heard).max() * min(level, 0.95)).astype(np.float32)
    if voice.phone_line:  # G.711 mu-law, 8 bits
        coded = np.sign(loud) * np.log1p(255 * np.abs(loud)) / np.log(256)
        coded = np.round(coded * 127) / 127
        loud = (np.sign(coded) * np.expm1(np.abs(coded) * np.log(256)) / 255).astype(np.float32)
    return loud
