"""in-toto through keyd: layout and link signed by opaque keys, verified by in-toto itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from in_toto.models.layout import Layout, Step
from in_toto.models.metadata import Envelope, Metablock
from in_toto.runlib import in_toto_run
from in_toto.verifylib import in_toto_verify
from securesystemslib.signer import Key

from tests.integration.sdk_daemon import Running, running

__all__ = ["running"]


def as_dict(key: Key) -> dict[str, Any]:
    """A key as in-toto's models want it."""
    return {"keyid": key.keyid, **key.to_dict()}


# in-toto 3.1 uses a name that its own dependency deprecates.
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
@pytest.mark.parametrize("scheme", ["ecdsa-sha2-nistp256", "ed25519", "rsassa-pss-sha256"])
@pytest.mark.parametrize("dsse", [False, True], ids=["classic", "dsse"])
def test_a_supply_chain_is_signed_by_opaque_keys(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, dsse: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    running.make_keys("owner", "builder", content="opaque", scheme=scheme)
    owner, builder = running.signer("owner"), running.signer("builder")
    step = Step(name="build", pubkeys=[builder.public_key.keyid])
    step.set_expected_command_from_string("touch product")
    keys = {builder.public_key.keyid: as_dict(builder.public_key)}
    layout = Layout(steps=[step], keys=keys)
    layout.set_relative_expiration(days=10)
    metadata = Envelope.from_signable(layout) if dsse else Metablock(signed=layout)
    metadata.create_signature(owner)
    in_toto_run("build", [], ["product"], ["touch", "product"], signer=builder, use_dsse=dsse)
    in_toto_verify(metadata, {owner.public_key.keyid: as_dict(owner.public_key)})
