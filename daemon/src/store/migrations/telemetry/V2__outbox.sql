-- What travels to a fleet server beside the log's predictions. Frozen: a later schema adds a file beside this one.
CREATE TABLE log_identity (id INTEGER PRIMARY KEY CHECK (id = 1), text TEXT NOT NULL) STRICT;
INSERT INTO log_identity VALUES (1, lower(hex(randomblob(8))));
-- `next` is the number of the stream's next row; rows up to `sealed` may have been sent and stay as they are.
CREATE TABLE outbox_mark (stream TEXT PRIMARY KEY, next INTEGER NOT NULL, sealed INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE outbox_event (
    seq INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    kind TEXT NOT NULL,
    severity INTEGER NOT NULL,
    object TEXT NOT NULL,
    words TEXT NOT NULL
) STRICT;
CREATE TABLE outbox_loss (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    stream TEXT,
    first INTEGER,
    last INTEGER,
    CHECK ((stream IS NULL) = (first IS NULL) AND (first IS NULL) = (last IS NULL))
) STRICT;
-- Numbers that a row of `outbox_loss`, kept or sent, explains.
CREATE TABLE outbox_gone (stream TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (stream, first)) STRICT, WITHOUT ROWID;
-- What was given up before: its counts as they are, its numbers as one range.
INSERT INTO outbox_loss (seq, kind, object, reason, count, first_us, last_us, at_us)
    SELECT row_number() OVER (ORDER BY id), kind, object, reason, count, first_us, last_us, at_us FROM loss;
INSERT INTO outbox_gone SELECT 'predictions', 1, prediction_seq - 1 FROM batch
    WHERE seq = (SELECT min(seq) FROM batch) AND prediction_seq > 1;
INSERT INTO outbox_loss (kind, object, reason, count, first_us, last_us, at_us, stream, first, last)
    SELECT 'predictions', '', 'before_outbox', 0, 0, 0, 0, 'predictions', first, last FROM outbox_gone;
INSERT INTO outbox_mark VALUES ('events', 1, 0);
INSERT INTO outbox_mark SELECT 'losses', coalesce(max(seq), 0) + 1, 0 FROM outbox_loss;
