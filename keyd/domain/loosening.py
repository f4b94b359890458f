"""Whether a change permits more than before: then officers must agree to it."""

from __future__ import annotations

from dataclasses import replace

from keyd.domain.methods import Resource
from keyd.domain.policy import Grant, Policy, Quorum
from keyd.domain.trust import KeyIdFormula, RoleRules

# Levels of which the larger, or the smaller, value permits more.
_LARGER = ("expiry_max_s", "payload_max_bytes")
_SMALLER = ("expiry_min_s", "threshold_floor")
_SWITCHES = (
    "allow_online_key_in_offline_role",
    "allow_shorter_root_expiry",
    "allow_expired_trusted_root",
)


def rules_loosened(before: RoleRules, after: RoleRules) -> tuple[str, ...]:
    """The levels that permit more afterwards, by name; none: the change only tightens."""
    loosened = [name for name in _LARGER if getattr(after, name) > getattr(before, name)]
    loosened += [name for name in _SMALLER if getattr(after, name) < getattr(before, name)]
    loosened += [name for name in _SWITCHES if getattr(after, name) and not getattr(before, name)]
    if _steps(after) > _steps(before):
        loosened.append("version_step_max")
    if before.require_spare_key and not after.require_spare_key:
        loosened.append("require_spare_key")
    formulas = (KeyIdFormula.EITHER, KeyIdFormula.UNCHECKED)
    if after.keyid_formula is not before.keyid_formula and after.keyid_formula in formulas:
        loosened.append("keyid_formula")
    if set(after.extra_members) - set(before.extra_members):
        loosened.append("extra_members")
    return tuple(sorted(loosened))


def policy_loosened(before: Policy, after: Policy) -> tuple[str, ...]:
    """What a policy permits that the one before it did not, a line each; none: it only tightens.

    Errs on the side of yes: a grant that only several old ones together allowed counts as new.
    """
    wider = [
        f"grant {grant.name!r} (line {grant.line}) allows more than any grant did"
        for grant in after.grants
        if not any(_covers(old, grant) for old in before.grants)
    ]
    weaker = [
        f"quorum {quorum.rule.name!r} is gone or weaker"
        for quorum in before.quorums
        if not any(_as_strong(new, quorum) for new in after.quorums)
    ]
    return (*wider, *weaker)


def _steps(rules: RoleRules) -> float:
    return rules.version_step_max or float("inf")


def _covers(wide: Grant, narrow: Grant) -> bool:
    """Whether all that `narrow` covers is covered by `wide`, whatever its principals and name."""
    return (
        narrow.principals <= wide.principals
        and narrow.methods <= wide.methods
        and (wide.any_role or not narrow.any_role)
        and (wide.any_role or wide.any_delegated_role or not narrow.any_delegated_role)
        and all(_covers_names(wide, narrow, resource) for resource in Resource)
    )


def _covers_names(wide: Grant, narrow: Grant, resource: Resource) -> bool:
    listed, everything = {
        Resource.REPOSITORY: (narrow.repositories, narrow.any_repository),
        Resource.ROLE: (narrow.roles, False),
        Resource.KEY: (narrow.keys, narrow.any_key),
        Resource.TOKEN: (narrow.tokens, narrow.any_token),
    }[resource]
    if everything:
        return wide.covers(resource, "")
    return all(wide.covers(resource, name) for name in listed)


def _as_strong(new: Quorum, old: Quorum) -> bool:
    groups = all(new.rule.groups.get(name, 0) >= count for name, count in old.rule.groups.items())
    enough = new.rule.threshold >= old.rule.threshold and groups
    nobody: frozenset[str] = frozenset()
    return enough and _covers(
        replace(new.scope, principals=nobody), replace(old.scope, principals=nobody)
    )
