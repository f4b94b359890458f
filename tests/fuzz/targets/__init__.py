"""One module for each parser: `check(data)` raises when bytes break what the parser promises.

`SEEDS` are small good inputs to begin with, `DICTIONARY` a file of words for the mutator, `mutate`
(where there is one) a mutator that knows the format.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

HERE = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in HERE.glob("[a-z]*.py")))
CORPUS = HERE.parent / "corpus"
DICTIONARIES = HERE.parent / "dictionaries"

Mutate = Callable[[bytes, int, int], bytes]


P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=Exception)


class Target(NamedTuple):
    """A parser under test."""

    name: str
    check: Callable[[bytes], None]
    dictionary: Path
    mutate: Mutate | None

    @property
    def corpus(self) -> Path:
        """The committed inputs."""
        return CORPUS / self.name


def outcome(refusal: type[E], call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | E:
    """What a call returned, or its typed refusal; every other exception passes."""
    try:
        return call(*args, **kwargs)
    except refusal as refused:
        return refused


def load(name: str) -> Target:
    """Import one target; what it imports is imported by this."""
    module = import_module(f"{__name__}.{name}")
    dictionary = DICTIONARIES / module.DICTIONARY
    return Target(name, module.check, dictionary, getattr(module, "mutate", None))
