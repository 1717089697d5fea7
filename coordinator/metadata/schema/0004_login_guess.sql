-- Wrong passwords by what was guessed at and from where, counted by all workers together. `key` is a digest: what people
-- type into the field for their address may be anything. A row says nothing any more once its window has ended.
CREATE TABLE login_guess (
    key bytea PRIMARY KEY CHECK (octet_length(key) = 32),
    ends_at timestamptz NOT NULL,
    guesses integer NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX login_guess_ended ON login_guess (ends_at);
