-- Record blocks that are durable on the nodes, what misses of them, and the references that keep them until a version
-- does. Returns a row (its position and the standing block's id) for each block that had to give way to another one of
-- the same account and hash; its own shards are doomed here. A repeated call finds its own rows and changes nothing.
CREATE FUNCTION record_blocks(
    p_account bigint, p_namespace bigint, p_user bigint, p_upload text, p_id bytea[], p_hash bytea[], p_group integer[],
    p_epoch integer[], p_k integer[], p_m integer[], p_codec integer[], p_plain integer[], p_sealed integer[],
    p_digest bytea[], p_key bytea[], p_missing_id bytea[], p_missing_shard integer[])
RETURNS TABLE (o_ord bigint, o_id bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_inserted integer;
    v_standing bytea[] := p_id;
BEGIN
    INSERT INTO block (id, account_id, hash, group_id, group_epoch, k, m, codec, plain_size, sealed_size, sealed_digest,
                       wrapped_key)
    SELECT e.id, p_account, e.hash, e.grp, e.epoch, e.k, e.m, e.codec, e.plain, e.sealed, e.digest, e.key
    FROM unnest(p_id, p_hash, p_group, p_epoch, p_k, p_m, p_codec, p_plain, p_sealed, p_digest, p_key)
        AS e(id, hash, grp, epoch, k, m, codec, plain, sealed, digest, key)
    ORDER BY e.hash  -- two batches of the same blocks in another order would wait for each other
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS v_inserted = ROW_COUNT;

    IF v_inserted < cardinality(p_id) THEN
        SELECT array_agg(b.id ORDER BY e.ord) INTO v_standing
        FROM unnest(p_hash) WITH ORDINALITY AS e(hash, ord) CROSS JOIN LATERAL (
            SELECT b.id FROM block b WHERE b.account_id = p_account AND b.hash = e.hash FOR KEY SHARE) b;
        IF v_standing IS NULL OR cardinality(v_standing) < cardinality(p_id) THEN
            -- The standing block was collected between the two statements: all of this again.
            RAISE EXCEPTION 'a standing block has just been collected' USING ERRCODE = 'serialization_failure';
        END IF;
        UPDATE block b SET condemned_at = NULL WHERE b.id = ANY (v_standing) AND b.condemned_at IS NOT NULL;
        INSERT INTO doomed_block (block_id, account_id, group_id, group_epoch, k, m, sealed_size)
        SELECT e.id, p_account, e.grp, e.epoch, e.k, e.m, e.sealed
        FROM unnest(p_id, v_standing, p_group, p_epoch, p_k, p_m, p_sealed)
            AS e(id, standing, grp, epoch, k, m, sealed)
        WHERE e.id <> e.standing ON CONFLICT DO NOTHING;
        RETURN QUERY SELECT e.ord, e.standing FROM unnest(p_id, v_standing) WITH ORDINALITY AS e(id, standing, ord)
            WHERE e.id <> e.standing;
    END IF;

    IF cardinality(p_missing_id) > 0 THEN
        INSERT INTO missing_shard (block_id, shard, reason)
        SELECT e.id, e.shard, 'not written' FROM unnest(p_missing_id, p_missing_shard) AS e(id, shard)
        WHERE e.id = ANY (v_standing) ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO staged_block (block_id, user_id, namespace_id, upload_id)
    SELECT DISTINCT e.id, p_user, p_namespace, coalesce(p_upload, '') FROM unnest(v_standing) AS e(id) ORDER BY 1
    ON CONFLICT ON CONSTRAINT staged_block_pkey DO UPDATE SET created_at = now();
END $$;
