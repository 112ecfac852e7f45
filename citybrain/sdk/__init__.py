"""The Python client: `CityBrain(url, key)` for departments, developers and admins.

It needs the core and httpx only. Errors are those of `citybrain.core.errors`, the same classes
that the platform raises inside.
"""

from citybrain.sdk.client import CityBrain

__all__ = ["CityBrain"]
