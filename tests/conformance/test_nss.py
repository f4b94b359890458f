"""What NSS softokn does otherwise than its neighbours, and what keyd makes of that."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.keys import Content, Scheme
from keyd.domain.tokens import TokenState
from keyd.errors import InvalidRequest
from keyd.ports import View
from keyd.services.key_creation import adopt_key
from tests.conformance.nss import IMPORTED_ID, NSSToken
from tests.conformance.subject import NAME, nss_config
from tests.fleets import P256, PATIENCE_S, config_for, running
from tests.softhsm import SoftHSMToken
from tests.worlds import ADMIN, make_key, open_world


def test_a_key_without_cka_local_needs_the_waiver(nss: NSSToken) -> None:
    cka_id = secrets.token_bytes(16)
    with running(nss_config(nss, waive_local=False)) as fleet:
        with pytest.raises(InvalidRequest, match="CKA_LOCAL") as refused:
            fleet.get(NAME).generate(P256, cka_id, "refused", PATIENCE_S)
        assert refused.value.reason == "KEY_ATTRIBUTES_REFUSED"
        assert "CKA_LOCAL" in fleet.get(NAME).find(cka_id, PATIENCE_S).problem
    with running(nss_config(nss)) as fleet:
        found = fleet.get(NAME).find(cka_id, PATIENCE_S)
    assert (found.healthy, found.waived) == (True, ("CKA_LOCAL",))


def test_the_waiver_does_not_let_imported_keys_in(nss: NSSToken) -> None:
    """NSS believes whoever claims CKA_LOCAL, but nobody who claims the other two."""
    nss.run("import-key")
    with running(nss_config(nss)) as fleet:
        found = fleet.get(NAME).find(IMPORTED_ID, PATIENCE_S)
    assert (found.healthy, found.waived) == (False, ())
    assert found.problem == "CKA_ALWAYS_SENSITIVE is not true"


def test_the_log_tells_what_was_waived(nss: NSSToken, tmp_path: Path) -> None:
    with running(nss_config(nss)) as fleet:
        world = replace(open_world(tmp_path), tokens=fleet)
        make_key(world, "made", scheme=Scheme.ECDSA_P256, token=NAME)
        stray = fleet.get(NAME).generate(P256, secrets.token_bytes(16), "stray", PATIENCE_S)
        adopt_key(
            world,
            ADMIN,
            name="adopted",
            token=NAME,
            cka_id=stray.cka_id,
            scheme=None,
            content=Content.TUF,
            timeout_s=PATIENCE_S,
        )
        waived = world.ledger.read(_waived)
        world.ledger.close()
    assert waived == {"key_created": ["CKA_LOCAL"], "key_adopted": ["CKA_LOCAL"]}


def _waived(view: View) -> dict[str, object]:
    entries = [json.loads(leaf.data) for leaf in view.leaves(0, view.log_size())]
    return {entry["event"]: entry["waived"] for entry in entries if "waived" in entry}


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ("", "refuses its module_parameters"),
        ("configdir='sql:/nonexistent' flags=readOnly", "the module failed"),
        ("configdir='sql:{elsewhere}' dbTokenDescription='keyd test'", "the token is not there"),
    ],
)
def test_wrong_parameters_leave_the_token_offline(
    parameters: str, detail: str, nss: NSSToken, tmp_path: Path
) -> None:
    parameters = parameters.format(elsewhere=tmp_path)
    with running(nss_config(nss, module_parameters=parameters)) as fleet:
        status = fleet.get(NAME).status()
    assert status.state is TokenState.OFFLINE
    assert detail in status.detail


def test_so_do_parameters_for_a_module_that_takes_none(softhsm: SoftHSMToken) -> None:
    with running(config_for(softhsm, name=NAME, module_parameters="configdir='/'")) as fleet:
        status = fleet.get(NAME).status()
    assert status.state is TokenState.OFFLINE
    assert "refuses its module_parameters" in status.detail
