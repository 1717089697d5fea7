-- Commits that also check ids, and name the announcement whose content they are. What 0002 made goes on to work, for
-- workers of the version before this one, as a call of the newer function.

-- Where a file or folder stands or stood, from its namespace's root ('' for the root itself).
CREATE FUNCTION path_of(p_namespace bigint, p_id bigint) RETURNS text LANGUAGE sql STABLE AS $$
    WITH RECURSIVE up AS (
        SELECT f.parent_id, CASE WHEN f.parent_id IS NULL THEN '' ELSE '/' || f.name END AS path FROM file f
        WHERE f.namespace_id = p_namespace AND f.id = p_id
        UNION ALL
        SELECT f.parent_id, CASE WHEN f.parent_id IS NULL THEN u.path ELSE '/' || f.name || u.path END
        FROM up u CROSS JOIN LATERAL (
            SELECT * FROM file f WHERE f.namespace_id = p_namespace AND f.id = u.parent_id LIMIT 1) f
    )
    SELECT u.path FROM up u WHERE u.parent_id IS NULL
$$;

-- As in 0002, and for each entry (NULL or absent where nothing is asked): p_id, the live file that must stand there;
-- p_parent, the folder that it must be in; p_announced, the caller's upload whose content this is, wherever that was
-- announced. An id that does not hold is a 'version_conflict' with o_fact2 1 (file) or 2 (folder).
CREATE FUNCTION commit_files(
    p_namespace bigint, p_account bigint, p_root bigint, p_user bigint, p_device bigint, p_readable bigint[],
    p_request_key text, p_upload text, p_folder_names text[], p_folder_keys text[], p_folder integer[], p_name text[],
    p_key text[], p_digest bytea[], p_size bigint[], p_hashes bytea[], p_content bytea[], p_base integer[],
    p_client_modified timestamptz[], p_executable boolean[], p_id bigint[], p_parent bigint[], p_announced text[])
