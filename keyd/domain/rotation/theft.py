"""Whether a root can still be replaced when some of its keys are lost and some in other hands."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain.keys import KeyState
from keyd.domain.rotation.changes import ChangeSet, RotationKind
from keyd.domain.rotation.found import refused, warned
from keyd.domain.rotation.standing import KeyFacts, Standing
from keyd.domain.trust import TOP_LEVEL, KeySet
from keyd.errors import Finding


def old_root(changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    """What lost and stolen keys mean for the present root, where root is signed (TUF 5.3.4, 6.1).

    A stolen key that is still here can sign the one root that officers let it sign.
    """
    touches_root = changes.kind is RotationKind.RENEW_ROOT or any(
        change.role in TOP_LEVEL for change in changes.changes
    )
    for keys in standing.lists("root") if touches_root else ():
        facts = [standing.named(fp) for fp in dict.fromkeys(keys.fingerprints.values())]
        stolen = [key for key in facts if is_stolen(key, changes)]
        lost = [key for key in facts if key.state is KeyState.DESTROYED]
        if len(stolen) >= keys.threshold:
            yield refused(
                "ROOT_THRESHOLD_COMPROMISED",
                f"a root needs {keys.threshold} signatures, and as many of its keys are in other "
                f"hands ({_names(stolen)}): whoever has them can sign any root for every client, "
                "and can do so before yours; clients must be given a new trust anchor out of band",
            )
            continue
        yield from _partly(keys, stolen)
        yield from _short(keys, stolen, lost)


def is_stolen(key: KeyFacts, changes: ChangeSet) -> bool:
    """Whether somebody else has the key."""
    if key.state is KeyState.DESTROYED:
        return False
    return key.state is KeyState.COMPROMISED or key.fingerprint in changes.compromised


def _partly(keys: KeySet, stolen: list[KeyFacts]) -> Iterator[Finding]:
    if not stolen:
        return
    missing = keys.threshold - len(stolen)
    yield warned(
        "ROOT_PARTLY_COMPROMISED",
        f"{len(stolen)} of the {keys.threshold} signatures that a root needs can be made by others "
        f"({_names(stolen)}): with {missing} more of its keys they sign any root. Clients that "
        "have not seen the new root stay open to that, so guard the other keys after it, too",
    )


def _short(keys: KeySet, stolen: list[KeyFacts], lost: list[KeyFacts]) -> Iterator[Finding]:
    present = frozenset(keys.fingerprints.values()) - {key.fingerprint for key in lost}
    if missing := keys.missing(present):
        names = _names(lost) or "listed in no form that can be verified"
        yield refused(
            "OLD_THRESHOLD_UNREACHABLE",
            f"root needs {keys.threshold} of its present keys and {missing} are lost for ever "
            f"({names}): clients must be given a new trust anchor out of band",
        )
        return
    if needed := keys.missing(present - {key.fingerprint for key in stolen}):
        yield warned(
            "COMPROMISED_KEY_NEEDED",
            f"without {needed} of the compromised keys ({_names(stolen)}) the present root cannot "
            "be replaced: officers have to let it sign these exact bytes (use_compromised_key)",
        )


def _names(keys: list[KeyFacts]) -> str:
    return ", ".join(key.label for key in keys)
