"""The change that a root of a rotation makes, confirmed with the plan that it follows from."""

from __future__ import annotations

from keyd.domain.difference import Change, change
from keyd.domain.payload import Payload
from keyd.ports import View
from keyd.services.evidence import trusted


def root_change(view: View, repository: str, role: str, payload: Payload) -> Change | None:
    """What the payload changes about the trusted root; None for other roles."""
    return change(trusted(view, repository, "root"), payload) if role == "root" else None


def change_digest(view: View, repository: str, role: str, payload: Payload) -> str:
    """The digest by which the change is confirmed, "" where there is nothing to confirm.

    Whoever started the rotation named its plan, and the payload follows from that.
    """
    found = root_change(view, repository, role, payload)
    return found.digest if found is not None else ""
