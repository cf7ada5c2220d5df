-- What rows take and how many there are, for what is kept how long.
ALTER TABLE upload ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE upload ADD COLUMN row_count INTEGER NOT NULL DEFAULT 0;
DROP INDEX upload_by_time;
CREATE INDEX upload_by_age ON upload (received_ms, bytes);
-- What became of the numbers of a stream, beside those that were received.
CREATE TABLE account (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    stream TEXT NOT NULL,
    row_count INTEGER NOT NULL,
    held_back INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    lost TEXT NOT NULL,
    PRIMARY KEY (device, stream)
) STRICT;
-- Rules by label query: what is uploaded, how often gateways ask.
CREATE TABLE policy (
    name TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    rules TEXT NOT NULL,
    changed_ms INTEGER NOT NULL
) STRICT;
