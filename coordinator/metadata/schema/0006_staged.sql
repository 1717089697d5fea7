-- How much somebody sent by hash and has not committed is counted, so that it can be bounded.
CREATE INDEX staged_block_sender ON staged_block (user_id) WHERE upload_id = '';
