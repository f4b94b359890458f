-- Rotations: what was decided, which files came of it, byte for byte.

CREATE TABLE rotations (
    name TEXT PRIMARY KEY CHECK (name GLOB 'r-*'),
    repository TEXT NOT NULL REFERENCES repositories (name),
    kind TEXT NOT NULL CHECK (kind <> ''),
    plan BLOB NOT NULL,
    plan_digest TEXT NOT NULL CHECK (length(plan_digest) = 64),
    creator TEXT NOT NULL,
    grace_s INTEGER NOT NULL CHECK (grace_s >= 0),
    leaf INTEGER NOT NULL CHECK (leaf >= 0),
    created_at TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('RUNNING', 'READY', 'RETIRING', 'DONE', 'CANCELLED')),
    published_at TEXT,
    CHECK ((published_at IS NOT NULL) = (state IN ('RETIRING', 'DONE')))
) STRICT;

-- The lock: two rotations of one repository never change its roles at once.
CREATE UNIQUE INDEX one_open_rotation ON rotations (repository)
WHERE state IN ('RUNNING', 'READY');

CREATE INDEX retiring_rotations ON rotations (name) WHERE state = 'RETIRING';

CREATE TRIGGER rotations_are_fixed
BEFORE UPDATE OF name, repository, kind, plan, plan_digest, creator, grace_s, leaf, created_at
ON rotations
BEGIN SELECT RAISE(ABORT, 'a rotation keeps its plan'); END;
CREATE TRIGGER rotations_do_not_go_back BEFORE UPDATE OF state ON rotations
WHEN (OLD.state IN ('DONE', 'CANCELLED') AND NEW.state <> OLD.state)
    OR (OLD.state = 'RETIRING' AND NEW.state NOT IN ('RETIRING', 'DONE'))
    OR (OLD.state IN ('RUNNING', 'READY') AND NEW.state = 'DONE')
BEGIN SELECT RAISE(ABORT, 'a rotation does not go back'); END;
CREATE TRIGGER rotations_stay BEFORE DELETE ON rotations
BEGIN SELECT RAISE(ABORT, 'a rotation is for ever'); END;

-- One row for each step of a plan that signs a role: the version that was bound for it, and the
-- whole file once no signature can be added to it any more.
CREATE TABLE rotation_files (
    rotation TEXT NOT NULL REFERENCES rotations (name),
    step INTEGER NOT NULL CHECK (step >= 0),
    repository TEXT NOT NULL,
    role TEXT NOT NULL,
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    version INTEGER NOT NULL CHECK (version > 0),
    digest TEXT NOT NULL REFERENCES payloads (digest),
    content BLOB,
    leaf INTEGER NOT NULL CHECK (leaf >= 0),
    PRIMARY KEY (rotation, step),
    FOREIGN KEY (repository, role) REFERENCES roles (repository, name)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER rotation_files_are_fixed BEFORE UPDATE ON rotation_files
WHEN OLD.content IS NOT NULL AND OLD.version = NEW.version AND OLD.content <> NEW.content
BEGIN SELECT RAISE(ABORT, 'a file keeps its bytes'); END;
CREATE TRIGGER rotation_files_stay BEFORE DELETE ON rotation_files
BEGIN SELECT RAISE(ABORT, 'a file of a rotation is for ever'); END;
