"""One algorithm service platform for all departments of a city."""

__version__ = "0.1.0"
