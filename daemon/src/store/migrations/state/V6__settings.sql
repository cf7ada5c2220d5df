-- `standing`: what became of settings of the fleet server, and those in use, as JSON.
CREATE TABLE fleet_settings (id INTEGER PRIMARY KEY CHECK (id = 1), standing TEXT NOT NULL) STRICT;
