-- Paths are decided here: names lead from a namespace's root, one index look-up for each.

-- Follow p_keys as far as they lead. depth = how many were found; the other values are of the last one found. With
-- p_trash what is not there is looked for among the deleted, newest first; live tells whether all of it is there now.
CREATE FUNCTION walk(p_namespace bigint, p_root bigint, p_keys text[], p_trash boolean,
                     OUT depth integer, OUT id bigint, OUT is_folder boolean, OUT path text, OUT live boolean)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_next record;
    v_wanted integer := cardinality(p_keys);
BEGIN
    depth := 0; id := p_root; is_folder := true; path := ''; live := true;
    WHILE depth < v_wanted AND is_folder LOOP
        SELECT f.id, f.is_folder, f.name INTO v_next FROM file f
        WHERE f.namespace_id = p_namespace AND f.parent_id = walk.id
          AND f.name_key = p_keys[depth + 1] COLLATE "C" AND f.deleted_at IS NULL;
        IF NOT FOUND THEN
            EXIT WHEN NOT p_trash;
            SELECT f.id, f.is_folder, f.name INTO v_next FROM file f
            WHERE f.namespace_id = p_namespace AND f.parent_id = walk.id
              AND f.name_key = p_keys[depth + 1] COLLATE "C" AND f.deleted_at IS NOT NULL
            ORDER BY f.deleted_at DESC LIMIT 1;
            EXIT WHEN NOT FOUND;
            live := false;
        END IF;
        depth := depth + 1; id := v_next.id; is_folder := v_next.is_folder; path := path || '/' || v_next.name;
    END LOOP;
END $$;

-- The folder that the names lead to, made where it is missing; a journal entry for each that is made, p_seq counts on.
-- o_id is NULL when a file stands in the way. The caller holds the namespace row.
CREATE FUNCTION make_folders(p_namespace bigint, p_root bigint, p_names text[], p_keys text[], p_user bigint,
                             p_device bigint, p_now timestamptz, INOUT p_seq bigint, OUT o_id bigint, OUT o_path text)
LANGUAGE plpgsql AS $$
DECLARE
    v_walk record;
    v_parent bigint;
BEGIN
    SELECT * INTO v_walk FROM walk(p_namespace, p_root, p_keys, false);
    IF NOT v_walk.is_folder THEN
        RETURN;
    END IF;
    o_id := v_walk.id; o_path := v_walk.path;
    FOR i IN v_walk.depth + 1 .. cardinality(p_keys) LOOP
        v_parent := o_id;
        INSERT INTO file (namespace_id, parent_id, name, name_key, is_folder, modified_at, modified_by)
        VALUES (p_namespace, v_parent, p_names[i], p_keys[i], true, p_now, p_user) RETURNING file.id INTO o_id;
        o_path := o_path || '/' || p_names[i];
        p_seq := p_seq + 1;
        INSERT INTO journal (namespace_id, seq, op, file_id, parent_id, name, path, is_folder, version, size_bytes,
                             executable, modified_at, modified_by, device_id)
        VALUES (p_namespace, p_seq, 'folder', o_id, v_parent, p_names[i], o_path, true, 0, 0, false, p_now, p_user,
                p_device);
    END LOOP;
END $$;

-- Journal entries for a live subtree, its root first and parents before children; the new journal_seq.
CREATE FUNCTION journal_subtree(p_namespace bigint, p_id bigint, p_path text, p_seq bigint, p_device bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_rows bigint;
BEGIN
    WITH RECURSIVE below AS (
        SELECT f.*, 0 AS depth, p_path AS path FROM file f WHERE f.namespace_id = p_namespace AND f.id = p_id
        UNION ALL
        SELECT f.*, b.depth + 1, b.path || '/' || f.name FROM below b CROSS JOIN LATERAL (
            SELECT * FROM file c WHERE c.namespace_id = p_namespace AND c.parent_id = b.id AND c.deleted_at IS NULL
            OFFSET 0) f
        WHERE b.is_folder
    )
    INSERT INTO journal (namespace_id, seq, op, file_id, parent_id, name, path, is_folder, version, size_bytes,
                         content_hash, executable, modified_at, client_modified_at, modified_by, device_id)
    SELECT p_namespace, p_seq + row_number() OVER (ORDER BY b.depth, b.id),
           CASE WHEN b.is_folder THEN 'folder' ELSE 'put' END, b.id, b.parent_id, b.name, b.path, b.is_folder,
           b.version, b.size_bytes, b.content_hash, b.executable, b.modified_at, b.client_modified_at, b.modified_by,
           p_device
    FROM below b;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    RETURN p_seq + v_rows;
END $$;

-- How many live entries a subtree has (its root included) and how many bytes their current versions count.
CREATE FUNCTION measure_subtree(p_namespace bigint, p_id bigint, OUT o_count bigint, OUT o_files bigint,
                                OUT o_bytes bigint)
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE below AS (
        SELECT f.id, f.is_folder, f.size_bytes FROM file f WHERE f.namespace_id = p_namespace AND f.id = p_id
        UNION ALL
        SELECT f.id, f.is_folder, f.size_bytes FROM below b CROSS JOIN LATERAL (
            SELECT * FROM file c WHERE c.namespace_id = p_namespace AND c.parent_id = b.id AND c.deleted_at IS NULL
            OFFSET 0) f
        WHERE b.is_folder
    )
    SELECT count(*), count(*) FILTER (WHERE NOT is_folder), coalesce(sum(size_bytes), 0)::bigint FROM below
$$;
