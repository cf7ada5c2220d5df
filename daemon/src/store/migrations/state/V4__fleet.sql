CREATE TABLE fleet_life (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    url TEXT NOT NULL,
    server TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    counter_ceiling INTEGER NOT NULL,
    desired_revision INTEGER NOT NULL,
    settings_revision INTEGER NOT NULL
) STRICT;
CREATE TABLE fleet_wish (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    nonce TEXT NOT NULL
) STRICT;
CREATE TABLE fleet_number (stream TEXT PRIMARY KEY, ceiling INTEGER NOT NULL) STRICT, WITHOUT ROWID;
