"""One target under atheris: ``python -m tests.fuzz.run_target NAME [libFuzzer options] CORPUS…``.

Python code of keyd and of the parsers it stands on is instrumented, so that libFuzzer sees which
inputs lead somewhere new.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import atheris

from tests.fuzz import targets

_INSTRUMENTED = ["keyd", "keyd_client", "tests.fuzz.targets", "tomllib", "tuf.api"]


def main(argv: list[str]) -> NoReturn:
    with atheris.instrument_imports(include=_INSTRUMENTED):
        target = targets.load(argv[1])
    options = [argv[0], f"-dict={target.dictionary}", *argv[2:]]
    mutate = target.mutate
    if mutate is None:
        atheris.Setup(options, target.check)
    else:
        bend = mutate

        def custom(data: bytes, max_size: int, seed: int) -> bytes:
            # Half of the time by bytes: what is no good JSON must be refused just as well.
            if seed % 2:
                return bend(bytes(data), max_size, seed)
            return bytes(atheris.Mutate(data, max_size))

        atheris.Setup(options, target.check, custom_mutator=custom)
    atheris.Fuzz()
    raise SystemExit(0)


if __name__ == "__main__":
    main(sys.argv)
