"""KeydSigner against a daemon on SoftHSM: thresholds, other formats, restarts, many at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from keyd_client import KeydSigner, RoleKeys, errors, sign_metadata_batch
from tests.integration.sdk_daemon import PROFILE, ROLES, Running, running

__all__ = ["running"]
REPOSITORY = "demo"


def in_days(days: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def first_root(running: Running) -> Metadata[Root]:
    """Root 1 of a repository that is bootstrapped, without signatures."""
    root = Metadata(Root(expires=in_days(300), consistent_snapshot=True))
    for role, keys in ROLES.items():
        for name in keys.keys:
            root.signed.add_key(running.signer(name).public_key, role)
        root.signed.roles[role].threshold = keys.threshold
    return root


ORDERS = list(itertools.permutations(ROLES["root"].keys))


@pytest.mark.parametrize("order", ORDERS, ids=["-".join(k[-1] for k in o) for o in ORDERS])
def test_three_keys_of_a_two_of_three_root_sign_in_every_order(
    running: Running, order: tuple[str, ...]
) -> None:
    """Each key signs three times; the third key still signs what two have made trusted."""
    running.make_role_keys()
    running.client.repositories.bootstrap(REPOSITORY, ROLES["root"].keys, 2)
    root = first_root(running)
    payload = root.signed_bytes
    first: dict[str, str] = {}
    for attempt in range(3):
        for name in order:
            signer = running.signer(name).for_role(REPOSITORY, "root")
            signature = signer.sign(payload)
            signer.public_key.verify_signature(signature, payload)
            # ECDSA is randomised: the same signature again is the recorded one.
            assert first.setdefault(name, signature.signature) == signature.signature, attempt
    assert len(first) == 3
    recorded = running.client.get_signature("root", 1, REPOSITORY)
    assert recorded.payload == payload
    assert {s.key for s in recorded.signatures} == set(order)
    assert all(s.accepted for s in recorded.signatures)


def test_another_payload_for_a_half_signed_root_is_refused(running: Running) -> None:
    running.make_role_keys()
    running.client.repositories.bootstrap(REPOSITORY, ROLES["root"].keys, 2)
    root = first_root(running)
    signers = [running.signer(n).for_role(REPOSITORY, "root") for n in ROLES["root"].keys]
    signers[0].sign(root.signed_bytes)
    root.signed.expires = in_days(299)
    for signer in signers:
        with pytest.raises(errors.Equivocation, match="root versions cannot be skipped"):
            signer.sign(root.signed_bytes)


def test_an_opaque_key_signs_no_tuf_metadata(running: Running) -> None:
    running.make_keys("layouts", content="opaque")
    payload = Metadata(Targets(expires=in_days(10))).signed_bytes
    with pytest.raises(errors.KeydClientError, match="OPAQUE_LOOKS_LIKE_TUF"):
        running.signer("layouts").sign(payload)


def test_a_tuf_key_signs_nothing_else(running: Running) -> None:
    running.make_role_keys()
    running.client.repositories.bootstrap(REPOSITORY, ROLES["root"].keys, 2)
    signer = running.signer("root-1").for_role(REPOSITORY, "root")
    with pytest.raises(errors.InvalidRequest, match="DSSE_UNSUPPORTED"):
        signer.sign(b"DSSEv1 24 application/vnd.tuf+json 2 {}")


def test_a_signer_survives_the_daemons_death(running: Running) -> None:
    """Killed between calls: the next call ends in a typed error, the one after a restart signs."""
    running.make_keys("layouts", content="opaque")
    signer = running.signer("layouts")
    signature = signer.sign(b"before")
    running.daemon.kill()
    profile = running.place.profiles / f"{PROFILE}.toml"
    patient = profile.read_text()
    profile.write_text(f"{patient}timeout_s = 4\n")
    with pytest.raises(errors.BackendUnavailable, match="DAEMON_UNREACHABLE"):
        signer.sign(b"before")
    profile.write_text(patient)
    running.daemon.start()
    assert signer.sign(b"before") == signature
    signer.public_key.verify_signature(signer.sign(b"after"), b"after")


def test_a_call_during_a_restart_is_carried_over(running: Running) -> None:
    """UNAVAILABLE is retried: a daemon that comes back within seconds is not even noticed."""
    running.make_keys("layouts", content="opaque")
    signer = running.signer("layouts")
    signer.sign(b"before")
    running.daemon.stop()
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(running.daemon.start)
        signature = signer.sign(b"meanwhile")
        starting.result()
    signer.public_key.verify_signature(signature, b"meanwhile")


def test_many_bins_are_signed_in_one_batch(running: Running) -> None:
    """Delegated bins share one key; each gets its own signature and its own version."""
    running.make_role_keys()
    running.make_keys("bins")
    repository = running.repository()
    repository.initialize(ROLES)
    bins = [f"bin-{n:02x}" for n in range(200)]
    signer = running.signer("bins")
    key = signer.public_key
    with repository.edit_targets() as targets:
        roles = {name: DelegatedRole(name, [key.keyid], 1, False, [f"{name}/*"]) for name in bins}
        targets.delegations = Delegations({key.keyid: key}, roles)
    payloads = [Metadata(Targets(expires=in_days(10))) for _ in bins]
    items = [(metadata, role, signer) for metadata, role in zip(payloads, bins, strict=True)]
    outcomes = sign_metadata_batch(running.client, items, REPOSITORY)
    assert [outcome.error for outcome in outcomes] == [None] * 200
    delegator = repository.targets()
    for metadata, name in zip(payloads, bins, strict=True):
        delegator.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
    # Sent again, the recorded signatures come back; another payload of the same version does not.
    again = sign_metadata_batch(running.client, items, REPOSITORY)
    assert [o.signature for o in again] == [o.signature for o in outcomes]
    payloads[7].signed.expires = in_days(11)
    refused = sign_metadata_batch(running.client, items[6:9], REPOSITORY)
    assert [type(outcome.error) for outcome in refused] == [
        type(None),
        errors.Equivocation,
        type(None),
    ]
    assert refused[1].error is not None
    assert refused[1].error.details["next_version"] == "2"


def test_a_batch_survives_the_daemons_death(running: Running) -> None:
    """Killed while items are drawn, started again: every item gets its signature."""
    running.make_role_keys()
    running.make_keys("bins")
    repository = running.repository()
    repository.initialize(ROLES)
    repository.delegate("bin", RoleKeys(1, ["bins"]), ["*"])
    signer = running.signer("bins")
    payloads = [Metadata(Targets(version=v, expires=in_days(10))) for v in range(1, 601)]

    def items() -> Iterator[tuple[Metadata[Targets], str, KeydSigner]]:
        for number, metadata in enumerate(payloads):
            if number == 400:
                running.daemon.kill()
                restarts.append(pool.submit(running.daemon.start))
            yield metadata, "bin", signer

    restarts: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:
        outcomes = sign_metadata_batch(running.client, items(), REPOSITORY)
        restarts[0].result()
    assert [outcome.error for outcome in outcomes] == [None] * 600
    delegator = repository.targets()
    for metadata in payloads:
        delegator.verify_delegate("bin", metadata.signed_bytes, metadata.signatures)


def test_without_a_role_a_key_of_several_is_told_so(running: Running) -> None:
    running.make_role_keys()
    running.make_keys("bins")
    repository = running.repository()
    repository.initialize(ROLES)
    for name in ("one", "two"):
        repository.delegate(name, RoleKeys(1, ["bins"]), [f"{name}/*"])
    payload = Metadata(Targets(expires=in_days(10))).signed_bytes
    with pytest.raises(errors.KeydClientError, match="ROLE_AMBIGUOUS"):
        running.signer("bins").sign(payload)
    running.signer("bins").for_role(REPOSITORY, "two").sign(payload)


def test_a_key_object_of_another_key_is_refused_by_the_daemon(running: Running) -> None:
    running.make_keys("one", "two", content="opaque")
    mixed = type(running.signer("one"))(PROFILE, "one", running.signer("two").public_key)
    with pytest.raises(errors.KeydClientError, match="KEY_MISMATCH"):
        mixed.sign(b"x")


def test_python_tuf_alone_builds_a_repository_through_the_signer(running: Running) -> None:
    """Only `for_role` and `Metadata.sign`: what tools do that know nothing of KeydRepository."""
    running.make_role_keys()
    running.client.repositories.bootstrap(REPOSITORY, ROLES["root"].keys, 2)
    root = first_root(running)
    for name in ROLES["root"].keys:
        root.sign(running.signer(name).for_role(REPOSITORY, "root"), append=True)
    targets = Metadata(Targets(expires=in_days(30)))
    targets.sign(running.signer("targets-1"))
    root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
