-- The program that shaped this database: named when an older one refuses it.
CREATE TABLE origin (id INTEGER PRIMARY KEY CHECK (id = 1), version TEXT NOT NULL) STRICT;
CREATE TABLE fleet (id INTEGER PRIMARY KEY CHECK (id = 1), server TEXT NOT NULL, created_ms INTEGER NOT NULL) STRICT;
-- Gateways.
CREATE TABLE device (
    id TEXT PRIMARY KEY,
    public_key BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'active', 'suspended', 'revoked')),
    reason TEXT,
    incarnation TEXT NOT NULL,
    counter INTEGER NOT NULL,
    start TEXT,
    enrolled_ms INTEGER NOT NULL,
    enrolled_by TEXT NOT NULL,
    seen_ms INTEGER NOT NULL,
    utc_offset_min INTEGER NOT NULL,
    facts TEXT NOT NULL,
    report TEXT,
    report_digest TEXT,
    health TEXT,
    desired_revision INTEGER NOT NULL,
    director_version INTEGER NOT NULL
) STRICT;
CREATE INDEX device_by_state ON device (state, id);
CREATE INDEX device_by_seen ON device (seen_ms);
CREATE TABLE device_label (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (device, name)
) STRICT;
CREATE INDEX device_label_by_value ON device_label (name, value, device);
-- The messages that were taken last, to tell a repetition from a fork.
CREATE TABLE device_message (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    counter INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (device, counter)
) STRICT;
-- Starts that another one came after: none of them speaks again.
CREATE TABLE device_start (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    start TEXT NOT NULL,
    until_counter INTEGER NOT NULL,
    PRIMARY KEY (device, start)
) STRICT;
-- Enrolments that were answered, by their marks: one that is sent again is answered with the same life.
CREATE TABLE device_enrolment (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    nonce TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (device, nonce)
) STRICT;
-- Gateways whose keys were named before they came: they need no token.
CREATE TABLE device_expected (
    id TEXT PRIMARY KEY,
    labels TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    created_by TEXT NOT NULL
) STRICT;
CREATE TABLE enrol_token (
    id TEXT PRIMARY KEY,
    secret_key BLOB NOT NULL,
    labels TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    created_ms INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    revoked_ms INTEGER
) STRICT;
-- People and programs.
CREATE TABLE api_token (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('viewer', 'operator', 'admin')),
    devices TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires_ms INTEGER,
    used_ms INTEGER,
    revoked_ms INTEGER
) STRICT;
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    digest BLOB NOT NULL
) STRICT;
-- What happened, for those who listen.
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
-- What the owner signed.
CREATE TABLE image_file (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    raw BLOB NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;
CREATE TABLE release (
    digest TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    counter INTEGER NOT NULL,
    version TEXT NOT NULL,
    path TEXT NOT NULL,
    manifest BLOB NOT NULL,
    published_ms INTEGER NOT NULL,
    published_by TEXT NOT NULL,
    UNIQUE (model, counter)
) STRICT;
CREATE TABLE blob (sha256 TEXT PRIMARY KEY, bytes INTEGER NOT NULL, added_ms INTEGER NOT NULL) STRICT;
-- What is to run where.
CREATE TABLE rollout (
    id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    status TEXT NOT NULL,
    state TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX rollout_by_status ON rollout (status, id);
CREATE TABLE desired (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    model TEXT NOT NULL,
    digest TEXT NOT NULL,
    path TEXT NOT NULL,
    rollout TEXT NOT NULL,
    PRIMARY KEY (device, model)
) STRICT;
CREATE TABLE withdrawn (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    model TEXT NOT NULL,
    rollout TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (device, digest)
) STRICT;
-- What gateways uploaded, and what of it is kept.
CREATE TABLE receipt (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    stream TEXT NOT NULL,
    ranges TEXT NOT NULL,
    PRIMARY KEY (device, stream)
) STRICT;
CREATE TABLE upload (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    stream TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (device, stream, first)
) STRICT;
CREATE INDEX upload_by_time ON upload (received_ms);
-- Who does what is to be done once.
CREATE TABLE lease (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until_ms INTEGER NOT NULL) STRICT;
CREATE TABLE idempotency (
    token TEXT NOT NULL,
    name TEXT NOT NULL,
    request BLOB NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (token, name)
) STRICT;
CREATE INDEX idempotency_by_time ON idempotency (at_ms);
CREATE TABLE webhook (
    id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    secret TEXT NOT NULL,
    kinds TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    after_seq INTEGER NOT NULL,
    disabled TEXT
) STRICT;
CREATE TABLE webhook_delivery (
    webhook TEXT NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    event INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    next_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'dead')),
    last TEXT,
    PRIMARY KEY (webhook, event)
) STRICT;
CREATE INDEX webhook_delivery_by_time ON webhook_delivery (state, next_ms);
