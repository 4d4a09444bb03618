"""One exception type for everything that a user's input can get wrong."""

from __future__ import annotations


class InputError(Exception):
    """The message names the file, the line and the key, so that it can be shown without a traceback."""

    def __init__(self, message: str, *, where: str | None = None, line: int | None = None, key: str | None = None):
        place = "" if where is None else where
        if line is not None:
            place += f":{line}"
        if key is not None:
            place += f"{': ' if place else ''}{key}"
        super().__init__(f"{place}: {message}" if place else message)
