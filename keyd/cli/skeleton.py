"""The configuration and policy that `keyd init` writes, explained by their comments."""

from __future__ import annotations

from pathlib import Path

_CONFIG = """\
# Configuration of keyd. Every setting: docs/reference/config.md. Check it: keyd config check.
# A variable such as KEYD_DAEMON_LEDGER overrides the setting daemon.ledger, --set overrides both.

[daemon]
# State and audit log. One daemon owns it; nothing else may write there.
ledger = "{state}/ledger"
# What the ledger had reached, to notice a ledger that was lost or restored. Put it on another disk
# than the ledger: an anchor that is restored along with it notices nothing.
anchor = "{state}/anchor"

[policy]
# Who may call what; see the comments there. Reloaded by SIGHUP.
file = "{config}/policy.toml"

# A Unix socket is its principal: who can open it is "unix:admin" in the policy. At most 107 bytes,
# in a directory of mode 0700 (or 0750 with `group`). The administrator's is the only one that may
# bootstrap repositories and change rules.
[[listen.unix]]
path = "{run}/admin/keyd.sock"
principal = "admin"
administrator = true

# Mutual TLS for other hosts: the principal is the client certificate's URI or DNS name.
# [listen.tcp]
# address = "0.0.0.0:8443"
# certificate = "{config}/tls/server.pem"
# key = "{config}/tls/server.key"
# client_ca = "{config}/tls/clients.pem"

# Prometheus, on this host only.
[metrics]
address = "127.0.0.1:9464"

# One table for each token, named by RFC 7512 attributes, never by slot number. The PIN comes from a
# systemd credential, a file, or an operator (pin_source = "prompt" and keyd token unlock).
# [[token]]
# name = "hsm"
# module = "/usr/lib/softhsm/libsofthsm2.so"
# uri = "pkcs11:token=keyd;serial=0123456789abcdef"
# pin_source = "credential:token-pin"
# sessions = 2

# The token whose log key signs the audit log's checkpoints.
# [audit]
# log_token = "hsm"
# checkpoint_interval_s = 60.0
"""

_POLICY = """\
# Who may do what. Denied is what no grant allows. Names are compared byte for byte; there are no
# wildcards. What each member means: docs/reference/policy.md.
# Try it: keyd policy explain --principal unix:admin --method KeyService.ListKeys

# The local administrator: keys, tokens, repositories and the log. Signatures, rotations, officers
# and proposals need grants of your own; docs/reference/policy.md lists their methods.
[[grant]]
name = "administrator"
principals = ["unix:admin"]
methods = [
    "SigningService.CheckMetadata",
    "SigningService.GetSignature",
    "KeyService.CreateKey",
    "KeyService.AdoptKey",
    "KeyService.GetKey",
    "KeyService.ListKeys",
    "KeyService.SuspendKey",
    "KeyService.ResumeKey",
    "KeyService.DeactivateKey",
    "KeyService.MarkKeyCompromised",
    "TokenService.ListTokens",
    "TokenService.WatchTokens",
    "TokenService.ListTokenKeys",
    "TokenService.UnlockToken",
    "TokenService.QuarantineToken",
    "TokenService.ReleaseToken",
    "RepositoryService.BootstrapRepository",
    "RepositoryService.RegisterRepository",
    "RepositoryService.ListRepositories",
    "RepositoryService.GetRepositoryState",
    "RepositoryService.GetRoleRules",
    "RepositoryService.SetRoleRules",
    "RepositoryService.ImportMetadata",
    "AuditService.ListEntries",
    "AuditService.GetCheckpoint",
    "AuditService.GetInclusionProof",
    "AuditService.GetConsistencyProof",
    "Health.Check",
    "Health.List",
    "Health.Watch",
]
any_repository = true
any_role = true
any_key = true
any_token = true

# A build system that may refresh what is online, and nothing else:
# [[grant]]
# name = "release-ci"
# principals = ["uri:spiffe://example.org/release-ci"]
# methods = [
#     "SigningService.SignMetadata",
#     "SigningService.BatchSignMetadata",
#     "SigningService.CheckMetadata",
#     "RepositoryService.GetRepositoryState",
#     "KeyService.GetKey",
# ]
# repositories = ["example"]
# roles = ["snapshot", "timestamp"]
# keys = ["snapshot-1", "timestamp-1"]
"""


def configuration(*, config: Path, state: Path, run: Path) -> str:
    """keyd.toml with the policy in `config`, ledger and anchor in `state`, sockets in `run`."""
    return _CONFIG.format(config=config, state=state, run=run)


def policy() -> str:
    """policy.toml."""
    return _POLICY
