"""A camera over a ground plane, and the flat shapes and boxes it sees, painted with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from citybrain.core.shelf import needs
from citybrain.core.tensors import Array

SIDE = 256  # pixels
Colour = tuple[int, int, int]
Corners = Sequence[tuple[float, ...]]
_NEAR = 1.0  # metres before the lens; what is nearer is cut off


class Camera:
    """Looks at the origin of the ground from a height; turns metres into pixels."""

    def __init__(self, rng: np.random.Generator) -> None:
        # One in four straight from above (a drone), the others from a mast or a bridge.
        tilt = np.pi / 2 - 0.02 if rng.random() < 0.25 else rng.uniform(0.6, 1.35)
        turn = rng.uniform(0, 2 * np.pi)
        width = rng.uniform(17.0, 28.0)  # metres across the middle of the picture
        self.distance = rng.uniform(1.2, 2.2) * width
        self.focal = SIDE * self.distance / width
        flat = np.cos(tilt)
        toward = np.array([np.cos(turn) * flat, np.sin(turn) * flat, np.sin(tilt)])
        right = np.array([-np.sin(turn), np.cos(turn), 0.0])
        self.axes = np.stack([right, np.cross(right, toward), toward])
        self.eye = toward * self.distance
        self.reach = width * (0.75 if tilt > 1.2 else 1.3)

    def see(self, points: Any) -> Array:
        """Pixels `[n,2]` of points `[n,3]`, held a metre before the lens at the nearest."""
        local = np.asarray(points, float) @ self.axes.T
        return self._project(local)

    def see_polygon(self, points: Any) -> Array:
        """Pixels of a polygon, cut at the plane before the lens; maybe none are left."""
        local = np.asarray(points, float) @ self.axes.T
        depth = self.distance - local[:, 2] - _NEAR
        if (depth >= 0).all():
            return self._project(local)
        kept = []  # Sutherland and Hodgman 1974, for one plane
        for here in range(len(local)):
            after = (here + 1) % len(local)
            if depth[here] >= 0:
                kept.append(local[here])
            if (depth[here] >= 0) != (depth[after] >= 0):
                share = depth[here] / (depth[here] - depth[after])
                kept.append(local[here] + share * (local[after] - local[here]))
        return self._project(np.array(kept).reshape(-1, 3))

    def far(self, x: float, y: float) -> float:
        """Smaller is farther: the order in which to paint."""
        return float(self.axes[2, 0] * x + self.axes[2, 1] * y)

    def _project(self, local: Array) -> Array:
        depth = np.maximum(self.distance - local[:, 2], _NEAR)
        pixels: Array = local[:, :2] * (self.focal / depth)[:, None] + SIDE / 2
        return pixels


class Canvas:
    """What the camera sees, the light of lamps apart, and whose surface each pixel shows."""

    def __init__(self, camera: Camera, ground: Colour, sun: Array) -> None:
        with needs():
            from PIL import Image, ImageDraw
        self.camera, self.sun = camera, sun
        self.picture: Any = Image.new("RGB", (SIDE, SIDE), ground)
        self.owner: Any = Image.new("I", (SIDE, SIDE), 0)
        self.glow: Any = Image.new("RGB", (SIDE, SIDE), 0)
        self._paint: Any = ImageDraw.Draw(self.picture)
        self._own: Any = ImageDraw.Draw(self.owner)
        self._light: Any = ImageDraw.Draw(self.glow)

    def flat(self, corners: Corners, height: float, colour: Colour, number: int = 0) -> None:
        """A polygon parallel to the ground."""
        self._polygon([(x, y, height) for x, y in corners], colour, number)

    def box(
        self,
        corners: Corners,
        low: float,
        high: float,
        colour: Colour,
        *,
        number: int = 0,
        side: Colour | None = None,
    ) -> None:
        """A box over a rectangle: the walls that face the camera, then the roof."""
        eye = self.camera.eye
        for here, after in ((0, 1), (1, 2), (2, 3), (3, 0)):
            (ax, ay), (bx, by) = corners[here], corners[after]
            out = np.array([by - ay, ax - bx])
            if out @ (eye[:2] - np.array([(ax + bx) / 2, (ay + by) / 2])) <= 0:
                continue
            wall = shade(side or colour, 0.8 if out @ self.sun > 0 else 0.55)
            self._polygon([(ax, ay, low), (bx, by, low), (bx, by, high), (ax, ay, high)],
                          wall, number)  # fmt: skip
        self.flat(corners, high, colour, number)

    def blob(self, centre: Array, radius: float, colour: Colour) -> None:
        """A disc in pixels: a part of a tree's crown."""
        where = (*(centre - radius), *(centre + radius))
        self._paint.ellipse(where, fill=colour)
        self._own.ellipse(where, fill=0)

    def beam(self, corners: Corners, colour: Colour) -> None:
        """Light on the ground."""
        points = self.camera.see_polygon([(x, y, 0.0) for x, y in corners])
        if len(points) > 2:
            self._light.polygon([tuple(point) for point in points], fill=colour)

    def lamp(self, x: float, y: float, height: float, colour: Colour) -> None:
        """A bright point."""
        ((px, py),) = self.camera.see([(x, y, height)])
        self._light.ellipse((px - 1.6, py - 1.6, px + 1.6, py + 1.6), fill=colour)

    def _polygon(self, corners: Corners, colour: Colour, number: int) -> None:
        points = self.camera.see_polygon(corners)
        if len(points) > 2:
            outline = [tuple(point) for point in points]
            self._paint.polygon(outline, fill=colour)
            self._own.polygon(outline, fill=number)


def shade(colour: Colour, share: float) -> Colour:
    """The colour in more or less light."""
    red, green, blue = (min(255, int(value * share)) for value in colour)
    return red, green, blue


def rectangle(
    x: float, y: float, angle: float, long: float, wide: float
) -> list[tuple[float, float]]:
    """The corners of a rectangle around a point, clockwise from the front left."""
    cos, sin = np.cos(angle) * long / 2, np.sin(angle) * long / 2
    left, up = -np.sin(angle) * wide / 2, np.cos(angle) * wide / 2
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return [(float(x + a * cos + b * left), float(y + a * sin + b * up)) for a, b in signs]
