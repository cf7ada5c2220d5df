-- Windows of statistics on their way to a fleet server. Frozen: a later schema adds a file beside this one.
-- `standing`: 0 waits to be merged with others of its day, 1 is sent as it is, 2 is part of another row and held back.
CREATE TABLE outbox_window (
    seq INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL,
    profile BLOB NOT NULL,
    from_us INTEGER NOT NULL,
    span_us INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    n INTEGER NOT NULL,
    standing INTEGER NOT NULL,
    shapes BLOB NOT NULL,
    summaries BLOB NOT NULL
) STRICT;
CREATE INDEX outbox_window_waiting ON outbox_window (standing) WHERE standing = 0;
INSERT INTO outbox_mark VALUES ('statistics', 1, 0);
