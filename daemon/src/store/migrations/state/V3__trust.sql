CREATE TABLE trust_root (
    repository TEXT NOT NULL,
    version INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    raw BLOB NOT NULL,
    PRIMARY KEY (repository, version)
) STRICT;
CREATE TABLE trust_file (
    repository TEXT NOT NULL,
    role TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    raw BLOB NOT NULL,
    PRIMARY KEY (repository, role)
) STRICT;
CREATE TABLE trust_floor (
    repository TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('top', 'listed')),
    role TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (repository, kind, role)
) STRICT, WITHOUT ROWID;
CREATE TABLE trust_time (repository TEXT PRIMARY KEY, signed_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE trust_refusal (
    subject TEXT PRIMARY KEY,
    code TEXT NOT NULL,
    object TEXT NOT NULL,
    reason TEXT NOT NULL,
    at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
