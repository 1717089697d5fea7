-- What one device deletes in one go (pauses of at most ten minutes), so that very much of it can be noticed, told and
-- undone. `compared` is how many it were when they were last compared with what was left.
CREATE TABLE mass_delete (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace_id bigint NOT NULL REFERENCES namespace,
    user_id bigint NOT NULL REFERENCES user_account,
    device_id bigint,
    began_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    files bigint NOT NULL,
    compared bigint NOT NULL DEFAULT 0,
    told_at timestamptz,
    undone_at timestamptz
);
CREATE INDEX mass_delete_going_on ON mass_delete (namespace_id, last_at);
