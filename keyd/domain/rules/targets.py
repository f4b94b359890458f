"""Rules for targets, top-level and delegated: G1, G2 and G6 for target files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from keyd.domain.delegations import Scope, scope_of
from keyd.domain.file_hashes import HASH_DIGITS, STRONG, is_hash, what_is_wrong
from keyd.domain.pointer import TOP, Path
from keyd.domain.rules.delegating import check_delegations
from keyd.domain.rules.objections import graded, invalid, refused
from keyd.domain.trust import Question, RepositoryView, RoleView
from keyd.errors import Finding

_TARGETS: Path = (TOP, "targets")
# Who delegates a role, and which paths to it.
Scopes = Mapping[str, Sequence[tuple[str, Scope]]]
# Comparisons of paths with patterns: a second or two.
_MAX_EFFORT = 3_000_000
_UNSAFE_PARTS = frozenset(("", ".", ".."))


def check_targets(question: Question, view: RepositoryView) -> Iterator[Finding]:
    """All rules that only targets payloads know."""
    role, targets = view.role, question.payload.signed["targets"]
    scopes = None if role.name == "targets" else _scopes(role)
    if scopes is not None and _effort(scopes, len(targets)) > _MAX_EFFORT:
        message = (
            "too many patterns for so many paths: delegate by hash prefixes, or split the role"
        )
        yield refused("G2", "TARGET_OUTSIDE_DELEGATION", _TARGETS, message)
        scopes = None
    covers = None if scopes is None else _coverage(role.name, scopes)
    foreign: dict[str, Path] = {}
    for path, target in targets.items():
        yield from _check_target(path, target)
        for algorithm in target["hashes"].keys() - HASH_DIGITS.keys():
            foreign.setdefault(algorithm, (((_TARGETS, path), "hashes"), algorithm))
        if covers is not None and not covers(path):
            message = f"no delegation of {role.name!r} covers this path: clients ignore it"
            yield refused("G2", "TARGET_OUTSIDE_DELEGATION", (_TARGETS, path), message)
    # Once for each, so that they do not crowd out the rest.
    for algorithm, where in sorted(foreign.items()):
        message = what_is_wrong(algorithm)
        yield graded(view.imported, "G1", "TARGET_HASH_INVALID", where, message)
    yield from check_delegations(question, view)


def _check_target(path: str, target: Mapping[str, Any]) -> list[Finding]:
    """G1, G2 and G6 (TUF 4.5, 6.2.1)."""
    findings: list[Finding] = []
    parts = path.split("/")
    if not _UNSAFE_PARTS.isdisjoint(parts) or "\\" in path:
        message = "a target path is relative, with slashes and no empty, `.` or `..` part"
        findings.append(invalid("G2", "TARGET_PATH_UNSAFE", (_TARGETS, path), message))
    if target["length"] < 0:
        message = "a length is a number of bytes, 0 or more"
        where = ((_TARGETS, path), "length")
        findings.append(invalid("G1", "TARGET_LENGTH_INVALID", where, message))
    hashes = target["hashes"]
    findings += _check_hashes(path, hashes)
    prefix, dot, _ = parts[-1].partition(".")
    if dot and prefix in hashes.values():
        message = "write the path without its hash: clients add it (TUF 6.2.1)"
        findings.append(invalid("G6", "VERSIONED_REFERENCE", (_TARGETS, path), message))
    return findings


def _check_hashes(path: str, hashes: Mapping[str, str]) -> list[Finding]:
    findings: list[Finding] = []
    allowed = False
    for algorithm, value in hashes.items():
        if is_hash(algorithm, value):
            allowed = allowed or algorithm in STRONG
        elif algorithm in HASH_DIGITS:
            where = (((_TARGETS, path), "hashes"), algorithm)
            wrong = what_is_wrong(algorithm)
            findings.append(invalid("G1", "TARGET_HASH_INVALID", where, wrong))
    if not allowed:
        message = f"give at least one hash by {', '.join(STRONG)}"
        where = ((_TARGETS, path), "hashes")
        findings.append(invalid("G1", "TARGET_HASH_INVALID", where, message))
    return findings


def _scopes(role: RoleView) -> Scopes:
    return {
        name: [(above, scope_of(payload, name)) for above, payload in delegators]
        for name, delegators in {**role.ancestry, role.name: role.delegators}.items()
    }


def _effort(scopes: Scopes, paths: int) -> int:
    """How many comparisons the paths of a payload may cost, whoever wrote it or its delegators."""
    return sum(scope.effort(paths) for delegators in scopes.values() for _, scope in delegators)


def _coverage(role: str, scopes: Scopes) -> Callable[[str], bool]:
    """Whether a path is inside a role; quicker where one chain of delegations leads there."""
    chain: list[Scope] = []
    name = role
    while (
        name != "targets" and len(above := scopes.get(name, ())) == 1 and len(chain) < len(scopes)
    ):
        name, covers = above[0]
        chain.append(covers)
    if name != "targets":
        return lambda path: _inside(path, role, scopes)

    def covered(path: str) -> bool:
        for covers in chain:  # noqa: SIM110 - for every path: a generator costs as much as the rest
            if not covers(path):
                return False
        return True

    return covered


def _inside(path: str, role: str, scopes: Scopes) -> bool:
    """Whether some chain of delegations from the top covers `path` at every step."""
    seen, waiting = {role}, [role]
    while waiting:
        for above, covers in scopes.get(waiting.pop(), ()):
            if above in seen or not covers(path):
                continue
            if above == "targets":
                return True
            seen.add(above)
            waiting.append(above)
    return False
