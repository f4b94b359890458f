"""All rules, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from keyd.domain.difference import Change, change
from keyd.domain.pointer import MAX_FINDINGS
from keyd.domain.rules.envelope import check_envelope, check_type
from keyd.domain.rules.judgement import Judgement
from keyd.domain.rules.required import required_sets
from keyd.domain.rules.root import check_root
from keyd.domain.rules.signing_key import check_signing_key
from keyd.domain.rules.snapshot import check_snapshot
from keyd.domain.rules.targets import check_targets
from keyd.domain.rules.timestamp import check_timestamp
from keyd.domain.trust import Question, RepositoryView
from keyd.errors import Finding, Severity


def judge(question: Question, view: RepositoryView) -> Judgement:
    """Apply every rule to one payload and return all that they say; nothing is raised.

    The payload comes from `keyd.domain.payload.parse`. Its version is not recorded with the same
    bytes: whoever asks again for those gets the recorded signature and no judgement.
    """
    wrong_type = check_type(question, view)
    if wrong_type is not None:
        return Judgement((wrong_type,))
    required, gaps = required_sets(question, view)
    difference = None
    if view.role.name == "root":
        difference = change(view.trusted_root, question.payload)
    findings = chain(
        check_envelope(question, view),
        gaps,
        _check_contents(question, view, difference),
        check_signing_key(question, view, required),
    )
    return Judgement(_bounded(findings), required, difference)


def _check_contents(
    question: Question, view: RepositoryView, difference: Change | None
) -> Iterator[Finding]:
    if difference is not None:
        return check_root(question, view, difference)
    if view.role.name == "timestamp":
        return check_timestamp(question, view)
    if view.role.name == "snapshot":
        return check_snapshot(question, view)
    return check_targets(question, view)


def _bounded(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Not more of each kind than an answer can carry; what nothing can lift comes first."""
    invalid: list[Finding] = []
    refused: list[Finding] = []
    warned: list[Finding] = []
    for found in findings:
        if found.malformed:
            kept = invalid
        else:
            kept = refused if found.severity is Severity.REFUSE else warned
        if len(kept) < MAX_FINDINGS:
            kept.append(found)
    return (*(invalid + refused)[:MAX_FINDINGS], *warned)