RETURNS TABLE (o_ord integer, o_error text, o_fact bigint, o_fact2 bigint, o_missing bytea, o_file bigint,
               o_parent bigint, o_path text, o_name text, o_version integer, o_modified_at timestamptz,
               o_client_modified timestamptz, o_modified_by bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_epoch integer; v_seq bigint; v_seq_before bigint;
    v_quota bigint; v_used bigint; v_pending bigint; v_used_before bigint; v_pending_before bigint;
    v_ids bytea[]; v_missing bytea[]; v_total bigint[]; v_full boolean[]; v_condemned boolean;
    v_folder bigint[]; v_folder_path text[]; v_walk record; v_made record;
    r record; v_earlier integer; v_place bigint; v_delta bigint;
    -- what has been accepted, one element for each version to write
    a_id bigint[] := '{}'; a_parent bigint[] := '{}'; a_name text[] := '{}'; a_key text[] := '{}';
    a_path text[] := '{}'; a_version integer[] := '{}'; a_size bigint[] := '{}'; a_content bytea[] := '{}';
    a_executable boolean[] := '{}'; a_client timestamptz[] := '{}'; a_blocks bytea[] := '{}';
    a_upload text[] := '{}'; a_new boolean[] := '{}'; v_any_new boolean := false; v_any_old boolean := false;
    v_written bytea[];
BEGIN
    SELECT n.epoch, n.journal_seq INTO STRICT v_epoch, v_seq FROM namespace n WHERE n.id = p_namespace
    FOR NO KEY UPDATE;
    v_seq_before := v_seq;
    SELECT a.quota_bytes, a.used_bytes, a.pending_bytes INTO STRICT v_quota, v_used, v_pending
    FROM user_account a WHERE a.id = p_account FOR NO KEY UPDATE;
    v_used_before := v_used; v_pending_before := v_pending;

    -- Each entry's blocks: there for this caller, or missing. The share lock makes a collector's delete wait, or shows
    -- the block as gone when the collector was first. LATERAL ... LIMIT keeps every probe a single index look-up.
    WITH wanted AS MATERIALIZED (
        SELECT e.ord, i.i, substr(e.hashes, i.i * 32 + 1, 32) AS hash,
               i.i = octet_length(e.hashes) / 32 - 1 AS is_last
        FROM unnest(p_hashes) WITH ORDINALITY AS e(hashes, ord)
        CROSS JOIN LATERAL generate_series(0, octet_length(e.hashes) / 32 - 1) AS i(i)
    ), held AS MATERIALIZED (
        SELECT b.* FROM (SELECT DISTINCT w.hash FROM wanted w) d CROSS JOIN LATERAL (
            SELECT b.id, b.hash, b.plain_size, b.condemned_at FROM block b
            WHERE b.account_id = p_account AND b.hash = d.hash FOR KEY SHARE) b
    ), usable AS MATERIALIZED (
        SELECT h.* FROM held h
        WHERE (SELECT 1 FROM staged_block s WHERE s.block_id = h.id AND s.user_id = p_user
                  AND s.namespace_id = p_namespace LIMIT 1) IS NOT NULL
           OR (SELECT 1 FROM version_block v WHERE v.block_id = h.id AND v.namespace_id = ANY (p_readable)
               LIMIT 1) IS NOT NULL
    ), checked AS (
        SELECT w.ord, string_agg(u.id, ''::bytea ORDER BY w.i) AS ids,
               string_agg(w.hash, ''::bytea ORDER BY w.i) FILTER (WHERE u.id IS NULL) AS missing,
               sum(u.plain_size) AS total,
               bool_and(u.plain_size = 4194304) FILTER (WHERE NOT w.is_last) AS full_but_last,
               bool_or(u.condemned_at IS NOT NULL) AS condemned
        FROM wanted w LEFT JOIN usable u ON u.hash = w.hash GROUP BY w.ord
    )
    SELECT array_agg(coalesce(c.ids, '') ORDER BY e.ord), array_agg(c.missing ORDER BY e.ord),
           array_agg(coalesce(c.total, 0) ORDER BY e.ord), array_agg(coalesce(c.full_but_last, true) ORDER BY e.ord),
           coalesce(bool_or(c.condemned), false)
    INTO v_ids, v_missing, v_total, v_full, v_condemned
    FROM unnest(p_hashes) WITH ORDINALITY AS e(hashes, ord) LEFT JOIN checked c ON c.ord = e.ord;

    -- Each distinct parent folder: its id, 0 where it is to be made, -1 where a file stands in the way.
    FOR i IN 1 .. cardinality(p_folder_keys) LOOP
        SELECT * INTO v_walk FROM walk(p_namespace, p_root, string_to_array(p_folder_keys[i], '/'), false);
        v_folder[i] := CASE WHEN NOT v_walk.is_folder THEN -1
                            WHEN v_walk.depth < cardinality(string_to_array(p_folder_keys[i], '/')) THEN 0
                            ELSE v_walk.id END;
        v_folder_path[i] := v_walk.path;
    END LOOP;

    FOR r IN
        SELECT e.*, c.id AS live_id, c.is_folder, c.name AS live_name, c.version, c.size_bytes, c.content_hash,
               c.executable AS live_executable, c.modified_at, c.client_modified_at, c.modified_by,
               t.id AS trash_id, t.version AS trash_version, u.id AS upload_id, coalesce(u.reserved_bytes, 0) AS reserved
        FROM unnest(p_folder, p_name, p_key, p_digest, p_size, p_content, p_base, p_client_modified, p_executable, p_id,
                    p_parent, p_announced)
            WITH ORDINALITY AS e(folder, name, key, digest, size, content, base, client_modified, executable, id, parent,
                                 announced, ord)
        LEFT JOIN LATERAL (
            SELECT * FROM file f WHERE f.namespace_id = p_namespace AND f.parent_id = v_folder[e.folder]
               AND f.name_key = e.key COLLATE "C" AND f.deleted_at IS NULL LIMIT 1) c ON true
        LEFT JOIN LATERAL (
            SELECT f.id, f.version FROM file f WHERE c.id IS NULL AND f.namespace_id = p_namespace
               AND f.parent_id = v_folder[e.folder] AND f.name_key = e.key COLLATE "C" AND f.deleted_at IS NOT NULL
               AND NOT f.is_folder
            ORDER BY f.deleted_at DESC LIMIT 1) t ON true
        LEFT JOIN LATERAL (
            SELECT q.id, q.reserved_bytes FROM upload q WHERE q.id = coalesce(p_upload, e.announced)
               AND q.namespace_id = p_namespace AND q.state = 'pending' AND q.user_id = p_user
            UNION ALL
            SELECT q.id, q.reserved_bytes FROM upload q WHERE coalesce(p_upload, e.announced) IS NULL
               AND q.namespace_id = p_namespace AND q.path_digest = e.digest AND q.state = 'pending'
               AND q.user_id = p_user AND NOT q.streamed AND q.content_hash = e.content
            LIMIT 1) u ON true
        ORDER BY e.ord
    LOOP
        o_ord := r.ord; o_error := NULL; o_fact := NULL; o_fact2 := NULL; o_missing := NULL; o_file := NULL;
        o_parent := v_folder[r.folder]; o_path := NULL; o_name := NULL; o_version := NULL; o_modified_at := NULL;
        o_client_modified := NULL; o_modified_by := NULL;
        IF r.id <> coalesce(r.live_id, 0) OR r.parent <> o_parent THEN
            IF p_request_key IS NOT NULL AND r.id IS NOT NULL THEN
                -- A repeat whose file somebody has moved or deleted since: told where it is now.
                SELECT v.version, v.modified_at, f.parent_id, f.name INTO v_earlier, o_modified_at, v_place, o_name
                FROM file_version v JOIN file f ON f.namespace_id = v.namespace_id AND f.id = v.file_id
                WHERE v.namespace_id = p_namespace AND v.file_id = r.id AND v.version > coalesce(r.base, 0)
                  AND v.request_key = p_request_key AND v.content_hash = r.content
                ORDER BY v.version DESC LIMIT 1;
                IF FOUND THEN
                    o_file := r.id; o_parent := v_place; o_path := path_of(p_namespace, r.id); o_version := v_earlier;
                    o_client_modified := r.client_modified; o_modified_by := p_user;
                    RETURN NEXT; CONTINUE;
                END IF;
            END IF;
            o_error := 'version_conflict'; o_fact := nullif(r.version, 0);
            o_fact2 := CASE WHEN r.parent <> o_parent THEN 2 ELSE 1 END;
            RETURN NEXT; CONTINUE;
        ELSIF o_parent = -1 THEN
            o_error := 'not_a_folder'; RETURN NEXT; CONTINUE;
        ELSIF r.is_folder THEN
            o_error := 'is_a_folder'; RETURN NEXT; CONTINUE;
        END IF;

        IF r.live_id IS NOT NULL AND r.content_hash = r.content AND r.size_bytes = r.size
           AND r.live_executable = r.executable THEN
            -- It is so already. What was announced for it ends without a version.
            IF r.upload_id IS NOT NULL THEN
                UPDATE upload q SET state = 'complete', ended_at = v_now, active_epoch = NULL, reserved_bytes = 0,
                       file_id = r.live_id, version = r.version WHERE q.id = r.upload_id;
                v_pending := v_pending - r.reserved;
                v_seq := v_seq + 1;
                INSERT INTO journal VALUES (p_namespace, v_seq, 'withdrawn', r.live_id, o_parent, r.live_name,
                    v_folder_path[r.folder] || '/' || r.live_name, false, r.version, r.size_bytes, r.content_hash,
                    r.live_executable, v_now, r.client_modified_at, p_user, p_device, r.upload_id);
            END IF;
            o_file := r.live_id; o_path := v_folder_path[r.folder] || '/' || r.live_name; o_name := r.live_name;
            o_version := r.version; o_modified_at := r.modified_at; o_client_modified := r.client_modified_at;
            o_modified_by := r.modified_by;
            RETURN NEXT; CONTINUE;
        END IF;

        IF p_request_key IS NOT NULL AND coalesce(r.live_id, r.trash_id) IS NOT NULL THEN
            -- A repeat whose own version somebody has replaced or deleted since was still done the first time.
            SELECT v.version, v.modified_at INTO v_earlier, o_modified_at FROM file_version v
            WHERE v.namespace_id = p_namespace AND v.file_id = coalesce(r.live_id, r.trash_id)
              AND v.version > coalesce(r.base, 0) AND v.request_key = p_request_key AND v.content_hash = r.content
            ORDER BY v.version DESC LIMIT 1;
            IF FOUND THEN
                o_file := coalesce(r.live_id, r.trash_id); o_name := coalesce(r.live_name, r.name);
                o_path := v_folder_path[r.folder] || '/' || o_name; o_version := v_earlier;
                o_client_modified := r.client_modified; o_modified_by := p_user;
                RETURN NEXT; CONTINUE;
            END IF;
        END IF;

        v_delta := r.size - coalesce(r.size_bytes, 0);
        IF coalesce(r.base, 0) <> coalesce(r.version, 0) THEN
            o_error := 'version_conflict'; o_fact := r.version;
        ELSIF v_missing[r.ord] IS NOT NULL THEN
            o_error := 'blocks_missing'; o_missing := v_missing[r.ord];
        ELSIF v_total[r.ord] <> r.size OR NOT v_full[r.ord] THEN
            o_error := 'size_mismatch'; o_fact := v_total[r.ord];
        ELSIF v_delta > 0 AND v_used + v_pending - r.reserved + v_delta > v_quota THEN
            o_error := 'quota_exceeded'; o_fact := v_used + v_pending - r.reserved; o_fact2 := v_quota;
        END IF;
        IF o_error IS NOT NULL THEN
            RETURN NEXT; CONTINUE;
        END IF;

        IF o_parent = 0 THEN
            SELECT * INTO v_made FROM make_folders(p_namespace, p_root, string_to_array(p_folder_names[r.folder], '/'),
                string_to_array(p_folder_keys[r.folder], '/'), p_user, p_device, v_now, v_seq);
            v_seq := v_made.p_seq; o_parent := v_made.o_id;
            v_folder[r.folder] := v_made.o_id; v_folder_path[r.folder] := v_made.o_path;
        END IF;
        v_used := v_used + v_delta; v_pending := v_pending - r.reserved;
        o_file := coalesce(r.live_id, r.trash_id);
        o_version := coalesce(r.version, r.trash_version, 0) + 1;
        o_name := coalesce(r.live_name, r.name);
        o_path := v_folder_path[r.folder] || '/' || o_name;
        o_modified_at := v_now; o_client_modified := r.client_modified; o_modified_by := p_user;
        IF o_file IS NULL THEN
            o_file := nextval('file_id_seq'); a_new := a_new || true; v_any_new := true;
        ELSE
            a_new := a_new || false; v_any_old := true;
        END IF;
        a_id := a_id || o_file; a_parent := a_parent || o_parent; a_name := a_name || o_name; a_key := a_key || r.key;
        a_path := a_path || o_path; a_version := a_version || o_version; a_size := a_size || r.size;
        a_content := a_content || r.content; a_executable := a_executable || r.executable;
        a_client := a_client || r.client_modified; a_blocks := a_blocks || v_ids[r.ord];
        a_upload := a_upload || r.upload_id;
        RETURN NEXT;
    END LOOP;

    IF v_any_new THEN
        INSERT INTO file (namespace_id, id, parent_id, name, name_key, is_folder, version, size_bytes, content_hash,
                          executable, modified_at, client_modified_at, modified_by)
        SELECT p_namespace, a.id, a.parent, a.name, a.key, false, a.version, a.size, a.content, a.executable, v_now,
               a.client, p_user
        FROM unnest(a_id, a_parent, a_name, a_key, a_version, a_size, a_content, a_executable, a_client, a_new)
            AS a(id, parent, name, key, version, size, content, executable, client, is_new) WHERE a.is_new;
    END IF;
    IF v_any_old THEN
        -- One by one: a join with the arrays could be planned as a walk through the whole namespace.
        FOR i IN 1 .. cardinality(a_id) LOOP
            CONTINUE WHEN a_new[i];
            UPDATE file f SET name = a_name[i], version = a_version[i], size_bytes = a_size[i],
                   content_hash = a_content[i], executable = a_executable[i], modified_at = v_now,
                   client_modified_at = a_client[i], modified_by = p_user, deleted_at = NULL, deleted_by = NULL
            WHERE f.namespace_id = p_namespace AND f.id = a_id[i];
        END LOOP;
    END IF;
    IF cardinality(a_id) > 0 THEN
        INSERT INTO file_version (namespace_id, file_id, version, size_bytes, content_hash, executable, modified_at,
                                  client_modified_at, modified_by, device_id, request_key)
        SELECT p_namespace, a.id, a.version, a.size, a.content, a.executable, v_now, a.client, p_user, p_device,
               p_request_key
        FROM unnest(a_id, a_version, a_size, a_content, a_executable, a_client)
            AS a(id, version, size, content, executable, client);

        WITH put AS (
            INSERT INTO version_block (namespace_id, file_id, version, block_index, block_id)
            SELECT p_namespace, a.id, a.version, i.i, substr(a.blocks, i.i * 16 + 1, 16)
            FROM unnest(a_id, a_version, a_blocks) AS a(id, version, blocks)
            CROSS JOIN LATERAL generate_series(0, octet_length(a.blocks) / 16 - 1) AS i(i)
            RETURNING block_id
        )
        SELECT array_agg(DISTINCT block_id) INTO v_written FROM put;
        -- The version keeps these blocks from now on.
        DELETE FROM staged_block s WHERE s.block_id = ANY (v_written) AND s.user_id = p_user
           AND s.namespace_id = p_namespace AND s.upload_id IN ('', coalesce(p_upload, ''));
        IF v_condemned THEN
            UPDATE block b SET condemned_at = NULL WHERE b.id = ANY (v_written) AND b.condemned_at IS NOT NULL;
        END IF;

        INSERT INTO journal (namespace_id, seq, op, file_id, parent_id, name, path, is_folder, version, size_bytes,
                             content_hash, executable, modified_at, client_modified_at, modified_by, device_id, upload_id)
        SELECT p_namespace, v_seq + a.n, 'put', a.id, a.parent, a.name, a.path, false, a.version, a.size, a.content,
               a.executable, v_now, a.client, p_user, p_device, a.upload
        FROM unnest(a_id, a_parent, a_name, a_path, a_version, a_size, a_content, a_executable, a_client, a_upload)
            WITH ORDINALITY AS a(id, parent, name, path, version, size, content, executable, client, upload, n);
        v_seq := v_seq + cardinality(a_id);

        IF array_remove(a_upload, NULL) <> '{}' THEN
            FOR i IN 1 .. cardinality(a_id) LOOP
                CONTINUE WHEN a_upload[i] IS NULL;
                UPDATE upload q SET state = 'complete', ended_at = v_now, active_epoch = NULL, reserved_bytes = 0,
                       file_id = a_id[i], version = a_version[i] WHERE q.id = a_upload[i];
            END LOOP;
        END IF;
    END IF;

    IF v_used <> v_used_before OR v_pending <> v_pending_before THEN
        UPDATE user_account a SET used_bytes = v_used, pending_bytes = v_pending WHERE a.id = p_account;
    END IF;
    IF v_seq <> v_seq_before THEN
        UPDATE namespace n SET journal_seq = v_seq WHERE n.id = p_namespace;
    END IF;
    o_ord := 0; o_error := NULL; o_fact := v_epoch; o_fact2 := v_seq; o_missing := NULL; o_file := NULL;
    RETURN NEXT;
END $$;

CREATE OR REPLACE FUNCTION commit_files(
    p_namespace bigint, p_account bigint, p_root bigint, p_user bigint, p_device bigint, p_readable bigint[],
    p_request_key text, p_upload text, p_folder_names text[], p_folder_keys text[], p_folder integer[], p_name text[],
    p_key text[], p_digest bytea[], p_size bigint[], p_hashes bytea[], p_content bytea[], p_base integer[],
    p_client_modified timestamptz[], p_executable boolean[])
RETURNS TABLE (o_ord integer, o_error text, o_fact bigint, o_fact2 bigint, o_missing bytea, o_file bigint,
               o_parent bigint, o_path text, o_name text, o_version integer, o_modified_at timestamptz,
               o_client_modified timestamptz, o_modified_by bigint)
LANGUAGE sql AS $$
    SELECT * FROM commit_files(
        p_namespace, p_account, p_root, p_user, p_device, p_readable, p_request_key, p_upload, p_folder_names,
        p_folder_keys, p_folder, p_name, p_key, p_digest, p_size, p_hashes, p_content, p_base, p_client_modified,
        p_executable, '{}'::bigint[], '{}'::bigint[], '{}'::text[])
$$;
