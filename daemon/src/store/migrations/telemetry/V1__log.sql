-- One row a transaction. Frozen: a later schema adds a file beside this one.
CREATE TABLE batch (
    seq INTEGER PRIMARY KEY,
    seq_last INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    mono_us INTEGER NOT NULL,
    clock_offset_us INTEGER NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    readings INTEGER NOT NULL,
    predictions INTEGER NOT NULL,
    prediction_seq INTEGER NOT NULL,
    published_through INTEGER NOT NULL,
    thinned INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    deliveries BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE quarantine (
    seq INTEGER PRIMARY KEY,
    seq_last INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    mono_us INTEGER NOT NULL,
    clock_offset_us INTEGER NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    readings INTEGER NOT NULL,
    predictions INTEGER NOT NULL,
    prediction_seq INTEGER NOT NULL,
    published_through INTEGER NOT NULL,
    thinned INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    deliveries BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE series (id INTEGER PRIMARY KEY, identity TEXT NOT NULL, crc INTEGER NOT NULL) STRICT;
CREATE TABLE instance (id INTEGER PRIMARY KEY, identity TEXT NOT NULL, crc INTEGER NOT NULL) STRICT;
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT;
-- Floors of the counters, for when the rows that tell them are gone.
CREATE TABLE position (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq_last INTEGER NOT NULL,
    prediction_next INTEGER NOT NULL,
    published_through INTEGER NOT NULL
) STRICT;
INSERT INTO position VALUES (1, 0, 1, 0);
CREATE TABLE loss (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    count INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at_us INTEGER NOT NULL
) STRICT;
CREATE TABLE summary (
    instance INTEGER NOT NULL,
    hour_us INTEGER NOT NULL,
    element INTEGER NOT NULL,
    count INTEGER NOT NULL,
    mean REAL NOT NULL,
    low REAL NOT NULL,
    high REAL NOT NULL,
    PRIMARY KEY (hour_us, instance, element)
) STRICT, WITHOUT ROWID;
CREATE TABLE boot (id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, wall_us INTEGER NOT NULL, mono_us INTEGER NOT NULL) STRICT;
CREATE TABLE clock (
    boot INTEGER NOT NULL,
    mono_us INTEGER NOT NULL,
    offset_us INTEGER NOT NULL,
    PRIMARY KEY (boot, mono_us)
) STRICT, WITHOUT ROWID;
-- The program that shaped this file: named when an older one refuses it.
CREATE TABLE origin (id INTEGER PRIMARY KEY CHECK (id = 1), version TEXT NOT NULL) STRICT;
