-- The program that shaped this database: named when an older one refuses it.
CREATE TABLE origin (id BIGINT PRIMARY KEY CHECK (id = 1), version TEXT NOT NULL);
CREATE TABLE fleet (id BIGINT PRIMARY KEY CHECK (id = 1), server TEXT NOT NULL, created_ms BIGINT NOT NULL);
-- Gateways.
CREATE TABLE device (
    id TEXT PRIMARY KEY,
    public_key BYTEA NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'active', 'suspended', 'revoked')),
    reason TEXT,
    incarnation TEXT NOT NULL,
    counter BIGINT NOT NULL,
    start TEXT,
    enrolled_ms BIGINT NOT NULL,
    enrolled_by TEXT NOT NULL,
    seen_ms BIGINT NOT NULL,
    utc_offset_min BIGINT NOT NULL,
    facts TEXT NOT NULL,
    report TEXT,
    report_digest TEXT,
    health TEXT,
    desired_revision BIGINT NOT NULL,
    director_version BIGINT NOT NULL
);
CREATE INDEX device_by_state ON device (state, id);
CREATE INDEX device_by_seen ON device (seen_ms);
CREATE TABLE device_label (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (device, name)
);
CREATE INDEX device_label_by_value ON device_label (name, value, device);
-- The messages that were taken last, to tell a repetition from a fork.
CREATE TABLE device_message (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    counter BIGINT NOT NULL,
    digest BYTEA NOT NULL,
    PRIMARY KEY (device, counter)
);
-- Starts that another one came after: none of them speaks again.
CREATE TABLE device_start (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    start TEXT NOT NULL,
    until_counter BIGINT NOT NULL,
    PRIMARY KEY (device, start)
);
-- Enrolments that were answered, by their marks: one that is sent again is answered with the same life.
CREATE TABLE device_enrolment (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    nonce TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (device, nonce)
);
-- Gateways whose keys were named before they came: they need no token.
CREATE TABLE device_expected (
    id TEXT PRIMARY KEY,
    labels TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    created_by TEXT NOT NULL
);
CREATE TABLE enrol_token (
    id TEXT PRIMARY KEY,
    secret_key BYTEA NOT NULL,
    labels TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    uses_left BIGINT NOT NULL CHECK (uses_left >= 0),
    created_ms BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    revoked_ms BIGINT
);
-- People and programs.
CREATE TABLE api_token (
    id TEXT PRIMARY KEY,
    digest BYTEA NOT NULL UNIQUE,
    name TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('viewer', 'operator', 'admin')),
    devices TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_ms BIGINT,
    used_ms BIGINT,
    revoked_ms BIGINT
);
CREATE TABLE audit (
    seq BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    digest BYTEA NOT NULL
);
-- What happened, for those who listen.
CREATE TABLE event (
    seq BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    body TEXT NOT NULL
);
-- What the owner signed.
CREATE TABLE image_file (
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    sha256 BYTEA NOT NULL,
    raw BYTEA NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE TABLE release (
    digest TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    counter BIGINT NOT NULL,
    version TEXT NOT NULL,
    path TEXT NOT NULL,
    manifest BYTEA NOT NULL,
    published_ms BIGINT NOT NULL,
    published_by TEXT NOT NULL,
    UNIQUE (model, counter)
);
CREATE TABLE blob (sha256 TEXT PRIMARY KEY, bytes BIGINT NOT NULL, added_ms BIGINT NOT NULL);
-- What is to run where.
CREATE TABLE rollout (
    id TEXT PRIMARY KEY,
    revision BIGINT NOT NULL,
    status TEXT NOT NULL,
    state TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL
);
CREATE INDEX rollout_by_status ON rollout (status, id);
CREATE TABLE desired (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    model TEXT NOT NULL,
    digest TEXT NOT NULL,
    path TEXT NOT NULL,
    rollout TEXT NOT NULL,
    PRIMARY KEY (device, model)
);
CREATE TABLE withdrawn (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    model TEXT NOT NULL,
    rollout TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (device, digest)
);
-- What gateways uploaded, and what of it is kept.
CREATE TABLE receipt (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    stream TEXT NOT NULL,
    ranges TEXT NOT NULL,
    PRIMARY KEY (device, stream)
);
CREATE TABLE upload (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    stream TEXT NOT NULL,
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    received_ms BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (device, stream, first)
);
CREATE INDEX upload_by_time ON upload (received_ms);
-- Who does what is to be done once.
CREATE TABLE lease (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until_ms BIGINT NOT NULL);
CREATE TABLE idempotency (
    token TEXT NOT NULL,
    name TEXT NOT NULL,
    request BYTEA NOT NULL,
    status BIGINT NOT NULL,
    body TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (token, name)
);
CREATE INDEX idempotency_by_time ON idempotency (at_ms);
CREATE TABLE webhook (
    id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    secret TEXT NOT NULL,
    kinds TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    after_seq BIGINT NOT NULL,
    disabled TEXT
);
CREATE TABLE webhook_delivery (
    webhook TEXT NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    event BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    next_ms BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'dead')),
    last TEXT,
    PRIMARY KEY (webhook, event)
);
CREATE INDEX webhook_delivery_by_time ON webhook_delivery (state, next_ms);
