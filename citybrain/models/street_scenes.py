"""Street scenes drawn from nothing: roads, vehicles, trees, houses, people, by day, night and rain.

A pinhole camera looks at a ground plane from straight above or obliquely. A vehicle is two boxes
(body and cabin) on the ground, painted far to near; its label is the frame around its corners.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from citybrain.core.shelf import needs
from citybrain.core.tensors import Array
from citybrain.models.street_canvas import SIDE, Camera, Canvas, Colour, rectangle, shade

LANE = 3.4  # metres
KINDS = {  # length, width, height of the body, height of the cabin; metres
    "car": (4.4, 1.85, 0.8, 1.45),
    "van": (5.2, 2.0, 1.2, 2.1),
    "truck": (8.5, 2.5, 1.3, 3.2),
    "bus": (11.5, 2.55, 1.2, 3.1),
}
PAINT = (
    (238, 238, 236), (30, 32, 36), (160, 164, 170), (62, 58, 66), (172, 28, 30), (28, 62, 140),
    (200, 170, 60), (36, 94, 66), (120, 74, 48), (210, 205, 190), (220, 110, 30), (70, 130, 170),
)  # fmt: skip
GLASS = (38, 46, 56)


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, the frames of its vehicles (x1, y1, x2, y2 in pixels), and what it shows."""

    image: Array
    boxes: Array
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class Road:
    """A straight road: its angle, its distance from the origin, its lanes."""

    angle: float
    offset: float
    lanes: int

    @property
    def half(self) -> float:
        return self.lanes * LANE / 2

    def at(self, along: float, across: float) -> tuple[float, float]:
        """A point of the road's own frame on the ground."""
        cos, sin, side = np.cos(self.angle), np.sin(self.angle), across + self.offset
        return float(along * cos - side * sin), float(along * sin + side * cos)

    def beside(self, x: float, y: float) -> float:
        """Metres from the road's edge; negative on the road."""
        across = -x * np.sin(self.angle) + y * np.cos(self.angle) - self.offset
        return float(abs(across) - self.half)


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A vehicle on the ground, and the number of its pixels."""

    x: float
    y: float
    angle: float
    kind: str
    paint: Colour
    number: int

    def part(self, ahead: float, long: float, wide: float) -> list[tuple[float, float]]:
        """A rectangle of the vehicle: its centre `ahead` of the middle, shares of its size."""
        size = KINDS[self.kind]
        x = self.x + np.cos(self.angle) * ahead * size[0]
        y = self.y + np.sin(self.angle) * ahead * size[0]
        return rectangle(x, y, self.angle, long * size[0], wide * size[1])


def scenes(seed: list[int], count: int) -> Iterator[Scene]:
    """So many scenes; light and weather take turns, so that every slice has its share."""
    for number in range(count):
        tags = {
            "light": ("day", "night")[number % 2],
            "weather": ("clear", "rain")[number // 2 % 2],
        }
        yield _Painter(np.random.default_rng([*seed, number]), tags).scene()


class _Painter:
    def __init__(self, rng: np.random.Generator, tags: dict[str, str]) -> None:
        self.rng, self.tags = rng, tags
        self.night, self.rain = tags["light"] == "night", tags["weather"] == "rain"
        self.camera = Camera(rng)
        self.canvas = Canvas(self.camera, self._near((96, 112, 84), 22), rng.uniform(-0.9, 0.9, 2))

    def scene(self) -> Scene:
        roads = self._roads()
        vehicles = self._vehicles(roads)
        props = self._props(roads)
        order = [(self.camera.far(v.x, v.y), 0, i) for i, v in enumerate(vehicles)]
        order += [(self.camera.far(p[0], p[1]), 1, i) for i, p in enumerate(props)]
        for _, prop, index in sorted(order):
            if prop:
                self._prop(*props[index])
            else:
                self._vehicle(vehicles[index])
        return Scene(self._finish(), self._boxes(vehicles), self.tags)

    def _near(self, colour: tuple[int, ...], spread: float) -> Colour:
        """A colour like this one: mostly lighter or darker, a little of another hue."""
        moved = np.array(colour) + self.rng.normal(0, spread) + self.rng.normal(0, spread / 3, 3)
        red, green, blue = np.clip(moved, 5, 250).astype(int).tolist()
        return red, green, blue

    def _strip(self, road: Road, along: tuple[float, float], across: tuple[float, float],
               colour: Colour) -> None:  # fmt: skip
        (a, b), (c, d) = along, across
        self.canvas.flat([road.at(a, c), road.at(b, c), road.at(b, d), road.at(a, d)], 0.0, colour)

    def _roads(self) -> list[Road]:
        """One road or two that cross, with kerbs, lane lines, crossings and patches of tar."""
        rng, whole = self.rng, (-60.0, 60.0)
        angle = float(rng.uniform(0, np.pi))
        roads = [Road(angle, float(rng.uniform(-4, 4)), int(rng.integers(2, 6)))]
        if rng.random() < 0.4:
            turned = angle + np.pi / 2 + rng.normal(0, 0.1)
            roads.append(Road(float(turned), float(rng.uniform(-6, 6)), 2))
        pave, tar = self._near((150, 146, 140), 18), self._near((92, 93, 95), 20)
        line = self._near((222, 222, 214), 12)
        for road in roads:
            self._strip(road, whole, (-road.half - 2.5, road.half + 2.5), pave)
        for road in roads:
            self._strip(road, whole, (-road.half, road.half), tar)
        for road in roads:
            for _ in range(int(rng.integers(0, 8))):
                u, v = rng.uniform(-25, 25), rng.uniform(-road.half, road.half - 1)
                long, wide = rng.uniform(0.4, 3.0, 2)
                tone = shade(tar, rng.uniform(0.8, 1.2))
                self._strip(road, (u, u + long), (v, min(v + wide, road.half)), tone)
            for lane in range(1, road.lanes):
                at = -road.half + lane * LANE
                for start in range(-60, 60, 6):
                    self._strip(road, (start, start + 3), (at - 0.08, at + 0.08), line)
            for edge in (-road.half + 0.25, road.half - 0.25):
                self._strip(road, whole, (edge - 0.07, edge + 0.07), line)
            if rng.random() < 0.35:
                u = rng.uniform(-10, 10)
                for v in np.arange(-road.half + 0.4, road.half - 0.4, 1.0):
                    self._strip(road, (u, u + 3), (v, v + 0.5), line)
        return roads

    def _vehicles(self, roads: list[Road]) -> list[Vehicle]:
        """In lanes, and parked at the kerb; none into another."""
        rng, reach = self.rng, self.camera.reach
        found: list[Vehicle] = []
        busy = rng.uniform(0.15, 0.7)
        for road in roads:
            rows = [(-road.half + (lane + 0.5) * LANE, busy) for lane in range(road.lanes)]
            if rng.random() < 0.4:
                rows.append((road.half + 1.3, 0.5))
            others = list(found)  # those of the road that this one crosses
            for across, share in rows:
                along = -reach + rng.uniform(0, 8)
                while along < reach:
                    kind = str(rng.choice(list(KINDS), p=[0.66, 0.16, 0.1, 0.08]))
                    long = KINDS[kind][0]
                    x, y = road.at(along + long / 2, across + rng.normal(0, 0.15))
                    along += long + 1.2 + rng.exponential(4.0)
                    if rng.random() > share or any(
                        np.hypot(x - v.x, y - v.y) < (long + KINDS[v.kind][0]) / 2 for v in others
                    ):
                        continue
                    turn = road.angle + (np.pi if across < 0 else 0) + rng.normal(0, 0.03)
                    paint = self._near(PAINT[int(rng.integers(len(PAINT)))], 12)
                    found.append(Vehicle(x, y, float(turn), kind, paint, len(found) + 1))
        return found

    def _props(self, roads: list[Road]) -> list[tuple[float, float, str, float, Colour]]:
        """Trees and houses off the roads, people anywhere."""
        rng, found = self.rng, []
        kinds = {"tree": (3.0, (52, 92, 48)), "house": (9.0, (158, 132, 112)),
                 "person": (-99.0, (120, 90, 90))}  # fmt: skip
        for _ in range(int(rng.integers(8, 30))):
            x, y = rng.uniform(-self.camera.reach, self.camera.reach, 2).tolist()
            kind = str(rng.choice(list(kinds), p=[0.45, 0.2, 0.35]))
            margin, colour = kinds[kind]
            if min(road.beside(x, y) for road in roads) < margin:
                continue
            low, high = {"tree": (1.2, 3.0), "house": (4.0, 9.0), "person": (0.45, 0.6)}[kind]
            found.append((x, y, kind, float(rng.uniform(low, high)), self._near(colour, 24)))
        return found

    def _prop(self, x: float, y: float, kind: str, size: float, colour: Colour) -> None:
        if kind != "tree":
            high = 1.7 if kind == "person" else self.rng.uniform(2.5, 6.0)
            long = size * (1.0 if kind == "person" else self.rng.uniform(0.7, 1.6))
            base = rectangle(x, y, self.rng.uniform(0, np.pi), long, size)
            self.canvas.box(base, 0.0, high, colour)
            return
        centre = self.camera.see([(x, y, 3.0)])[0]
        radius = size * self.camera.focal / self.camera.distance
        for _ in range(9):
            leaf = shade(colour, self.rng.uniform(0.8, 1.2))
            where = centre + self.rng.normal(0, radius / 2.2, 2)
            self.canvas.blob(where, radius * self.rng.uniform(0.4, 0.7), leaf)

    def _vehicle(self, it: Vehicle) -> None:
        canvas, (_, _, body, top) = self.canvas, KINDS[it.kind]
        if not self.night:
            reach = canvas.sun * (0.5 if self.rain else 1.0)
            for high in (body, top):  # each box throws its own shadow
                shadow = [(x + reach[0] * high, y + reach[1] * high) for x, y in it.part(0, 1, 1)]
                canvas.flat(shadow, 0.0, (62, 64, 68) if self.rain else (44, 46, 50))
        canvas.box(it.part(0, 1, 1), 0.25, body, it.paint, number=it.number)
        share, back = {"car": (0.52, -0.04), "van": (0.8, -0.08), "truck": (0.72, -0.13),
                       "bus": (0.98, 0.0)}[it.kind]  # fmt: skip
        side = it.paint if it.kind == "truck" else GLASS
        canvas.box(it.part(back, share, 0.88), body, top, it.paint, number=it.number, side=side)
        if it.kind == "truck":  # the driver's cabin before the load
            front = it.part(0.38, 0.2, 0.9)
            canvas.box(front, body, 2.4, it.paint, number=it.number, side=GLASS)
        elif it.kind == "car":  # front and rear window, as seen from above
            for ahead in (0.2, -0.29):
                canvas.flat(it.part(ahead, 0.11, 0.78), body + 0.25, GLASS, it.number)
        if self.night or self.rain:
            self._lamps(it)

    def _lamps(self, it: Vehicle) -> None:
        front, rear = it.part(0.5, 0.0, 0.72)[:2], it.part(-0.5, 0.0, 0.72)[:2]
        far = it.part(0.5 + 7 / KINDS[it.kind][0], 0.0, 1.9)[:2]
        for white, red in zip(front, rear, strict=True):
            self.canvas.beam([white, *far], (38, 36, 30))
            self.canvas.lamp(*white, 0.7, (255, 246, 214))
            self.canvas.lamp(*red, 0.7, (230, 30, 24))

    def _boxes(self, vehicles: list[Vehicle]) -> Array:
        """Frames of the vehicles of which enough is in the picture and not hidden."""
        owned = np.bincount(np.asarray(self.canvas.owner).ravel(), minlength=len(vehicles) + 1)
        found = []
        for it in vehicles:
            _, _, body, top = KINDS[it.kind]
            base, roof = it.part(0, 1, 1), it.part(0, 0.6 if it.kind == "car" else 1, 0.9)
            points = self.camera.see([(x, y, z) for part, z in ((base, 0.1), (base, body),
                                      (roof, top)) for x, y in part])  # fmt: skip
            whole = np.concatenate([points.min(0), points.max(0)])
            box = np.clip(whole, 0, SIDE)
            size, full = box[2:] - box[:2], whole[2:] - whole[:2]
            hidden = owned[it.number] < 0.25 * size.prod()
            if size.min() >= 8 and size.prod() >= 0.3 * full.prod() and not hidden:
                found.append(box)
        return np.array(found, np.float32).reshape(-1, 4)

    def _finish(self) -> Array:
        """Light, weather and the camera's own noise."""
        with needs():
            from PIL import ImageFilter
        rng = self.rng
        image = np.asarray(self.canvas.picture.filter(ImageFilter.BoxBlur(0.6)), np.float32)
        if self.night or self.rain:
            lamps = np.asarray(self.canvas.glow.filter(ImageFilter.BoxBlur(1.2)), np.float32)
        if self.night:
            tint = np.array([0.85, 0.92, 1.1], np.float32)
            image = image * (rng.uniform(0.32, 0.55) * tint) + lamps * rng.uniform(0.8, 1.2)
        else:
            image = image * np.float32(rng.uniform(0.75, 1.15)) + (0.5 * lamps if self.rain else 0)
        if self.rain:
            haze = rng.uniform(0.1, 0.3)
            image = image * np.float32(1 - haze) + np.float32(haze * (40 if self.night else 165))
            slope = rng.normal(0, 0.25)
            for _ in range(int(rng.integers(60, 160))):
                fall, y = int(rng.integers(4, 10)), int(rng.uniform(0, SIDE - 10))
                columns = rng.uniform(0, SIDE) + slope * np.arange(fall)
                image[np.arange(y, y + fall), np.clip(columns.astype(int), 0, SIDE - 1)] += 30
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 7))
        return np.clip(image + noise, 0, 255).astype(np.uint8)
