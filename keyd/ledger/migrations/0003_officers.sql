-- Officers, and what they decide.

CREATE TABLE officers (
    name TEXT PRIMARY KEY CHECK (name <> ''),
    document TEXT NOT NULL,
    leaf INTEGER NOT NULL CHECK (leaf >= 0)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER officers_stay BEFORE DELETE ON officers
BEGIN SELECT RAISE(ABORT, 'an officer is revoked, never forgotten'); END;

-- How many officers every loosening needs; no row before the first officers.
CREATE TABLE base_rule (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    threshold INTEGER NOT NULL CHECK (threshold > 0),
    leaf INTEGER NOT NULL CHECK (leaf >= 0)
) STRICT;

CREATE TRIGGER base_rule_stays BEFORE DELETE ON base_rule
BEGIN SELECT RAISE(ABORT, 'a ledger with officers keeps a base rule'); END;

CREATE TABLE proposals (
    name TEXT PRIMARY KEY CHECK (name GLOB 'p-*'),
    kind TEXT NOT NULL CHECK (kind <> ''),
    operation BLOB NOT NULL,
    operation_sha256 TEXT NOT NULL CHECK (length(operation_sha256) = 64),
    payload BLOB NOT NULL,
    payload_sha256 TEXT NOT NULL CHECK (length(payload_sha256) IN (0, 64)),
    proposer TEXT NOT NULL,
    officer TEXT NOT NULL,
    rules TEXT NOT NULL,
    officers_sha256 TEXT NOT NULL CHECK (length(officers_sha256) = 64),
    policy_revision TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('OPEN', 'EXECUTED', 'REJECTED', 'CANCELLED')),
    leaf INTEGER NOT NULL CHECK (leaf >= 0)
) STRICT;

CREATE INDEX open_proposals ON proposals (operation_sha256) WHERE state = 'OPEN';

CREATE TRIGGER proposals_are_fixed
BEFORE UPDATE OF name, kind, operation, operation_sha256, payload, payload_sha256, proposer,
    officer, rules, officers_sha256, policy_revision, created_at, expires_at, leaf
ON proposals
BEGIN SELECT RAISE(ABORT, 'a proposal keeps its content'); END;
CREATE TRIGGER proposals_do_not_go_back BEFORE UPDATE OF state ON proposals
WHEN OLD.state <> 'OPEN' AND NEW.state <> OLD.state
BEGIN SELECT RAISE(ABORT, 'a decision is for ever'); END;
CREATE TRIGGER proposals_stay BEFORE DELETE ON proposals
BEGIN SELECT RAISE(ABORT, 'a proposal is for ever'); END;

CREATE TABLE approvals (
    proposal TEXT NOT NULL REFERENCES proposals (name),
    officer TEXT NOT NULL REFERENCES officers (name),
    fingerprint TEXT NOT NULL CHECK (length(fingerprint) = 64),
    decision TEXT NOT NULL CHECK (decision IN ('approve', 'reject')),
    envelope BLOB NOT NULL,
    at TEXT NOT NULL,
    leaf INTEGER NOT NULL CHECK (leaf >= 0),
    PRIMARY KEY (proposal, officer)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER approvals_are_fixed BEFORE UPDATE ON approvals
BEGIN SELECT RAISE(ABORT, 'an approval is for ever'); END;
CREATE TRIGGER approvals_stay BEFORE DELETE ON approvals
BEGIN SELECT RAISE(ABORT, 'an approval is for ever'); END;
