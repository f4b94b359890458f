-- Announced token calls may be deletions of a key pair.

CREATE TABLE intents_with_deletions (
    leaf INTEGER PRIMARY KEY CHECK (leaf >= 0),
    kind TEXT NOT NULL CHECK (kind IN ('sign', 'sign_opaque', 'generate', 'destroy')),
    key TEXT NOT NULL,
    subject TEXT NOT NULL,
    digest TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('OPEN', 'COMPLETED', 'FAILED', 'UNKNOWN', 'ABANDONED'))
) STRICT;

INSERT INTO intents_with_deletions SELECT leaf, kind, key, subject, digest, state FROM intents;
DROP TABLE intents;
ALTER TABLE intents_with_deletions RENAME TO intents;

CREATE INDEX open_intents ON intents (leaf) WHERE state = 'OPEN';
CREATE INDEX key_deletions ON intents (key, leaf) WHERE kind = 'destroy';
