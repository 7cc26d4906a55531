"""Objects that are their configuration, and nothing else."""

import operator
from typing import Any


class Config:
    """Compares, hashes and prints by `get_config`, which subclasses define.

    Its keys are both arguments of the constructor and attributes.
    """

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal object."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """An object from the result of `get_config`."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        arguments = (f"{name}={getattr(self, name)!r}" for name in self.get_config())
        return f"{type(self).__name__}({', '.join(arguments)})"


def integer(name: str, value: Any, lowest: int, highest: int) -> int:
    """`value` as an int, or a ValueError that says what is wrong with it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = lowest - 1
    if isinstance(value, bool) or not lowest <= number <= highest:
        raise ValueError(
            f"Received an invalid value for `{name}`, expected an integer from "
            f"{lowest} to {highest}. Received: {name}={value}"
        )
    return number
