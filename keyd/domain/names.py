"""Names that people give to keys and repositories."""

from __future__ import annotations

import re

from keyd.errors import InvalidRequest

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


def check_name(kind: str, name: str) -> None:
    """Refuse names that would be ambiguous in URIs, file names or logs.

    Raises: InvalidRequest (NAME_INVALID).
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "NAME_INVALID",
            f"{kind} names have 1 to 64 of a-z, 0-9, '-', '_' and '.', and start with a letter or "
            "digit",
        )


def check_named(record: object) -> None:
    """Refuse a record whose `repository` or `key` is no name, or whose `role` or `token` no line.

    They are printed, and stand in file names. Raises: InvalidRequest (NAME_INVALID).
    """
    for kind in ("repository", "key"):
        name = getattr(record, kind, None)
        if name is not None:
            check_name(kind, name)
    for kind in ("role", "token"):
        check_line(kind, getattr(record, kind, ""))


def check_line(kind: str, text: str) -> None:
    """Refuse text that could steer a terminal, or hide in a line. Raises: InvalidRequest."""
    if not text.isprintable():
        raise InvalidRequest("NAME_INVALID", f"the {kind} has characters that do not print")


def check_comment(comment: str) -> None:
    """Refuse comments that do not fit a log entry. Raises: InvalidRequest (COMMENT_INVALID)."""
    if len(comment) > 500 or not comment.isprintable():
        raise InvalidRequest(
            "COMMENT_INVALID", "comments have at most 500 printable characters on one line"
        )
