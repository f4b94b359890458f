"""Reading files that decide what keyd does: only as their owner meant them."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from keyd import trusted_paths
from keyd.config.problems import ConfigurationError, problem

MAX_BYTES = 1024 * 1024


def read_trusted(path: Path) -> bytes:
    """A regular file of at most 1 MiB that nobody but root and this user can write or replace.

    Raises: ConfigurationError.
    """
    try:
        objection, data = _read(path)
        objection = objection or trusted_paths.objection(path.absolute())
    except OSError as error:
        objection, data = f"{path} cannot be read: {error.strerror}", b""
    if len(data) > MAX_BYTES:
        objection = f"{path} is larger than {MAX_BYTES} bytes"
    if objection:
        raise ConfigurationError(path, [problem("FILE_UNUSABLE", "", objection)])
    return data


def _read(path: Path) -> tuple[str, bytes]:
    """What speaks against the open file, or its bytes; a FIFO does not block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return f"{path} is no regular file", b""
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return "", file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def parse_toml(path: Path, data: bytes) -> dict[str, Any]:
    """The decoded document. Raises: ConfigurationError naming the line."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    # Encoding, grammar and numbers of thousands of digits are all ValueErrors.
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            path, [problem("TOML_INVALID", "", f"not valid TOML: {error}")]
        ) from error
