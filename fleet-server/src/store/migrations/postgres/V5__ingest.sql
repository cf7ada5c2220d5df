-- What rows take and how many there are, for what is kept how long.
ALTER TABLE upload ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE upload ADD COLUMN row_count BIGINT NOT NULL DEFAULT 0;
DROP INDEX upload_by_time;
CREATE INDEX upload_by_age ON upload (received_ms, bytes);
-- What became of the numbers of a stream, beside those that were received.
CREATE TABLE account (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    stream TEXT NOT NULL,
    row_count BIGINT NOT NULL,
    held_back BIGINT NOT NULL,
    expired BIGINT NOT NULL,
    lost TEXT NOT NULL,
    PRIMARY KEY (device, stream)
);
-- Rules by label query: what is uploaded, how often gateways ask.
CREATE TABLE policy (
    name TEXT PRIMARY KEY,
    revision BIGINT NOT NULL,
    rules TEXT NOT NULL,
    changed_ms BIGINT NOT NULL
);
