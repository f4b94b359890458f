"""The order of a signature, over a real ledger: what is bound, replayed, added, refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import canonical, public_keys
from keyd.domain.keys import KeyState
from keyd.domain.records import IntentState
from keyd.errors import (
    ApprovalRequired,
    BackendUnavailable,
    DeadlineExceeded,
    Equivocation,
    InvalidRequest,
    KeydError,
    NotAllowed,
    PolicyViolation,
    SelfCheckFailed,
)
from keyd.services.check import check
from keyd.services.keys import change_state
from keyd.services.sign import sign
from keyd.services.world import World
from tests.fakes import SoftwareToken
from tests.worlds import (
    ADMIN,
    SIGNER,
    TIMEOUT_S,
    Author,
    active_author,
    existing_repository,
    make_key,
    new_author,
    open_world,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def token(world: World) -> SoftwareToken:
    found = world.tokens.get("soft")
    assert isinstance(found, SoftwareToken)
    return found


def log_events(world: World) -> list[str]:
    leaves = world.ledger.read(lambda view: list(view.leaves(0, view.log_size())))
    return [leaf.data.decode() for leaf in leaves]


def test_released_signature_verifies_and_is_recorded(world: World) -> None:
    author = active_author(world)
    released = author.sign("targets", "targets", author.targets(2))
    raw = canonical.encode(author.targets(2))
    assert released.key is not None
    public_keys.verify(released.key.public_der, released.key.scheme, raw, released.signature)
    completed = log_events(world)[released.log_index]
    assert '"event":"signature_completed"' in completed
    assert released.signature.hex() in completed


def test_same_bytes_return_the_recorded_signature(world: World) -> None:
    author = active_author(world)
    first = author.sign("targets", "targets", author.targets(2), request_id="a")
    asked = token(world).signed
    again = author.sign("targets", "targets", author.targets(2), request_id="b")
    assert again.signature == first.signature
    assert (first.replayed, again.replayed) == (False, True)
    assert token(world).signed == asked


def test_other_bytes_for_a_signed_version_are_refused_with_the_next_one(world: World) -> None:
    author = active_author(world)
    author.sign("targets", "targets", author.targets(2))
    asked = token(world).signed
    with pytest.raises(Equivocation) as refused:
        author.sign("targets", "targets", author.targets(2, days=91))
    assert refused.value.reason == "VERSION_ALREADY_SIGNED_DIFFERENTLY"
    assert refused.value.details["next_version"] == "3"
    assert token(world).signed == asked


def test_rollback_is_refused(world: World) -> None:
    author = active_author(world)
    author.sign("timestamp", "timestamp", author.timestamp(5))
    with pytest.raises(PolicyViolation) as refused:
        author.sign("timestamp", "timestamp", author.timestamp(3))
    assert refused.value.reason == "VERSION_NOT_INCREASING"


@pytest.mark.parametrize("order", list(itertools.permutations(("root-1", "root-2", "root-3"))))
def test_all_root_keys_sign_one_payload_in_any_order(world: World, order: tuple[str, ...]) -> None:
    author = new_author(world)
    root = author.root()
    results = [author.sign(key, "root", root) for key in (*order, *order)]
    assert [r.accepted for r in results[:3]] == [False, True, True]
    assert [r.replayed for r in results] == [False] * 3 + [True] * 3
    assert len({r.signature for r in results}) == 3
    assert len({r.digest for r in results}) == 1


def test_third_signer_of_the_next_root_may_come_after_it_is_trusted(world: World) -> None:
    author = active_author(world)
    author.keys["root-4"] = make_key(world, "root-4")
    root = author.root(2, root=(2, ["root-1", "root-2", "root-4"]))
    confirmed = author.change_digest(root)
    first = author.sign("root-1", "root", root, confirmed_change=confirmed)
    second = author.sign("root-2", "root", root, confirmed_change=confirmed)
    introduced = author.sign("root-4", "root", root, confirmed_change=confirmed)
    leaving = author.sign("root-3", "root", root, confirmed_change=confirmed)
    assert [r.accepted for r in (first, second, introduced, leaving)] == [False, True, True, True]
    with pytest.raises(NotAllowed) as refused:
        author.sign("targets", "root", root, confirmed_change=confirmed)
    assert refused.value.reason == "KEY_NOT_IN_ROLE"


def test_root_change_must_be_confirmed(world: World) -> None:
    author = active_author(world)
    with pytest.raises(PolicyViolation) as refused:
        author.sign("root-1", "root", author.root(2))
    assert refused.value.reason == "CHANGE_NOT_CONFIRMED"


def test_keys_become_active_when_metadata_that_lists_them_is_accepted(world: World) -> None:
    author = new_author(world)
    with pytest.raises(KeydError) as refused:
        author.sign("targets", "targets", author.targets())
    assert refused.value.reason == "SIGNING_ORDER_WRONG"
    author.publish_root(author.root(), "root-1", "root-2")
    keys = {key.name: key.state for key in world.ledger.read(lambda view: view.keys())}
    assert set(keys.values()) == {KeyState.ACTIVE}
    assert author.sign("targets", "targets", author.targets()).accepted


def test_snapshot_refers_to_accepted_targets_only(world: World) -> None:
    author = active_author(world)
    with pytest.raises(PolicyViolation) as refused:
        author.sign("snapshot", "snapshot", author.snapshot(2, targets=2))
    assert refused.value.reason == "TARGETS_METADATA_UNKNOWN"
    author.sign("targets", "targets", author.targets(2))
    assert author.sign("snapshot", "snapshot", author.snapshot(2, targets=2)).accepted


def test_token_failure_leaves_the_version_bound_and_the_retry_completes(world: World) -> None:
    author = active_author(world)
    token(world).failures.append(BackendUnavailable("TOKEN_UNAVAILABLE", "unplugged"))
    with pytest.raises(BackendUnavailable):
        author.sign("targets", "targets", author.targets(2))
    with pytest.raises(Equivocation):
        author.sign("targets", "targets", author.targets(2, days=91))
    assert author.sign("targets", "targets", author.targets(2)).accepted


def test_unknown_outcome_is_recorded_as_unknown(world: World) -> None:
    author = active_author(world)
    lost = DeadlineExceeded("DEADLINE_EXCEEDED", "late", details={"outcome": "UNKNOWN_RECORDED"})
    token(world).failures.append(lost)
    with pytest.raises(DeadlineExceeded):
        author.sign("targets", "targets", author.targets(2))
    assert f'"outcome":"{IntentState.UNKNOWN}"' in log_events(world)[-1]
    assert world.ledger.read(lambda view: view.open_intents()) == ()


def test_wrong_signature_is_never_released_and_quarantines_the_token(world: World) -> None:
    author = active_author(world)
    token(world).spoil = True
    with pytest.raises(SelfCheckFailed):
        author.sign("targets", "targets", author.targets(2))
    assert token(world).quarantined
    token(world).spoil = False
    token(world).release()
    assert author.sign("targets", "targets", author.targets(2)).accepted


def test_no_payload_of_one_repository_is_signed_as_anothers(world: World) -> None:
    one = active_author(world, "one")
    other = Author(world, "two", new_author(world, "two", prefix="two-").keys)
    other.publish_root(other.root(), "two-root-1", "two-root-2")
    with pytest.raises(NotAllowed) as refused:
        other.sign("targets", "targets", other.targets())
    assert refused.value.reason == "KEY_BELONGS_TO_ANOTHER_REPOSITORY"
    stolen = {**one.root(2), "version": 2}
    with pytest.raises(KeydError) as refused_root:
        other.sign("two-root-1", "root", stolen, confirmed_change=other.change_digest(stolen))
    reasons = {finding.reason for finding in refused_root.value.findings}
    assert "KEY_BELONGS_TO_ANOTHER_REPOSITORY" in reasons


def test_role_is_inferred_only_where_one_is_possible(world: World) -> None:
    author = active_author(world)
    payload = canonical.encode(author.targets(2))
    request = author.request("targets", "targets", payload)
    inferred = sign(
        world, SIGNER, type(request)(key="targets", payload=payload), timeout_s=TIMEOUT_S
    )
    assert (inferred.repository, inferred.role) == ("demo", "targets")
    author.keys["bins"] = make_key(world, "bins")
    author.sign("targets", "targets", author.delegating(3, a=(1, ["bins"]), b=(1, ["bins"])))
    bare = type(request)(key="bins", payload=canonical.encode(author.targets()))
    with pytest.raises(InvalidRequest) as refused:
        sign(world, SIGNER, bare, timeout_s=TIMEOUT_S)
    assert refused.value.reason == "ROLE_AMBIGUOUS"
    assert author.sign("bins", "a", author.targets()).role == "a"


def test_targets_key_signs_no_delegated_role(world: World) -> None:
    author = active_author(world)
    with pytest.raises(PolicyViolation) as refused:
        author.sign("targets", "targets", author.delegating(2, a=(1, ["targets"])))
    assert refused.value.reason == "TARGETS_KEY_IN_DELEGATED_ROLE"


def test_request_id_binds_one_body(world: World) -> None:
    author = active_author(world)
    author.sign("targets", "targets", author.targets(2), request_id="x")
    with pytest.raises(InvalidRequest) as refused:
        author.sign("targets", "targets", author.targets(3), request_id="x")
    assert refused.value.reason == "REQUEST_ID_REUSED"


def test_checksum_and_fingerprint_of_the_request_are_compared(world: World) -> None:
    author = active_author(world)
    with pytest.raises(InvalidRequest) as refused:
        author.sign("targets", "targets", author.targets(2), payload_sha256="0" * 64)
    assert refused.value.reason == "PAYLOAD_CHECKSUM_MISMATCH"
    with pytest.raises(NotAllowed) as mismatched:
        author.sign("targets", "targets", author.targets(2), key_sha256="0" * 64)
    assert mismatched.value.reason == "KEY_MISMATCH"


@pytest.mark.parametrize(
    ("method", "state", "reason"),
    [
        ("KeyService.SuspendKey", KeyState.SUSPENDED, "KEY_SUSPENDED"),
        ("KeyService.DeactivateKey", KeyState.DEACTIVATED, "KEY_DEACTIVATED"),
        ("KeyService.MarkKeyCompromised", KeyState.COMPROMISED, "QUORUM_UNAVAILABLE"),
    ],
)
def test_keys_that_are_not_active_do_not_sign(
    world: World, method: str, state: KeyState, reason: str
) -> None:
    author = active_author(world)
    change_state(world, ADMIN, method, "targets", new=state, comment="drill")
    with pytest.raises((NotAllowed, ApprovalRequired)) as refused:
        author.sign("targets", "targets", author.targets(2))
    assert refused.value.reason == reason


def test_check_tells_all_findings_and_changes_nothing(world: World) -> None:
    author = active_author(world)
    asked = token(world).signed
    size = world.ledger.read(lambda view: view.log_size())
    bad = author.targets(1, days=-1, targets={"../x": {"length": -1, "hashes": {}}})
    checked = check(world, SIGNER, author.request("targets", "targets", bad))
    reasons = {finding.reason for finding in checked.findings}
    expected = {"EXPIRED", "TARGET_PATH_UNSAFE", "TARGET_LENGTH_INVALID"}
    assert expected | {"VERSION_ALREADY_SIGNED_DIFFERENTLY"} <= reasons
    assert not checked.would_sign
    assert checked.next_version == 2
    assert token(world).signed == asked
    assert world.ledger.read(lambda view: view.log_size()) == size


def test_denied_call_is_on_record(world: World) -> None:
    active_author(world)
    stranger = replace(SIGNER, principal="unix:stranger")
    author = Author(world, "demo", {})
    with pytest.raises(NotAllowed) as refused:
        author.sign("targets", "targets", b"{}", caller=stranger)
    assert refused.value.reason == "POLICY_DENIES"
    assert '"event":"denied"' in log_events(world)[-1]


def test_repository_is_active_after_its_first_root(world: World) -> None:
    author = new_author(world)
    assert existing_repository(world, "demo").state == "BOOTSTRAP"
    author.publish_root(author.root(), "root-1", "root-2")
    assert existing_repository(world, "demo").state == "ACTIVE"


def test_nobody_blocks_a_role_by_delegating_it_too(world: World) -> None:
    """It would need the keys of both delegators from then on."""
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("alpha", "mallory", "sly")}
    delegated = {"alpha": (1, ["alpha"]), "mallory": (1, ["mallory"])}
    author.sign("targets", "targets", author.delegating(2, **delegated))
    with pytest.raises(PolicyViolation) as refused:
        author.sign("mallory", "mallory", author.delegating(1, alpha=(1, ["sly"])))
    assert refused.value.reason == "DELEGATION_NAME_INVALID"
    assert author.sign("alpha", "alpha", author.targets(1)).accepted
    # Whoever has it keeps it, and a name that is squatted on is told before it is given away.
    assert author.sign("targets", "targets", author.delegating(3, **delegated)).accepted
    author.sign("mallory", "mallory", author.delegating(1, late=(1, ["sly"])))
    with pytest.raises(PolicyViolation, match="'mallory' delegates this role"):
        author.sign("targets", "targets", author.delegating(4, **delegated, late=(1, ["alpha"])))


def test_bins_are_delegated_by_one_role(world: World) -> None:
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("bins", "mallory", "sly")}
    binned = author.delegating(2, mallory=(1, ["mallory"]))
    author.sign("targets", "targets", binned)
    listed = {
        "keys": author.key_objects("bins"),
        "succinct_roles": {**author.listing(1, "bins"), "bit_length": 4, "name_prefix": "bin"},
    }
    author.sign("mallory", "mallory", author.targets(1, delegations=listed))
    for version, name in ((3, "bin-0"), (4, "bin-f")):
        with pytest.raises(PolicyViolation) as refused:
            author.sign("targets", "targets", author.delegating(version, **{name: (1, ["sly"])}))
        assert refused.value.reason == "DELEGATION_NAME_INVALID"
