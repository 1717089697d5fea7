-- What an announcement by hashes consists of, so that a commit need not name them again and other devices can begin.
-- Hashes do not compress, and are read as a whole or not at all.
CREATE TABLE upload_recipe (
    upload_id text PRIMARY KEY REFERENCES upload ON DELETE CASCADE,
    hashes bytea NOT NULL CHECK (octet_length(hashes) % 32 = 0)
);
ALTER TABLE upload_recipe ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- How blocks of an announced version were told as copies from a base version (protocol/delta.py, lengths only): kept
-- for the other devices for as long as the upload's own row.
CREATE TABLE upload_delta (
    upload_id text NOT NULL REFERENCES upload ON DELETE CASCADE,
    block_index integer NOT NULL CHECK (block_index >= 0),
    base_file_id bigint NOT NULL,
    base_version integer NOT NULL,
    ops bytea NOT NULL CHECK (octet_length(ops) BETWEEN 1 AND 16384),
    PRIMARY KEY (upload_id, block_index)
);

-- How deep a tree goes is asked of its folders alone.
CREATE INDEX file_folder ON file (namespace_id, parent_id) WHERE is_folder AND deleted_at IS NULL;

-- As in 0002, and for each entry (NULL or absent where nothing is asked): p_id, the live file that must stand there;
-- p_parent, the folder that it must be in. An id that does not hold is a 'version_conflict' with o_fact2 1 (file) or 2
-- (folder).
CREATE FUNCTION announce_files(
    p_namespace bigint, p_account bigint, p_root bigint, p_user bigint, p_device bigint, p_streamed boolean,
    p_metadata text, p_expires_after interval, p_folder_keys text[], p_folder integer[], p_names text[], p_keys text[], p_key text[],
    p_digest bytea[], p_size bigint[], p_content bytea[], p_base integer[], p_client_modified timestamptz[],
    p_executable boolean[], p_upload text[], p_id bigint[], p_parent bigint[])
RETURNS TABLE (o_ord integer, o_error text, o_fact bigint, o_fact2 bigint, o_upload text)
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_epoch integer; v_seq bigint; v_quota bigint; v_used bigint; v_pending bigint; v_reserve bigint;
    v_folder bigint[]; v_folder_path text[]; v_folder_found boolean[]; v_walk record; r record; v_path text[];
