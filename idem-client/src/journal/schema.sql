BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS operations (
    key TEXT NOT NULL PRIMARY KEY,
    method TEXT NOT NULL,
    uri TEXT NOT NULL,
    headers BLOB NOT NULL,
    body BLOB NOT NULL,
    -- Milliseconds since 1970.
    recorded_at INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 1;
COMMIT;
