"""Whose signatures a payload needs: the trusted delegators' key lists (TUF 5.3.4, 5.4.1, 5.6.3)."""

from __future__ import annotations

from collections.abc import Iterable

from keyd.domain.delegations import key_set
from keyd.domain.payload import Payload
from keyd.domain.pointer import TOP
from keyd.domain.rules.objections import refused
from keyd.domain.trust import TOP_LEVEL, KeySet, Question, RepositoryView
from keyd.errors import Finding

# What was found out, and why there is nothing to find out.
Required = tuple[tuple[KeySet, ...], tuple[Finding, ...]]


def required_sets(question: Question, view: RepositoryView) -> Required:
    """The key sets that must all reach their threshold, and the objections to missing ones.

    Root: the trusted root's list, or the intended one for root 1, and then the payload's own.
    Other top-level roles: the trusted root's list. Delegated roles: the list of every delegator.
    """
    role = view.role.name
    if role == "root":
        return _required_for_root(question, view)
    if role in TOP_LEVEL:
        if view.trusted_root is None:
            message = "no root is trusted yet: sign root 1 up to its threshold first"
            return (), (refused("C2", "SIGNING_ORDER_WRONG", TOP, message),)
        sets = delegators_sets(role, [("root", view.trusted_root)])
    else:
        sets = delegators_sets(role, view.role.delegators)
    if sets:
        return sets, ()
    message = f"no accepted metadata delegates {role!r}: have its delegator accepted first"
    return (), (refused("A6", "ROLE_NOT_DELEGATED", TOP, message),)


def delegators_sets(role: str, delegators: Iterable[tuple[str, Payload]]) -> tuple[KeySet, ...]:
    """What each of the (name, accepted payload) pairs says of `role`, if it names it."""
    found = (key_set(payload, role, _delegator(name, payload)) for name, payload in delegators)
    return tuple(keys for keys in found if keys is not None)


def _required_for_root(question: Question, view: RepositoryView) -> Required:
    old, own = trusted_root_set(view), own_root_set(question.payload)
    sets = tuple(keys for keys in (old, own) if keys is not None)
    if old is not None:
        return sets, ()
    message = "nobody said who may sign the first root: bootstrap or register the repository"
    return sets, (refused("A6", "ROOT_NOT_INTENDED", TOP, message),)


def trusted_root_set(view: RepositoryView) -> KeySet | None:
    """Who may replace the trusted root; before there is one, who may sign root 1."""
    if view.trusted_root is None:
        return view.bootstrap
    return key_set(view.trusted_root, "root", _delegator("root", view.trusted_root))


def own_root_set(payload: Payload) -> KeySet | None:
    """Who a root says signs it and its successor; None if it has no role root."""
    return key_set(payload, "root", _delegator("root", payload))


def _delegator(role: str, payload: Payload) -> str:
    return f"{role}:{payload.signed['version']}"
