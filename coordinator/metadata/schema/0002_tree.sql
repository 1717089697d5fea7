-- Everything below a folder, depth first in name-key order, parents before children: p_limit entries after the one
-- whose keys from the folder down are p_after ('{}': from the start). o_path is relative to the folder.
CREATE FUNCTION list_below(p_namespace bigint, p_folder bigint, p_after text[], p_limit integer)
RETURNS TABLE (o_id bigint, o_parent bigint, o_path text, o_keys text[])
LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- one element for each level that is open: the folder, the key to continue after, its path and keys
    v_folder bigint[] := ARRAY[p_folder]; v_after text[] := ARRAY['']; v_path text[] := ARRAY[''];
    v_keys text[] := '{}'; v_level integer := 1; v_found record; v_left integer := p_limit;
BEGIN
    FOR i IN 1 .. cardinality(p_after) LOOP
        v_after[v_level] := p_after[i];
        SELECT f.id, f.is_folder, f.name INTO v_found FROM file f
        WHERE f.namespace_id = p_namespace AND f.parent_id = v_folder[v_level]
          AND f.name_key = p_after[i] COLLATE "C" AND f.deleted_at IS NULL;
        EXIT WHEN NOT FOUND OR NOT v_found.is_folder;
        v_keys[v_level] := p_after[i];
        v_folder[v_level + 1] := v_found.id; v_after[v_level + 1] := '';
        v_path[v_level + 1] := v_path[v_level] || '/' || v_found.name;
        v_level := v_level + 1;
    END LOOP;
    WHILE v_level > 0 AND v_left > 0 LOOP
        SELECT f.id, f.is_folder, f.name, f.name_key INTO v_found FROM file f
        WHERE f.namespace_id = p_namespace AND f.parent_id = v_folder[v_level]
          AND f.name_key > v_after[v_level] COLLATE "C" AND f.deleted_at IS NULL
        ORDER BY f.name_key LIMIT 1;
        IF NOT FOUND THEN
            v_level := v_level - 1;
            CONTINUE;
        END IF;
        v_after[v_level] := v_found.name_key; v_keys[v_level] := v_found.name_key;
        o_id := v_found.id; o_parent := v_folder[v_level]; o_path := v_path[v_level] || '/' || v_found.name;
        o_keys := v_keys[1:v_level];
        v_left := v_left - 1;
        RETURN NEXT;
        IF v_found.is_folder THEN
            v_folder[v_level + 1] := v_found.id; v_after[v_level + 1] := ''; v_path[v_level + 1] := o_path;
            v_level := v_level + 1;
        END IF;
    END LOOP;
END $$;

-- Copy a live subtree under p_parent (a folder outside of it) as p_name, by reference: new ids, version 1, the same
-- blocks, journal entries from p_seq + 1 on. The caller holds namespace and account and has checked names and quota.
CREATE FUNCTION copy_below(p_namespace bigint, p_source bigint, p_parent bigint, p_parent_path text, p_name text,
                           p_key text, p_user bigint, p_device bigint, OUT o_id bigint, INOUT p_seq bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_old bigint[]; v_new bigint[]; v_to bigint[]; v_name text[]; v_key text[];
BEGIN
    WITH RECURSIVE below AS (
        SELECT f.id, f.parent_id, f.is_folder, f.name, f.name_key, 0 AS depth FROM file f
        WHERE f.namespace_id = p_namespace AND f.id = p_source
        UNION ALL
        SELECT f.id, f.parent_id, f.is_folder, f.name, f.name_key, b.depth + 1 FROM below b CROSS JOIN LATERAL (
            SELECT * FROM file c WHERE c.namespace_id = p_namespace AND c.parent_id = b.id AND c.deleted_at IS NULL
            OFFSET 0) f
        WHERE b.is_folder
    ), numbered AS MATERIALIZED (
        -- Ids rise with depth, so that parents come before their children wherever ids give the order.
        SELECT b.*, nextval('file_id_seq') AS new_id FROM (SELECT * FROM below ORDER BY depth, id) b
    )
    SELECT array_agg(c.id ORDER BY c.new_id), array_agg(c.new_id ORDER BY c.new_id),
           array_agg(coalesce(p.new_id, p_parent) ORDER BY c.new_id),
           array_agg(CASE WHEN c.id = p_source THEN p_name ELSE c.name END ORDER BY c.new_id),
           array_agg(CASE WHEN c.id = p_source THEN p_key ELSE c.name_key END ORDER BY c.new_id)
    INTO v_old, v_new, v_to, v_name, v_key
    FROM numbered c LEFT JOIN numbered p ON p.id = c.parent_id AND c.id <> p_source;
    o_id := v_new[1];

    INSERT INTO file (namespace_id, id, parent_id, name, name_key, is_folder, version, size_bytes, content_hash,
                      executable, modified_at, client_modified_at, modified_by)
    SELECT p_namespace, a.new, a.parent, a.name, a.key, f.is_folder, CASE WHEN f.is_folder THEN 0 ELSE 1 END,
           f.size_bytes, f.content_hash, f.executable, v_now, f.client_modified_at, p_user
    FROM unnest(v_old, v_new, v_to, v_name, v_key) AS a(old, new, parent, name, key)
    CROSS JOIN LATERAL (SELECT * FROM file f WHERE f.namespace_id = p_namespace AND f.id = a.old LIMIT 1) f;

    INSERT INTO file_version (namespace_id, file_id, version, size_bytes, content_hash, executable, modified_at,
                              client_modified_at, modified_by, device_id)
    SELECT p_namespace, f.id, 1, f.size_bytes, f.content_hash, f.executable, v_now, f.client_modified_at, p_user, p_device
    FROM unnest(v_new) AS a(new)
    CROSS JOIN LATERAL (SELECT * FROM file f WHERE f.namespace_id = p_namespace AND f.id = a.new LIMIT 1) f
    WHERE NOT f.is_folder;

    INSERT INTO version_block (namespace_id, file_id, version, block_index, block_id)
    SELECT p_namespace, a.new, 1, v.block_index, v.block_id
    FROM unnest(v_old, v_new) AS a(old, new)
    CROSS JOIN LATERAL (SELECT f.version FROM file f WHERE f.namespace_id = p_namespace AND f.id = a.old LIMIT 1) f
    CROSS JOIN LATERAL (
        SELECT * FROM version_block v WHERE v.namespace_id = p_namespace AND v.file_id = a.old AND v.version = f.version
        OFFSET 0) v;

    p_seq := journal_subtree(p_namespace, o_id, p_parent_path || '/' || p_name, p_seq, p_device);
END $$;
