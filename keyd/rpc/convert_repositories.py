"""Repositories, roles and their rules, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyd.domain import strict_json
from keyd.domain.records import Repository
from keyd.domain.trust import KeyIdFormula, RepositoryState, RoleRules
from keyd.errors import InvalidRequest
from keyd.rpc.convert import findings_out, timestamp
from keyd.rpc.fields import Fields
from keyd.services.imports import Imported
from keyd.services.repositories import RepositorySummary, RoleSummary
from keyd_protos.v1 import repositories_pb2

_STAGES = {
    RepositoryState.BOOTSTRAP: repositories_pb2.REPOSITORY_STAGE_BOOTSTRAP,
    RepositoryState.ACTIVE: repositories_pb2.REPOSITORY_STAGE_ACTIVE,
}
_FORMULAS = {formula.value: formula for formula in KeyIdFormula}
_KEY_OBJECT_MEMBERS = ("keytype", "scheme", "keyval")


def repository_out(found: Repository) -> repositories_pb2.Repository:
    """A repository in short."""
    return repositories_pb2.Repository(
        name=found.name,
        stage=_STAGES[found.state],
        development=found.development,
        imported=found.imported,
        create_time=timestamp(found.created_at),
    )


def summary_out(found: RepositorySummary) -> repositories_pb2.GetRepositoryStateResponse:
    """A repository with its roles."""
    return repositories_pb2.GetRepositoryStateResponse(
        repository=repository_out(found.repository),
        trusted_root=found.trusted_root,
        roles=[_role_out(role) for role in found.roles],
    )


def _role_out(role: RoleSummary) -> repositories_pb2.RoleState:
    runway = role.runway
    return repositories_pb2.RoleState(
        role=role.role,
        epoch=role.epoch,
        trusted_version=role.trusted_version,
        high_water=role.high_water,
        next_version=role.next_version,
        expire_time=timestamp(role.expires) if role.expires else None,
        pending_version=role.pending_version,
        pending_missing=role.pending_missing,
        begin_renewal_by=timestamp(runway.begin_by) if runway else None,
        renewal_s=int(runway.takes.total_seconds()) if runway else 0,
        renewal_people=runway.people if runway else (),
        renewal_approvals=runway.approvals if runway else 0,
    )


def imported_out(file: Imported) -> repositories_pb2.ImportedFile:
    """What came of one file."""
    return repositories_pb2.ImportedFile(
        role=file.role,
        version=file.version,
        recorded=file.recorded,
        raised_mark=file.raised_mark,
        findings=findings_out(file.findings),
    )


def rules_out(rules: RoleRules) -> repositories_pb2.RoleRules:
    """All levels of one role."""
    return repositories_pb2.RoleRules(
        expiry_min_s=rules.expiry_min_s,
        expiry_max_s=rules.expiry_max_s,
        payload_max_bytes=rules.payload_max_bytes,
        version_step_max=rules.version_step_max,
        threshold_floor=rules.threshold_floor,
        require_spare_key=rules.require_spare_key,
        keyid_formula=rules.keyid_formula.value,
        allow_online_key_in_offline_role=rules.allow_online_key_in_offline_role,
        allow_shorter_root_expiry=rules.allow_shorter_root_expiry,
        allow_expired_trusted_root=rules.allow_expired_trusted_root,
        extra_members=rules.extra_members,
    )


def rules_in(fields: Fields, message: repositories_pb2.RoleRules) -> RoleRules:
    """All levels as they shall be; whether they make sense is for the service to say."""
    if message.keyid_formula not in _FORMULAS:
        names = ", ".join(_FORMULAS)
        fields.object_to("/rules/keyid_formula", "FIELD_INVALID", f"must be one of {names}")
    for index, member in enumerate(message.extra_members):
        fields.name(f"/rules/extra_members/{index}", member)
    return RoleRules(
        expiry_min_s=fields.number("/rules/expiry_min_s", message.expiry_min_s),
        expiry_max_s=fields.number("/rules/expiry_max_s", message.expiry_max_s),
        payload_max_bytes=message.payload_max_bytes,
        version_step_max=message.version_step_max,
        threshold_floor=message.threshold_floor,
        require_spare_key=message.require_spare_key,
        keyid_formula=_FORMULAS.get(message.keyid_formula, KeyIdFormula.THREE_MEMBERS),
        allow_online_key_in_offline_role=message.allow_online_key_in_offline_role,
        allow_shorter_root_expiry=message.allow_shorter_root_expiry,
        allow_expired_trusted_root=message.allow_expired_trusted_root,
        extra_members=tuple(message.extra_members),
    )


def foreign_key_in(fields: Fields, pointer: str, text: str) -> Mapping[str, Any]:
    """A TUF key object from JSON: shape only, its key is judged by the service."""
    try:
        strict_json.check_depth(text.encode())
        found = strict_json.read_object(text)
    except InvalidRequest as refused:
        fields.object_to(pointer, "FIELD_INVALID", f"is no strict JSON: {refused.message}")
        return {}
    if not _is_key_object(found):
        message = 'must be a TUF key object: {"keytype":…,"keyval":{"public":…},"scheme":…}'
        fields.object_to(pointer, "FIELD_INVALID", message)
    return found


def _is_key_object(found: Mapping[str, Any]) -> bool:
    if set(found) != set(_KEY_OBJECT_MEMBERS):
        return False
    keyval = found["keyval"]
    return (
        isinstance(found["keytype"], str)
        and isinstance(found["scheme"], str)
        and isinstance(keyval, dict)
        and set(keyval) == {"public"}
        and isinstance(keyval["public"], str)
    )
