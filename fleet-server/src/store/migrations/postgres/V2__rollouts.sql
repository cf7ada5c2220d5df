-- What a step of a rollout is kept under: raised with every change, also with those that nobody decides by.
ALTER TABLE rollout ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rollout ADD COLUMN started_ms BIGINT NOT NULL DEFAULT 0;
-- Gateways that a rollout chose, and what they are still to be told.
CREATE TABLE rollout_member (
    rollout TEXT NOT NULL REFERENCES rollout (id) ON DELETE CASCADE,
    device TEXT NOT NULL,
    outcome TEXT NOT NULL,
    body TEXT NOT NULL,
    pending TEXT CHECK (pending IN ('assign', 'withdraw', 'drop')),
    settings_before TEXT,
    settings_revision BIGINT,
    PRIMARY KEY (rollout, device)
);
CREATE INDEX rollout_member_pending ON rollout_member (rollout, device) WHERE pending IS NOT NULL;
-- Gateways that asked to be left alone for a while; of no worth once a later message does not ask again.
CREATE TABLE device_deferral (
    device TEXT PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    until_ms BIGINT NOT NULL,
    rollout TEXT,
    reason TEXT NOT NULL,
    noted_ms BIGINT NOT NULL
);
-- How many people must approve, by label.
CREATE TABLE approval_policy (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    revision BIGINT NOT NULL,
    rules TEXT NOT NULL
);
