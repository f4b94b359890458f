"""Pages of a rotation's files, which no client would take above its message limit."""

from __future__ import annotations

from typing import cast

import pytest

from keyd.domain.records_rotation import RotationFile
from keyd.rpc import limits
from keyd.rpc.call import Call
from keyd.rpc.rotations import Rotations
from keyd.services.rotation import advancing
from keyd.services.world import World
from keyd_protos.v1 import rotations_pb2 as pb

CALL = cast(Call, type("_Call", (), {"caller": None}))
NAME = "r-abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(("count", "size"), [(16_384, 700), (40_000, 1), (3, 3_999_900)])
def test_every_page_fits_into_a_message(
    monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    """As many files as there are hash bins are as much framing as content."""
    files = tuple(
        RotationFile(NAME, n, "demo", f"bin-{n:04x}", 0, 2, "", 0, b"x" * size)
        for n in range(count)
    )
    monkeypatch.setattr(advancing, "released_files", lambda *_: files)
    rotations = Rotations(cast(World, None))
    roles: list[str] = []
    while len(roles) < count:
        page = rotations.get_files(CALL, pb.GetFilesRequest(rotation=NAME, first=len(roles)))
        assert page.ByteSize() <= limits.MESSAGE_MAX
        assert (page.total, bool(page.files)) == (count, True)
        roles += [file.role for file in page.files]
    assert roles == [file.role for file in files]
