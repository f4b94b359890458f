"""Whether a file that a rotation released may be published, whatever the daemon says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tuf.api.metadata import Metadata, Root

from keyd_client.errors import PolicyViolation
from keyd_client.keyring import Delegator


def check_released(
    role: str, md: Metadata[Any], delegators: Sequence[Delegator], *, published: int
) -> None:
    """Raise unless it is newer than the `published` version, signed, and not expired.

    An expired root is let through: its version cannot be skipped, and the next root mends it.
    Raises: PolicyViolation (ROTATION_OVERTAKEN, THRESHOLD_NOT_REACHED, ROTATION_FILES_EXPIRED).
    """
    version = md.signed.version
    if published >= version:
        raise PolicyViolation(
            "ROTATION_OVERTAKEN",
            f"{role} {published} is published, the rotation has {version}: continue the rotation, "
            "then apply it again",
        )
    for delegator in delegators:
        if not delegator.get_verification_result(role, md.signed_bytes, md.signatures):
            raise PolicyViolation(
                "THRESHOLD_NOT_REACHED", f"{role} {version} is not signed by enough keys"
            )
    if role != Root.type and md.signed.is_expired(datetime.now(UTC)):
        raise PolicyViolation(
            "ROTATION_FILES_EXPIRED",
            f"clients would refuse {role} {version}, which has expired: continue the rotation, "
            "then apply it again",
        )
