"""How many officers must agree, and whether they do.

One person counts once, however many keys they have. Who proposed does not count, nor whom the
operation is about. Several rules may apply to one operation: then each of them must be satisfied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from keyd.domain import canonical
from keyd.domain.officers import Officer, OfficerSet

# The rule that officers set themselves, for every loosening; policy files cannot name theirs so.
BASE = "base"


@dataclass(frozen=True)
class QuorumRule:
    """`threshold` officers, among them at least so many of each group in `groups`."""

    name: str
    threshold: int
    groups: Mapping[str, int] = field(default_factory=dict)

    def words(self) -> str:
        """The rule in words, e.g. "3 officers, at least 1 from qa"."""
        noun = "officer" if self.threshold == 1 else "officers"
        of_groups = [f"at least {count} from {name}" for name, count in sorted(self.groups.items())]
        return ", ".join([f"{self.threshold} {noun}", *of_groups])


def rule_text(rule: QuorumRule) -> str:
    """A rule with its name, as log entries write it, e.g. "root: 3 officers"."""
    return f"{rule.name}: {rule.words()}"


def rule_of_text(text: str) -> QuorumRule:
    """The inverse of `rule_text`. Raises: ValueError."""
    name, _, words = text.rpartition(": ")
    count, *of_groups = words.split(", ")
    groups = {}
    for each in of_groups:
        least, _, group = each.removeprefix("at least ").partition(" from ")
        groups[group] = int(least)
    rule = QuorumRule(name, int(count.split(" ")[0]), groups)
    if rule_text(rule) != text:
        raise ValueError(f"no rule reads {text!r}")
    return rule


@dataclass(frozen=True)
class Tally:
    """Where one rule stands. `missing` counts persons, `missing_groups` those of a group.

    `reachable`: the officers who have not rejected can still satisfy it.
    """

    rule: QuorumRule
    counted: tuple[str, ...]
    missing: int
    missing_groups: Mapping[str, int]
    reachable: bool

    @property
    def satisfied(self) -> bool:
        return self.missing == 0 and not self.missing_groups


def rules_digest(rules: Sequence[QuorumRule]) -> str:
    """SHA-256 (hex) over the canonical JSON of all rules, whatever their order."""
    document = [
        {"name": rule.name, "threshold": rule.threshold, "groups": dict(rule.groups)}
        for rule in sorted(rules, key=lambda rule: rule.name)
    ]
    return hashlib.sha256(canonical.encode({"rules": document})).hexdigest()


def tally(
    rule: QuorumRule,
    officers: OfficerSet,
    *,
    approved: Collection[str],
    rejected: Collection[str] = (),
    excluded: Collection[str] = (),
) -> Tally:
    """Count officers by name; `excluded` are the proposer and those whom the operation concerns.

    A threshold below 1 is never satisfied: a rule that asks for nobody is a mistake, not a
    permission.
    """
    eligible = [each for each in officers.able if each.name not in excluded]
    agreeing = [each for each in eligible if each.name in approved and each.name not in rejected]
    willing = [each for each in eligible if each.name not in rejected]
    missing, missing_groups = _lacking(rule, agreeing)
    never, never_groups = _lacking(rule, willing)
    return Tally(
        rule=rule,
        counted=tuple(sorted(each.name for each in agreeing)),
        missing=missing,
        missing_groups=missing_groups,
        reachable=not never and not never_groups,
    )


def unreachable(
    rules: Iterable[QuorumRule], officers: OfficerSet, excluded: Collection[str] = ()
) -> tuple[QuorumRule, ...]:
    """Rules that all able officers together cannot satisfy: dead ends."""
    everybody = [officer.name for officer in officers.able]
    return tuple(
        rule
        for rule in rules
        if not tally(rule, officers, approved=everybody, excluded=excluded).satisfied
    )


def needs_outsider(rule: QuorumRule, officers: OfficerSet) -> bool:
    """Whether, once some person is lost, only somebody who is no officer can have them replaced.

    Neither who is lost nor who proposes the replacement counts. Officers without principals never
    propose as themselves.
    """
    callers = [officer.name for officer in officers.able if officer.principals]
    for lost in officers.able:
        others = [name for name in callers if name != lost.name]
        if others and all(unreachable([rule], officers, {lost.name, name}) for name in others):
            return True
    return False


def _lacking(rule: QuorumRule, persons: Sequence[Officer]) -> tuple[int, dict[str, int]]:
    needed = rule.threshold if rule.threshold > 0 else len(persons) + 1
    groups = {
        name: count - present
        for name, count in rule.groups.items()
        if (present := sum(name in person.groups for person in persons)) < count
    }
    return max(0, needed - len(persons)), groups
