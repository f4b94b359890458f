"""How large a payload may be: apart from what reads it, for those who must be quick to import."""

from __future__ import annotations

# The most that any role's rules can allow (A8): three quarters of python-tuf's limit for targets
# files, which leaves room for signatures.
PAYLOAD_MAX_BYTES = 3_750_000
