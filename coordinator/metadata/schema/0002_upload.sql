-- Uploads: announced, appended to, ended. Locks are always taken in the order namespace, account, upload.

-- Record pending versions (arrays as in commit_files; size and content are NULL while unknown) and tell the watchers.
-- An entry that the same user has announced already answers with the earlier upload's id. One row for each entry, then
-- one with o_ord 0 that holds where the journal stands now.
CREATE FUNCTION announce_files(
    p_namespace bigint, p_account bigint, p_root bigint, p_user bigint, p_device bigint, p_streamed boolean,
    p_metadata text, p_expires_after interval, p_folder_keys text[], p_folder integer[], p_names text[], p_keys text[], p_key text[],
    p_digest bytea[], p_size bigint[], p_content bytea[], p_base integer[], p_client_modified timestamptz[],
    p_executable boolean[], p_upload text[])
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
        FROM unnest(p_folder, p_names, p_keys, p_key, p_digest, p_size, p_content, p_base, p_client_modified, p_executable, p_upload)
            WITH ORDINALITY AS e(folder, names, keys, key, digest, size, content, base, client_modified, executable, upload,
                                 ord)
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
        IF v_folder[r.folder] = -1 THEN
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

-- Record durable parts of a streamed upload; see uploads.append. o_error: 'not_found', 'upload_gone', 'superseded',
-- 'offset_mismatch' (o_fact: the offset), 'size_mismatch' (o_fact: the announced size), 'quota_exceeded'.
CREATE FUNCTION append_parts(p_upload text, p_epoch bigint, p_offset bigint, p_start bigint[], p_length integer[],
                             p_block bytea[],
                             OUT o_error text, OUT o_fact bigint, OUT o_fact2 bigint, OUT o_offset bigint,
                             OUT o_superseded boolean, OUT o_expires timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
    u record;
    v_quota bigint; v_used bigint; v_pending bigint; v_reserve bigint;
    v_first bigint := p_start[1];
    v_end bigint := p_start[cardinality(p_start)] + p_length[cardinality(p_length)];
    v_replaced bytea[];
BEGIN
    SELECT * INTO u FROM upload q WHERE q.id = p_upload AND q.streamed;
    IF NOT FOUND THEN
        o_error := 'not_found'; RETURN;
    END IF;
    IF u.size_bytes IS NULL THEN
        SELECT a.quota_bytes, a.used_bytes, a.pending_bytes INTO STRICT v_quota, v_used, v_pending
        FROM user_account a WHERE a.id = u.account_id FOR NO KEY UPDATE;
    END IF;
    SELECT * INTO u FROM upload q WHERE q.id = p_upload FOR UPDATE;
    IF u.state <> 'pending' THEN
        o_error := 'upload_gone'; RETURN;
    ELSIF u.active_epoch IS DISTINCT FROM p_epoch THEN
        o_error := 'superseded'; RETURN;
    ELSIF u.offset_bytes <> p_offset OR v_first > p_offset THEN
        o_error := 'offset_mismatch'; o_fact := u.offset_bytes; RETURN;
    ELSIF v_end > u.size_bytes THEN
        o_error := 'size_mismatch'; o_fact := u.size_bytes; o_fact2 := v_end; RETURN;
    END IF;
    IF v_end < p_offset OR NOT (SELECT bool_and(coalesce(b.plain_size = a.length AND b.account_id = u.account_id, false))
                                FROM unnest(p_length, p_block) AS a(length, block) LEFT JOIN block b ON b.id = a.block) THEN
        RAISE EXCEPTION 'parts do not fit their blocks or the offset' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF u.size_bytes IS NULL THEN
        v_reserve := greatest(0, v_end - u.replaced_bytes);
        IF v_reserve > u.reserved_bytes THEN
            IF v_used + v_pending - u.reserved_bytes + v_reserve > v_quota THEN
                o_error := 'quota_exceeded'; o_fact := v_used + v_pending; o_fact2 := v_quota; RETURN;
            END IF;
            UPDATE user_account a SET pending_bytes = v_pending - u.reserved_bytes + v_reserve WHERE a.id = u.account_id;
            u.reserved_bytes := v_reserve;
        END IF;
    END IF;
    IF v_first < p_offset THEN
        WITH gone AS (
            DELETE FROM upload_block p WHERE p.upload_id = p_upload AND p.start_offset >= v_first
            RETURNING p.block_id, p.start_offset
        )
        SELECT array_agg(g.block_id) INTO v_replaced FROM gone g HAVING min(g.start_offset) = v_first;
        IF v_replaced IS NULL THEN
            RAISE EXCEPTION 'no stored part begins at %', v_first USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    INSERT INTO upload_block (upload_id, start_offset, length, block_id)
    SELECT p_upload, a.start, a.length, a.block FROM unnest(p_start, p_length, p_block) AS a(start, length, block);
    IF v_replaced IS NOT NULL THEN
        DELETE FROM staged_block s WHERE s.block_id = ANY (v_replaced) AND s.user_id = u.user_id
           AND s.namespace_id = u.namespace_id AND s.upload_id = p_upload
           AND NOT EXISTS (SELECT 1 FROM upload_block p WHERE p.block_id = s.block_id AND p.upload_id = p_upload);
    END IF;
    o_offset := v_end; o_superseded := u.claim_epoch > p_epoch; o_expires := clock_timestamp() + u.expires_after;
    UPDATE upload q SET offset_bytes = v_end, reserved_bytes = u.reserved_bytes, expires_at = o_expires
    WHERE q.id = p_upload;
END $$;

-- End a pending upload as 'cancelled' or (only when its time is over) 'expired': its space is free, its parts lose
-- their references, watchers are told. No row when it was over already.
CREATE FUNCTION end_upload(p_upload text, p_state text, p_device bigint)
RETURNS TABLE (o_namespace bigint, o_epoch integer, o_seq bigint)
LANGUAGE plpgsql AS $$
DECLARE
    u record;
BEGIN
    SELECT * INTO u FROM upload q WHERE q.id = p_upload AND q.state = 'pending';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT n.id, n.epoch, n.journal_seq + 1 INTO o_namespace, o_epoch, o_seq FROM namespace n
    WHERE n.id = u.namespace_id FOR NO KEY UPDATE;
    PERFORM 1 FROM user_account a WHERE a.id = u.account_id FOR NO KEY UPDATE;
    SELECT * INTO u FROM upload q WHERE q.id = p_upload AND q.state = 'pending'
       AND (p_state <> 'expired' OR q.expires_at <= clock_timestamp()) FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE upload q SET state = p_state, ended_at = clock_timestamp(), active_epoch = NULL, reserved_bytes = 0
    WHERE q.id = p_upload;
    UPDATE user_account a SET pending_bytes = a.pending_bytes - u.reserved_bytes WHERE a.id = u.account_id;
    DELETE FROM upload_block p WHERE p.upload_id = p_upload;
    DELETE FROM staged_block s WHERE s.upload_id = p_upload;
    INSERT INTO journal (namespace_id, seq, op, file_id, parent_id, name, path, is_folder, version, size_bytes,
                         content_hash, executable, modified_at, client_modified_at, modified_by, device_id, upload_id)
    VALUES (o_namespace, o_seq, 'withdrawn', 0, NULL, u.names[cardinality(u.names)],
            '/' || array_to_string(u.names, '/'), false, u.base_version, coalesce(u.size_bytes, 0), u.content_hash,
            u.executable, clock_timestamp(), u.client_modified_at, u.user_id, p_device, p_upload);
    UPDATE namespace n SET journal_seq = o_seq WHERE n.id = o_namespace;
    RETURN NEXT;
END $$;
