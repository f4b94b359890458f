"""Rotations, plans and changes, both ways."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from keyd.domain.records_rotation import Rotation, RotationFile, RotationState, SignedVersion
from keyd.rpc.convert import findings_out, scheme_in, timestamp
from keyd.rpc.convert_repositories import foreign_key_in
from keyd.rpc.fields import Fields
from keyd.services.rotation.planning import Planned
from keyd.services.rotation.progress import Progress, StepProgress
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd_protos.v1 import rotations_pb2

_KINDS: Mapping[int, str] = {
    number: name.removeprefix("ROTATION_KIND_")
    for name, number in rotations_pb2.RotationKind.items()
    if number
}
_STATES = {
    state: rotations_pb2.RotationState.Value(f"ROTATION_STATE_{state.value}")
    for state in RotationState
}
_REASON_MAX = 500
_EXPOSED_MAX = 1000


def change_in(fields: Fields, change: rotations_pb2.RotationChange) -> Wanted:
    """A change as it is wanted; whether it can be is for the plan to say."""
    roles = tuple(
        _role_in(fields, f"/change/roles/{index}", role) for index, role in enumerate(change.roles)
    )
    if len(change.reason) > _REASON_MAX:
        fields.object_to("/change/reason", "FIELD_INVALID", "has more than 500 characters")
    return Wanted(
        kind=fields.choice("/change/kind", change.kind, _KINDS, ""),
        repository=fields.name("/change/repository", change.repository),
        roles=roles,
        compromised=tuple(
            fields.name(f"/change/compromised/{index}", name)
            for index, name in enumerate(change.compromised)
        ),
        lower={
            fields.role("/change/lower", role): fields.number("/change/lower", version, least=1)
            for role, version in change.lower.items()
        },
        root_lifetime_s=fields.number("/change/root_lifetime_s", change.root_lifetime_s),
        reason=change.reason,
    )


def _role_in(fields: Fields, pointer: str, change: rotations_pb2.RoleChange) -> WantedRole:
    return WantedRole(
        role=fields.role(f"{pointer}/role", change.role),
        add=tuple(
            _key_in(fields, f"{pointer}/add/{index}", key) for index, key in enumerate(change.add)
        ),
        remove=tuple(
            fields.name(f"{pointer}/remove/{index}", name)
            for index, name in enumerate(change.remove)
        ),
        threshold=change.threshold,
    )


def _key_in(fields: Fields, pointer: str, key: rotations_pb2.NewKey) -> WantedKey:
    scheme_in(fields, f"{pointer}/scheme", key.scheme)
    found = None
    if key.tuf_key_json:
        found = foreign_key_in(fields, f"{pointer}/tuf_key_json", key.tuf_key_json)
    if bool(key.holder) != (found is not None):
        message = "a key held elsewhere has a holder and a key object, one here has neither"
        fields.object_to(pointer, "FIELD_INVALID", message)
    return WantedKey(
        name=fields.name(f"{pointer}/name", key.name),
        token=fields.name(f"{pointer}/token", key.token, required=False),
        scheme=key.scheme,
        holder=fields.name(f"{pointer}/holder", key.holder, required=False),
        key_object=found,
    )


def plan_out(planned: Planned) -> rotations_pb2.RotationPlan:
    """A plan with its findings."""
    return rotations_pb2.RotationPlan(
        digest=bytes.fromhex(planned.digest),
        lines=planned.lines,
        json=planned.json.decode(),
        findings=findings_out(planned.findings),
    )


def exposed_out(planned: Planned) -> list[rotations_pb2.SignedVersion]:
    """The newest versions that compromised keys have signed."""
    return [_signed_out(name, version) for name, version in planned.exposed[:_EXPOSED_MAX]]


def _signed_out(name: str, version: SignedVersion) -> rotations_pb2.SignedVersion:
    return rotations_pb2.SignedVersion(
        key=name,
        key_sha256=bytes.fromhex(version.fingerprint),
        role=version.role,
        epoch=version.epoch,
        version=version.version,
        payload_sha256=bytes.fromhex(version.digest),
        accepted=version.accepted,
        log_index=version.leaf,
    )


def rotation_out(progress: Progress) -> rotations_pb2.Rotation:
    """A rotation as it stands."""
    found = progress.rotation
    state = _STATES[found.state]
    if found.state.is_open and progress.waiting:
        state = rotations_pb2.ROTATION_STATE_WAITING
    return rotations_pb2.Rotation(
        name=found.name,
        repository=found.repository,
        kind=_kind_out(found),
        state=state,
        steps=[_step_out(step) for step in progress.steps],
        plan_sha256=bytes.fromhex(found.plan_digest),
        creator=found.creator,
        create_time=timestamp(found.created_at),
        publish_time=timestamp(found.published_at) if found.published_at else None,
        retire_time=timestamp(progress.retire_time) if progress.retire_time else None,
        next=progress.next,
        proposals=progress.proposals,
    )


def _kind_out(found: Rotation) -> rotations_pb2.RotationKind.ValueType:
    return rotations_pb2.RotationKind.Value(f"ROTATION_KIND_{found.kind}")


def _step_out(step: StepProgress) -> rotations_pb2.RotationStep:
    return rotations_pb2.RotationStep(
        number=step.number,
        text=step.text,
        done=step.done,
        role=step.role,
        version=step.version,
        missing=step.missing,
    )


def file_out(file: RotationFile) -> rotations_pb2.RotationFile:
    """A sealed file."""
    content = file.content or b""
    return rotations_pb2.RotationFile(
        role=file.role,
        version=file.version,
        content=content,
        content_sha256=hashlib.sha256(content).digest(),
    )
