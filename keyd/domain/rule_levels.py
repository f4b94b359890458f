"""Rule levels as text: the form in which the ledger and operations keep them."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache

from keyd.domain.trust import KeyIdFormula, RoleRules

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def rules_text(rules: RoleRules) -> str:
    """JSON with sorted members and no white space."""
    return _encode(asdict(rules))


@lru_cache(maxsize=1024)
def rules_of_text(text: str) -> RoleRules:
    """The inverse of `rules_text`. Raises: KeyError, TypeError, ValueError."""
    stored = json.loads(text)
    return RoleRules(
        **{
            **stored,
            "keyid_formula": KeyIdFormula(stored["keyid_formula"]),
            "extra_members": tuple(stored["extra_members"]),
        }
    )
