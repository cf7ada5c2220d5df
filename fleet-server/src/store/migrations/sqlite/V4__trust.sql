-- When the last statement for a gateway was made, and when something last changed for which its question is woken.
ALTER TABLE device ADD COLUMN director_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN woken_ms INTEGER NOT NULL DEFAULT 0;
CREATE INDEX device_by_woken ON device (woken_ms);
-- The gateway's revision at which a release was taken back: the newest are said.
ALTER TABLE withdrawn ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
-- When the owner named a release no more; and files of settings, which he approves in the same way.
ALTER TABLE release ADD COLUMN removed_ms INTEGER;
ALTER TABLE release ADD COLUMN signers TEXT NOT NULL DEFAULT '[]';
CREATE TABLE settings_release (
    digest TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    published_ms INTEGER NOT NULL,
    published_by TEXT NOT NULL,
    removed_ms INTEGER
) STRICT;
CREATE TABLE desired_settings (
    device TEXT PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    path TEXT NOT NULL,
    rollout TEXT NOT NULL,
    revision INTEGER NOT NULL
) STRICT;
-- Roots of the director, signed by the owner.
CREATE TABLE director_root (version INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, raw BLOB NOT NULL) STRICT;
-- Patches from one blob to another: kept as blobs of their own; without one where it is not worth it.
CREATE TABLE blob_patch (
    sha256 TEXT NOT NULL,
    base TEXT NOT NULL,
    patch TEXT,
    bytes INTEGER NOT NULL,
    made_ms INTEGER NOT NULL,
    PRIMARY KEY (sha256, base)
) STRICT;
-- Which file of which model a blob is: what may be patched from what.
CREATE TABLE release_file (
    model TEXT NOT NULL,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (model, name, sha256)
) STRICT;
CREATE INDEX release_file_by_blob ON release_file (sha256);