BEGIN
    SELECT n.epoch, n.journal_seq INTO STRICT v_epoch, v_seq FROM namespace n WHERE n.id = p_namespace
    FOR NO KEY UPDATE;
    SELECT a.quota_bytes, a.used_bytes, a.pending_bytes INTO STRICT v_quota, v_used, v_pending
    FROM user_account a WHERE a.id = p_account FOR NO KEY UPDATE;
    FOR i IN 1 .. cardinality(p_folder_keys) LOOP
        SELECT * INTO v_walk FROM walk(p_namespace, p_root, string_to_array(p_folder_keys[i], '/'), false);
        v_folder_found[i] := v_walk.depth = cardinality(string_to_array(p_folder_keys[i], '/'));
        v_folder[i] := CASE WHEN v_walk.is_folder THEN v_walk.id ELSE -1 END;
        v_folder_path[i] := v_walk.path;
    END LOOP;
    FOR r IN
        SELECT e.*, c.id AS live_id, c.is_folder, c.version, c.size_bytes, u.id AS earlier
        FROM unnest(p_folder, p_names, p_keys, p_key, p_digest, p_size, p_content, p_base, p_client_modified, p_executable,
                    p_upload, p_id, p_parent)
            WITH ORDINALITY AS e(folder, names, keys, key, digest, size, content, base, client_modified, executable, upload,
                                 id, parent, ord)
        LEFT JOIN LATERAL (
            SELECT * FROM file f WHERE v_folder_found[e.folder] AND f.namespace_id = p_namespace
               AND f.parent_id = v_folder[e.folder] AND f.name_key = e.key COLLATE "C" AND f.deleted_at IS NULL
            LIMIT 1) c ON true
        LEFT JOIN LATERAL (
            SELECT q.id FROM upload q WHERE NOT p_streamed AND q.namespace_id = p_namespace
               AND q.path_digest = e.digest AND q.state = 'pending' AND q.user_id = p_user AND NOT q.streamed
               AND q.content_hash = e.content AND q.size_bytes = e.size
            LIMIT 1) u ON true
        ORDER BY e.ord
    LOOP
        o_ord := r.ord; o_error := NULL; o_fact := NULL; o_fact2 := NULL; o_upload := NULL;
        v_reserve := greatest(0, coalesce(r.size, 0) - coalesce(r.size_bytes, 0));
        IF r.parent <> (CASE WHEN v_folder_found[r.folder] THEN v_folder[r.folder] ELSE 0 END) THEN
            o_error := 'version_conflict'; o_fact := nullif(r.version, 0); o_fact2 := 2;
        ELSIF r.id <> coalesce(r.live_id, 0) THEN
            o_error := 'version_conflict'; o_fact := nullif(r.version, 0); o_fact2 := 1;
        ELSIF v_folder[r.folder] = -1 THEN
            o_error := 'not_a_folder';
        ELSIF r.is_folder THEN
            o_error := 'is_a_folder';
        ELSIF coalesce(r.base, 0) <> coalesce(r.version, 0) THEN
            o_error := 'version_conflict'; o_fact := r.version;
        ELSIF r.earlier IS NOT NULL THEN
            UPDATE upload q SET base_version = coalesce(r.base, 0), client_modified_at = r.client_modified,
                   executable = r.executable, expires_at = v_now + q.expires_after WHERE q.id = r.earlier;
            o_upload := r.earlier;
        ELSIF v_reserve > 0 AND v_used + v_pending + v_reserve > v_quota THEN
            o_error := 'quota_exceeded'; o_fact := v_used + v_pending; o_fact2 := v_quota;
        ELSE
            v_path := string_to_array(r.names, '/');
            INSERT INTO upload (id, namespace_id, account_id, root_id, user_id, device_id, names, keys, path_digest, streamed,
                                size_bytes, content_hash, base_version, client_modified_at, executable, client_metadata,
                                replaced_bytes, reserved_bytes, expires_after, expires_at)
            VALUES (r.upload, p_namespace, p_account, p_root, p_user, p_device, v_path, string_to_array(r.keys, '/'), r.digest, p_streamed,
                    r.size, r.content, coalesce(r.base, 0), r.client_modified, r.executable, p_metadata,
                    coalesce(r.size_bytes, 0), v_reserve, p_expires_after, v_now + p_expires_after);
            v_pending := v_pending + v_reserve; v_seq := v_seq + 1;
            INSERT INTO journal (namespace_id, seq, op, file_id, parent_id, name, path, is_folder, version, size_bytes,
                                 content_hash, executable, modified_at, client_modified_at, modified_by, device_id,
                                 upload_id)
            VALUES (p_namespace, v_seq, 'pending', coalesce(r.live_id, 0),
                    CASE WHEN v_folder_found[r.folder] THEN v_folder[r.folder] END, v_path[cardinality(v_path)],
                    '/' || r.names, false, coalesce(r.base, 0) + 1, coalesce(r.size, 0), r.content, r.executable, v_now,
                    r.client_modified, p_user, p_device, r.upload);
            o_upload := r.upload;
        END IF;
        RETURN NEXT;
    END LOOP;
    UPDATE user_account a SET pending_bytes = v_pending WHERE a.id = p_account AND a.pending_bytes <> v_pending;
    UPDATE namespace n SET journal_seq = v_seq WHERE n.id = p_namespace AND n.journal_seq <> v_seq;
    o_ord := 0; o_error := NULL; o_fact := v_epoch; o_fact2 := v_seq; o_upload := NULL;
    RETURN NEXT;
END $$;

CREATE OR REPLACE FUNCTION announce_files(
    p_namespace bigint, p_account bigint, p_root bigint, p_user bigint, p_device bigint, p_streamed boolean,
    p_metadata text, p_expires_after interval, p_folder_keys text[], p_folder integer[], p_names text[], p_keys text[], p_key text[],
    p_digest bytea[], p_size bigint[], p_content bytea[], p_base integer[], p_client_modified timestamptz[],
    p_executable boolean[], p_upload text[])
RETURNS TABLE (o_ord integer, o_error text, o_fact bigint, o_fact2 bigint, o_upload text)
LANGUAGE sql AS $$
    SELECT * FROM announce_files(
        p_namespace, p_account, p_root, p_user, p_device, p_streamed, p_metadata, p_expires_after, p_folder_keys,
        p_folder, p_names, p_keys, p_key, p_digest, p_size, p_content, p_base, p_client_modified, p_executable, p_upload,
        '{}'::bigint[], '{}'::bigint[])
$$;
