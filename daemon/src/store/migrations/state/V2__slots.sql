CREATE TABLE release (
    digest TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    counter INTEGER NOT NULL,
    manifest BLOB NOT NULL,
    evidence TEXT NOT NULL,
    approved INTEGER NOT NULL CHECK (approved IN (0, 1)),
    place TEXT
) STRICT;
CREATE TABLE model_slot (
    model TEXT PRIMARY KEY,
    active TEXT,
    previous TEXT,
    candidate TEXT,
    phase TEXT,
    lane INTEGER NOT NULL,
    start INTEGER NOT NULL,
    since_us INTEGER NOT NULL,
    last TEXT,
    CHECK ((candidate IS NULL) = (phase IS NULL))
) STRICT;
CREATE TABLE bad_release (
    model TEXT NOT NULL,
    position INTEGER NOT NULL,
    digest TEXT NOT NULL,
    signed_model TEXT NOT NULL,
    version TEXT NOT NULL,
    counter INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (model, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE release_floor (
    model TEXT PRIMARY KEY,
    counter INTEGER NOT NULL,
    digest TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE start_record (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    unready INTEGER NOT NULL,
    boot TEXT NOT NULL,
    last_us INTEGER NOT NULL,
    span_us INTEGER NOT NULL,
    safe INTEGER NOT NULL
) STRICT;
INSERT INTO start_record VALUES (1, 0, '', 0, 0, 0);
