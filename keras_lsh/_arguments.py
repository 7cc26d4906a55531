"""Checks of what users pass: one wording for all errors."""

from typing import Any

import numpy as np


def is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_float(value: Any) -> bool:
    return isinstance(value, (float, np.floating))


def is_finite(value: Any) -> bool:
    """Whether the value is a real number, neither infinite nor NaN."""
    return (is_integer(value) or is_float(value)) and bool(np.isfinite(value))


def check_argument(name: str, value: Any, valid: bool, expected: str) -> None:
    """Raises a ValueError, in Keras' words, unless the value is valid."""
    if not valid:
        raise ValueError(
            f"Received an invalid value for `{name}`, expected {expected}. "
            f"Received: {name}={value}"
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    expected = "one of " + ", ".join(map(repr, choices))
    check_argument(name, value, isinstance(value, str) and value in choices, expected)
