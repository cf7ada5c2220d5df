-- The program that shaped this database: named when an older one refuses it.
CREATE TABLE origin (id BIGINT PRIMARY KEY CHECK (id = 1), version TEXT NOT NULL);
