-- State and audit log of one keyd. Times are ISO 8601 UTC with microseconds, digests and
-- fingerprints SHA-256 in lower-case hex, JSON columns as keyd/ledger/codec.py writes them.

CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    ledger_id TEXT NOT NULL CHECK (length(ledger_id) = 32),
    origin TEXT NOT NULL CHECK (origin <> ''),
    development INTEGER NOT NULL CHECK (development IN (0, 1)),
    created_at TEXT NOT NULL
) STRICT;

CREATE TRIGGER identity_is_for_ever BEFORE UPDATE OF ledger_id, development ON identity
BEGIN SELECT RAISE(ABORT, 'a ledger keeps its identity'); END;

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The log: leaves, and the interior nodes of complete subtrees in the order of their completion
-- (merkle.interior_position), so that both tables only grow at their end.

CREATE TABLE leaves (
    position INTEGER PRIMARY KEY CHECK (position >= 0),
    data BLOB NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TABLE nodes (
    position INTEGER PRIMARY KEY CHECK (position >= 0),
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TABLE checkpoints (
    size INTEGER PRIMARY KEY CHECK (size > 0),
    root BLOB NOT NULL CHECK (length(root) = 32),
    note TEXT NOT NULL
) STRICT;

CREATE TRIGGER leaves_are_fixed BEFORE UPDATE ON leaves
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER leaves_stay BEFORE DELETE ON leaves
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER nodes_are_fixed BEFORE UPDATE ON nodes
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER nodes_stay BEFORE DELETE ON nodes
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;

-- Keys and whose they are.

CREATE TABLE keys (
    name TEXT PRIMARY KEY CHECK (name <> ''),
    token TEXT NOT NULL,
    cka_id BLOB NOT NULL CHECK (length(cka_id) BETWEEN 1 AND 64),
    scheme TEXT NOT NULL,
    public_der BLOB NOT NULL,
    content TEXT NOT NULL CHECK (content IN ('tuf', 'opaque', 'log')),
    state TEXT NOT NULL CHECK (state IN
        ('PRE_ACTIVE', 'ACTIVE', 'SUSPENDED', 'DEACTIVATED', 'COMPROMISED', 'DESTROYED')),
    origin TEXT NOT NULL CHECK (origin IN ('generated', 'adopted')),
    created_at TEXT NOT NULL,
    rsa_bits INTEGER NOT NULL CHECK (rsa_bits >= 0),
    fingerprint TEXT NOT NULL UNIQUE CHECK (length(fingerprint) = 64)
) STRICT;

-- A slot of a PIV token is used again after its key was destroyed.
CREATE UNIQUE INDEX keys_on_token ON keys (token, cka_id) WHERE state <> 'DESTROYED';

CREATE TABLE material (
    fingerprint TEXT PRIMARY KEY CHECK (length(fingerprint) = 64),
    repository TEXT NOT NULL REFERENCES repositories (name),
    uses TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Repositories, roles and versions.

CREATE TABLE repositories (
    name TEXT PRIMARY KEY CHECK (name <> ''),
    state TEXT NOT NULL CHECK (state IN ('BOOTSTRAP', 'ACTIVE')),
    development INTEGER NOT NULL CHECK (development IN (0, 1)),
    imported INTEGER NOT NULL CHECK (imported IN (0, 1)),
    created_at TEXT NOT NULL,
    intended_root TEXT,
    revision INTEGER NOT NULL CHECK (revision > 0)
) STRICT;

CREATE TRIGGER development_is_for_ever BEFORE UPDATE OF development ON repositories
WHEN NEW.development <> OLD.development
BEGIN SELECT RAISE(ABORT, 'a repository is for development for ever or never'); END;

CREATE TABLE roles (
    repository TEXT NOT NULL REFERENCES repositories (name),
    name TEXT NOT NULL CHECK (name <> ''),
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    high_water INTEGER NOT NULL CHECK (high_water >= 0),
    trusted_version INTEGER NOT NULL CHECK (trusted_version >= 0),
    trusted_digest TEXT NOT NULL CHECK (length(trusted_digest) IN (0, 64)),
    rules TEXT,
    revision INTEGER NOT NULL CHECK (revision > 0),
    PRIMARY KEY (repository, name)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER marks_only_rise BEFORE UPDATE OF epoch, high_water ON roles
WHEN NEW.epoch < OLD.epoch OR (NEW.epoch = OLD.epoch AND NEW.high_water < OLD.high_water)
BEGIN SELECT RAISE(ABORT, 'epochs and high-water marks only rise'); END;

CREATE TABLE delegations (
    repository TEXT NOT NULL REFERENCES repositories (name),
    delegator TEXT NOT NULL,
    role TEXT NOT NULL,
    bit_length INTEGER NOT NULL CHECK (bit_length BETWEEN 0 AND 32),
    fingerprint TEXT NOT NULL CHECK (length(fingerprint) = 64),
    PRIMARY KEY (repository, delegator, role, bit_length, fingerprint)
) STRICT, WITHOUT ROWID;

CREATE INDEX delegations_of_key ON delegations (fingerprint);
CREATE INDEX delegations_of_role ON delegations (repository, role) WHERE bit_length = 0;
CREATE INDEX delegations_of_bins ON delegations (repository) WHERE bit_length > 0;

CREATE TABLE payloads (
    digest TEXT PRIMARY KEY CHECK (length(digest) = 64),
    data BLOB NOT NULL
) STRICT;

CREATE TABLE reservations (
    id INTEGER PRIMARY KEY,
    repository TEXT NOT NULL,
    role TEXT NOT NULL,
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    version INTEGER NOT NULL CHECK (version > 0),
    digest TEXT NOT NULL REFERENCES payloads (digest),
    required TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('RESERVED', 'SIGNED', 'ACCEPTED', 'VOIDED')),
    leaf INTEGER NOT NULL CHECK (leaf >= 0),
    created_at TEXT NOT NULL,
    FOREIGN KEY (repository, role) REFERENCES roles (repository, name)
) STRICT;

-- The lock: whatever the code above may get wrong, no version has two payloads.
CREATE UNIQUE INDEX one_payload_per_version ON reservations (repository, role, epoch, version)
WHERE state <> 'VOIDED';

CREATE INDEX voided_reservations ON reservations (repository, role, epoch, version)
WHERE state = 'VOIDED';

CREATE TRIGGER reservations_are_fixed
BEFORE UPDATE OF repository, role, epoch, version, digest, required, leaf ON reservations
BEGIN SELECT RAISE(ABORT, 'a reservation keeps its payload'); END;
CREATE TRIGGER reservations_do_not_go_back BEFORE UPDATE OF state ON reservations
WHEN (OLD.state = 'VOIDED' AND NEW.state <> 'VOIDED')
    OR (OLD.state = 'ACCEPTED' AND NEW.state <> 'ACCEPTED')
    OR (OLD.state = 'SIGNED' AND NEW.state = 'RESERVED')
BEGIN SELECT RAISE(ABORT, 'a reservation does not go back'); END;
CREATE TRIGGER reservations_stay BEFORE DELETE ON reservations
BEGIN SELECT RAISE(ABORT, 'a reservation is for ever'); END;

CREATE TABLE signatures (
    reservation INTEGER NOT NULL REFERENCES reservations (id),
    fingerprint TEXT NOT NULL CHECK (length(fingerprint) = 64),
    key TEXT NOT NULL,
    signature BLOB NOT NULL CHECK (length(signature) BETWEEN 1 AND 1024),
    leaf INTEGER NOT NULL CHECK (leaf >= 0),
    made_at TEXT NOT NULL,
    PRIMARY KEY (reservation, fingerprint)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER signatures_are_fixed BEFORE UPDATE ON signatures
BEGIN SELECT RAISE(ABORT, 'a recorded signature is for ever'); END;
CREATE TRIGGER signatures_stay BEFORE DELETE ON signatures
BEGIN SELECT RAISE(ABORT, 'a recorded signature is for ever'); END;

CREATE TABLE versions (
    repository TEXT NOT NULL,
    role TEXT NOT NULL,
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    version INTEGER NOT NULL CHECK (version > 0),
    digest TEXT NOT NULL CHECK (length(digest) IN (0, 64)),
    accepted INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    imported INTEGER NOT NULL CHECK (imported IN (0, 1)),
    length INTEGER CHECK (length >= 0),
    hashes TEXT,
    PRIMARY KEY (repository, role, epoch, version),
    FOREIGN KEY (repository, role) REFERENCES roles (repository, name),
    CHECK ((length IS NULL) = (hashes IS NULL))
) STRICT, WITHOUT ROWID;

-- Versions that a repair took for used, though what they were is lost. No foreign key: the
-- repository itself may be lost.
CREATE TABLE lost_versions (
    repository TEXT NOT NULL,
    role TEXT NOT NULL,
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    first INTEGER NOT NULL CHECK (first > 0),
    last INTEGER NOT NULL CHECK (last >= first),
    digest TEXT NOT NULL CHECK (length(digest) IN (0, 64)),
    leaf INTEGER NOT NULL CHECK (leaf >= 0),
    PRIMARY KEY (repository, role, epoch, first)
) STRICT, WITHOUT ROWID;

-- What was asked for and what a token was about to do.

CREATE TABLE requests (
    principal TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    outcome TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (principal, request_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE opaque_signatures (
    key TEXT NOT NULL REFERENCES keys (name),
    digest TEXT NOT NULL CHECK (length(digest) = 64),
    signature BLOB CHECK (length(signature) BETWEEN 1 AND 1024),
    leaf INTEGER NOT NULL CHECK (leaf >= 0),
    made_at TEXT NOT NULL,
    PRIMARY KEY (key, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE intents (
    leaf INTEGER PRIMARY KEY CHECK (leaf >= 0),
    kind TEXT NOT NULL CHECK (kind IN ('sign', 'sign_opaque', 'generate')),
    key TEXT NOT NULL,
    subject TEXT NOT NULL,
    digest TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('OPEN', 'COMPLETED', 'FAILED', 'UNKNOWN', 'ABANDONED'))
) STRICT;

CREATE INDEX open_intents ON intents (leaf) WHERE state = 'OPEN';

-- Tokens: who they are, PIN attempts, quarantines.

CREATE TABLE token_identities (
    token TEXT PRIMARY KEY,
    serial TEXT NOT NULL,
    label TEXT NOT NULL,
    manufacturer TEXT NOT NULL,
    model TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE pin_attempts (
    token TEXT PRIMARY KEY,
    credential TEXT NOT NULL,
    rejected INTEGER NOT NULL CHECK (rejected IN (0, 1)),
    at TEXT NOT NULL,
    details TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE quarantines (
    token TEXT PRIMARY KEY,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
