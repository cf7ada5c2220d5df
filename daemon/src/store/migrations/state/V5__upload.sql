-- `ceiling`: no number from here on was ever used. `settled`: numbers that need not be sent any more, as JSON.
CREATE TABLE upload_stream (
    stream TEXT PRIMARY KEY,
    ceiling INTEGER NOT NULL,
    settled TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE upload_policy (stream TEXT PRIMARY KEY, share TEXT NOT NULL, every INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE upload_spent (
    month TEXT NOT NULL,
    purpose TEXT NOT NULL,
    sent INTEGER NOT NULL,
    received INTEGER NOT NULL,
    PRIMARY KEY (month, purpose)
) STRICT, WITHOUT ROWID;
CREATE TABLE upload_log (id INTEGER PRIMARY KEY CHECK (id = 1), text TEXT NOT NULL) STRICT;
