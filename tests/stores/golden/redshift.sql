SET timezone = 'UTC';

SET datestyle = 'ISO, YMD';

SET extra_float_digits = 2;

SELECT 1 FROM reverse_etl.syncs WHERE 1 = 0;

SELECT 1 FROM reverse_etl.leases WHERE 1 = 0;

SELECT 1 FROM reverse_etl.plans WHERE 1 = 0;

SELECT 1 FROM reverse_etl.checkpoints WHERE 1 = 0;

SELECT 1 FROM reverse_etl.runs WHERE 1 = 0;

SELECT 1 FROM reverse_etl.change_log WHERE 1 = 0;

SELECT 1 FROM reverse_etl.syncs WHERE sync = 'Of-It.1';

CREATE TABLE IF NOT EXISTS reverse_etl.of_it_1_a5fc926e_snapshot (key_hi BIGINT, key_lo BIGINT, fingerprint BIGINT, row_key VARCHAR(MAX), identifiers VARCHAR(MAX), field_hashes VARCHAR(MAX));

CREATE TABLE IF NOT EXISTS reverse_etl.of_it_1_a5fc926e_rejections (row_key VARCHAR(MAX), key_hi BIGINT, key_lo BIGINT, fingerprint BIGINT, change VARCHAR(MAX), outcome VARCHAR(MAX), code VARCHAR(MAX), message VARCHAR(MAX), attempts BIGINT, first_seen TIMESTAMPTZ, last_seen TIMESTAMPTZ, plan_id VARCHAR(MAX));

CREATE TABLE IF NOT EXISTS reverse_etl.of_it_1_a5fc926e_state (generation VARCHAR(MAX), remembered VARCHAR(MAX));

BEGIN;

INSERT INTO reverse_etl.of_it_1_a5fc926e_state (generation) SELECT 'nothing yet' AS generation FROM (SELECT COUNT(*) AS n FROM reverse_etl.of_it_1_a5fc926e_state) AS t WHERE n = 0;

INSERT INTO reverse_etl.syncs (sync, table_prefix, created_at) SELECT 'Of-It.1', 'of_it_1_a5fc926e', CURRENT_TIMESTAMP;

COMMIT;

SELECT plan_id, stage FROM reverse_etl.plans WHERE sync = 'Of-It.1';

SELECT MAX(generation), MAX(remembered) FROM reverse_etl.of_it_1_a5fc926e_state;

SELECT 1 FROM reverse_etl.runs WHERE sync = 'Of-It.1' LIMIT 1;

SELECT COUNT(*) FROM reverse_etl.of_it_1_a5fc926e_snapshot;

INSERT INTO reverse_etl.plans (plan_id, sync, run_id, stage, content, created_at) SELECT '20260101T000000000000-<run>', 'Of-It.1', 'run1', 'begun', '', CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ);

CREATE TABLE reverse_etl.of_it_1_a5fc926e_types_<run> AS WITH extracted AS (SELECT "id" AS c0, "email" AS c1 FROM (
SELECT * FROM m
) AS model) SELECT * FROM (SELECT c0 AS k0, c1 AS f0 FROM extracted) AS mapped WHERE 1 = 0;

SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = LOWER('reverse_etl') AND c.relname = 'of_it_1_a5fc926e_types_<run>' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;

DROP TABLE reverse_etl.of_it_1_a5fc926e_types_<run>;

BEGIN;

SELECT COUNT(*) FROM (SELECT "id" AS c0, "email" AS c1 FROM (
SELECT * FROM m
) AS model) AS counted;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_candidates_<run> AS WITH extracted AS (SELECT "id" AS c0, "email" AS c1 FROM (
SELECT * FROM m
) AS model), mapped AS (SELECT c0 AS k0, c1 AS f0 FROM extracted), model AS (SELECT f0, row_key, identifiers, unnamed, STRTOL(SUBSTRING(key_digest, 1, 15), 16) AS key_hi, STRTOL(SUBSTRING(key_digest, 17, 15), 16) AS key_lo, STRTOL(SUBSTRING(row_digest, 17, 15), 16) AS fingerprint, 1 AS present FROM (SELECT f0, CAST(CAST(k0 AS VARCHAR(MAX)) AS VARCHAR(MAX)) AS row_key, CAST(JSON_SERIALIZE(OBJECT('email', f0)) AS VARCHAR(MAX)) AS identifiers, CASE WHEN COALESCE(BTRIM(CAST(f0 AS VARCHAR(MAX)), CHR(32) || CHR(9) || CHR(13) || CHR(10) || ' '), '') = '' THEN 1 ELSE 0 END AS unnamed, CASE WHEN k0 IS NULL THEN NULL ELSE MD5(COALESCE(CAST(LENGTH(CAST(k0 AS VARCHAR(MAX))) AS VARCHAR(MAX)) || ':' || CAST(k0 AS VARCHAR(MAX)), 'n')) END AS key_digest, MD5(COALESCE(CAST(LENGTH('b779ef55b45ee3d2') AS VARCHAR(MAX)) || ':' || 'b779ef55b45ee3d2', 'n') || COALESCE(CAST(LENGTH(CAST(f0 AS VARCHAR(MAX))) AS VARCHAR(MAX)) || ':' || CAST(f0 AS VARCHAR(MAX)), 'n')) AS row_digest FROM mapped) AS digests), delivered AS (SELECT key_hi, key_lo, fingerprint, row_key, identifiers FROM reverse_etl.of_it_1_a5fc926e_snapshot) SELECT m.f0, 'b779ef55' || COALESCE(SUBSTR(MD5(CAST(m.key_hi AS VARCHAR(MAX)) || ':' || CAST(m.f0 AS VARCHAR(MAX))), 1, 4), 'null') AS field_hashes, COALESCE(m.row_key, s.row_key) AS row_key, COALESCE(m.identifiers, s.identifiers) AS identifiers, COALESCE(m.unnamed, CASE WHEN (REPLACE(s.identifiers, '"email"', '') <> s.identifiers AND COALESCE(BTRIM(JSON_EXTRACT_PATH_TEXT(s.identifiers, 'email'), CHR(32) || CHR(9) || CHR(13) || CHR(10) || ' '), '') = '') THEN 1 ELSE 0 END) AS unnamed, COALESCE(m.key_hi, s.key_hi) AS key_hi, COALESCE(m.key_lo, s.key_lo) AS key_lo, COALESCE(m.fingerprint, -1) AS fingerprint, m.present, CASE WHEN m.present IS NULL THEN 'gone' WHEN m.key_hi IS NULL THEN 'null' WHEN s.key_hi IS NULL THEN 'added' ELSE 'changed' END AS found FROM model AS m FULL JOIN delivered AS s ON m.key_hi = s.key_hi AND m.key_lo = s.key_lo WHERE m.present IS NULL OR s.key_hi IS NULL OR m.fingerprint <> s.fingerprint OR s.identifiers IS NULL OR m.unnamed = 1;

SELECT found, COUNT(*) FROM reverse_etl.of_it_1_a5fc926e_candidates_<run> GROUP BY found;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_candidates_<run>;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_model_<run> AS WITH extracted AS (SELECT "id" AS c0, "email" AS c1 FROM (
SELECT * FROM m
) AS model), mapped AS (SELECT c0 AS k0, c1 AS f0 FROM extracted), model AS (SELECT f0, row_key, identifiers, unnamed, STRTOL(SUBSTRING(key_digest, 1, 15), 16) AS key_hi, STRTOL(SUBSTRING(key_digest, 17, 15), 16) AS key_lo, STRTOL(SUBSTRING(row_digest, 17, 15), 16) AS fingerprint, 1 AS present FROM (SELECT f0, CAST(CAST(k0 AS VARCHAR(MAX)) AS VARCHAR(MAX)) AS row_key, CAST(JSON_SERIALIZE(OBJECT('email', f0)) AS VARCHAR(MAX)) AS identifiers, CASE WHEN COALESCE(BTRIM(CAST(f0 AS VARCHAR(MAX)), CHR(32) || CHR(9) || CHR(13) || CHR(10) || ' '), '') = '' THEN 1 ELSE 0 END AS unnamed, CASE WHEN k0 IS NULL THEN NULL ELSE MD5(COALESCE(CAST(LENGTH(CAST(k0 AS VARCHAR(MAX))) AS VARCHAR(MAX)) || ':' || CAST(k0 AS VARCHAR(MAX)), 'n')) END AS key_digest, MD5(COALESCE(CAST(LENGTH('b779ef55b45ee3d2') AS VARCHAR(MAX)) || ':' || 'b779ef55b45ee3d2', 'n') || COALESCE(CAST(LENGTH(CAST(f0 AS VARCHAR(MAX))) AS VARCHAR(MAX)) || ':' || CAST(f0 AS VARCHAR(MAX)), 'n')) AS row_digest FROM mapped) AS digests) SELECT * FROM model;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_candidates_<run> AS WITH model AS (SELECT * FROM reverse_etl.of_it_1_a5fc926e_model_<run>), delivered AS (SELECT key_hi, key_lo, fingerprint, row_key, identifiers FROM reverse_etl.of_it_1_a5fc926e_snapshot), repeated AS (SELECT key_hi, key_lo FROM model WHERE present = 1 AND key_hi IS NOT NULL GROUP BY key_hi, key_lo HAVING COUNT(*) > 1) SELECT m.f0, 'b779ef55' || COALESCE(SUBSTR(MD5(CAST(m.key_hi AS VARCHAR(MAX)) || ':' || CAST(m.f0 AS VARCHAR(MAX))), 1, 4), 'null') AS field_hashes, COALESCE(m.row_key, s.row_key) AS row_key, COALESCE(m.identifiers, s.identifiers) AS identifiers, COALESCE(m.unnamed, CASE WHEN (REPLACE(s.identifiers, '"email"', '') <> s.identifiers AND COALESCE(BTRIM(JSON_EXTRACT_PATH_TEXT(s.identifiers, 'email'), CHR(32) || CHR(9) || CHR(13) || CHR(10) || ' '), '') = '') THEN 1 ELSE 0 END) AS unnamed, COALESCE(m.key_hi, s.key_hi) AS key_hi, COALESCE(m.key_lo, s.key_lo) AS key_lo, COALESCE(m.fingerprint, -1) AS fingerprint, m.present, CASE WHEN m.present IS NULL THEN 'gone' WHEN m.key_hi IS NULL THEN 'null' WHEN s.key_hi IS NULL THEN 'added' ELSE 'changed' END AS found FROM model AS m FULL JOIN delivered AS s ON m.key_hi = s.key_hi AND m.key_lo = s.key_lo LEFT JOIN repeated AS d ON m.key_hi = d.key_hi AND m.key_lo = d.key_lo WHERE m.present IS NULL OR s.key_hi IS NULL OR m.fingerprint <> s.fingerprint OR s.identifiers IS NULL OR m.unnamed = 1 OR d.key_hi IS NOT NULL;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_changes_<run> AS WITH candidates AS (SELECT * FROM reverse_etl.of_it_1_a5fc926e_candidates_<run>), repeated AS (SELECT key_hi, key_lo FROM reverse_etl.of_it_1_a5fc926e_model_<run> WHERE present = 1 AND key_hi IS NOT NULL GROUP BY key_hi, key_lo HAVING COUNT(*) > 1), rejections AS (SELECT key_hi, key_lo, fingerprint, attempts, first_seen, last_seen, outcome, code FROM reverse_etl.of_it_1_a5fc926e_rejections), quarantined AS (SELECT key_hi, key_lo, fingerprint, code, CASE WHEN outcome = 'unknown' THEN 'in_doubt' ELSE 'given_up' END AS cause FROM rejections WHERE (outcome = 'unknown' OR attempts >= 5 OR first_seen <= CAST('2025-12-18 00:00:00' AS TIMESTAMP))), the_plan AS (SELECT c.*, CASE WHEN c.found = 'null' OR d.key_hi IS NOT NULL OR c.unnamed = 1 AND c.found <> 'gone' THEN 'invalid' WHEN c.found = 'gone' THEN CASE WHEN c.identifiers IS NULL OR c.unnamed = 1 THEN 'forgotten' WHEN q.key_hi IS NULL THEN 'removed' ELSE 'skipped' END WHEN q.key_hi IS NOT NULL THEN 'skipped' WHEN c.found = 'known' THEN 'changed' ELSE c.found END AS change, CASE WHEN c.found = 'null' THEN 'null_key' WHEN d.key_hi IS NOT NULL THEN 'duplicate_key' WHEN c.unnamed = 1 AND c.found <> 'gone' THEN 'no_identifier' ELSE q.cause END AS cause, q.code FROM candidates AS c LEFT JOIN repeated AS d ON c.key_hi = d.key_hi AND c.key_lo = d.key_lo LEFT JOIN quarantined AS q ON c.key_hi = q.key_hi AND c.key_lo = q.key_lo AND c.fingerprint = q.fingerprint) SELECT ROW_NUMBER() OVER (ORDER BY CASE change WHEN 'added' THEN 0 WHEN 'changed' THEN 1 WHEN 'removed' THEN 2 ELSE 9 END) AS seq, change, cause, code, row_key, f0, field_hashes, identifiers, key_hi, key_lo, fingerprint FROM the_plan WHERE change <> 'ignored';

SELECT change, cause, code, COUNT(*) FROM reverse_etl.of_it_1_a5fc926e_changes_<run> GROUP BY change, cause, code;

DROP TABLE reverse_etl.of_it_1_a5fc926e_candidates_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_model_<run>;

COMMIT;

INSERT INTO reverse_etl.plans (plan_id, sync, run_id, stage, content, created_at) SELECT '20260101T000000000000-<run>', 'Of-It.1', 'run1', 'ready', '{"plan_id": "20260101T000000000000-<run>", "run_id": "run1", "sync": "Of-It.1", "planned": {"added": 3, "changed": 0, "removed": 0, "invalid": 1}, "total": 3, "model_rows": 4, "snapshot_rows": 4, "skipped": 2, "created_at": "2026-01-01T00:00:00+00:00", "spec": "5d133ec1a61eb5b948515429fc687390b8a2c984767e57860d23757344c46eaa", "recorded": 0, "notes": [], "causes": {"no_identifier": 1}, "given_up": 2, "given_up_codes": {"bad": 2}, "format": 1, "mode": "mirror", "approach": {"compared": true, "recorded": "", "anew": false, "forgiven": false, "resent": false, "low": "", "tracked": true, "notes": [], "mapping": "fcb82a46561a19fa", "key": "fc949a4dac6b077d", "scope": "", "destination": "d2b06e68a76ba1f5", "destination_since": "", "kind": null, "high": null, "floor": null}, "cursor_type": "", "field_hashes": true, "generation": "nothing yet", "values": ["f0"]}', CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ);

SELECT content FROM reverse_etl.plans WHERE plan_id = '20260101T000000000000-<run>' AND stage = 'ready' ORDER BY plan_id;

SELECT c.seq, s.field_hashes, c.field_hashes FROM reverse_etl.of_it_1_a5fc926e_changes_<run> AS c JOIN reverse_etl.of_it_1_a5fc926e_snapshot AS s ON s.key_hi = c.key_hi AND s.key_lo = c.key_lo WHERE c.change = 'changed' AND c.seq > 0 AND c.seq <= 3 ORDER BY c.seq;

SELECT COALESCE(MAX(number), 0) FROM reverse_etl.checkpoints WHERE plan_id = '20260101T000000000000-<run>' AND part = 0;

BEGIN;

INSERT INTO reverse_etl.checkpoints (plan_id, sync, part, number, piece, pieces, content) SELECT '20260101T000000000000-<run>', 'Of-It.1', 0, 1, 0, 1, '{"low": 2, "above": [], "dispatched": 3, "failed": [[2, "rejected", 0]], "reasons": [["bad", "it\'s \\\\ 100% \'wrong\'", "", null]], "left": [], "uncertain": [], "requests": 0, "seconds": 0.0, "after": 0, "doubts": [], "closed": false}';

DELETE FROM reverse_etl.checkpoints WHERE plan_id = '20260101T000000000000-<run>' AND part = 0 AND number <= 0;

COMMIT;

SELECT content FROM reverse_etl.plans WHERE plan_id = '20260101T000000000000-<run>' AND stage = 'ready' ORDER BY plan_id;

SELECT 1 FROM reverse_etl.runs WHERE plan_id = '20260101T000000000000-<run>';

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_failed_<run>;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_failed_<run> (seq BIGINT, outcome VARCHAR(MAX), code VARCHAR(MAX), message VARCHAR(MAX));

INSERT INTO reverse_etl.of_it_1_a5fc926e_failed_<run> (seq, outcome, code, message) VALUES (2, 'rejected', 'bad', 'it\'s \\ 100% \'wrong\'');

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_fates_<run>;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_fates_<run> AS SELECT * FROM (SELECT c.key_hi, c.key_lo, c.fingerprint, c.row_key, c.identifiers, c.field_hashes, CASE WHEN c.change = 'forgotten' THEN 'gone' WHEN c.change = 'recorded' THEN 'accepted' WHEN c.seq > 3 THEN NULL WHEN f.seq IS NULL AND (c.seq BETWEEN 1 AND 2) THEN CASE c.change WHEN 'removed' THEN 'gone' ELSE 'accepted' END WHEN (c.seq BETWEEN 3 AND 3) OR f.outcome = 'unknown' THEN 'in_doubt' END AS fate FROM reverse_etl.of_it_1_a5fc926e_changes_<run> AS c LEFT JOIN reverse_etl.of_it_1_a5fc926e_failed_<run> AS f ON c.seq = f.seq) AS decided WHERE fate IS NOT NULL;

BEGIN;

UPDATE reverse_etl.of_it_1_a5fc926e_state SET generation = '20260101T000000000000-<run>' WHERE generation = 'nothing yet';

SELECT DISTINCT generation FROM reverse_etl.of_it_1_a5fc926e_state;

SELECT 1 FROM reverse_etl.of_it_1_a5fc926e_fates_<run> LIMIT 1;

INSERT INTO reverse_etl.of_it_1_a5fc926e_rejections (row_key, key_hi, key_lo, fingerprint, change, outcome, code, message, attempts, first_seen, last_seen, plan_id) SELECT c.row_key, c.key_hi, c.key_lo, c.fingerprint, c.change, f.outcome, f.code, f.message, COALESCE(r.attempts, 0) + 1, COALESCE(r.first_seen, CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ)), CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ), '20260101T000000000000-<run>' FROM reverse_etl.of_it_1_a5fc926e_changes_<run> AS c JOIN reverse_etl.of_it_1_a5fc926e_failed_<run> AS f ON c.seq = f.seq LEFT JOIN reverse_etl.of_it_1_a5fc926e_rejections AS r ON r.key_hi = c.key_hi AND r.key_lo = c.key_lo AND r.fingerprint = c.fingerprint AND r.plan_id <> '20260101T000000000000-<run>' WHERE f.outcome <> 'skipped' AND NOT EXISTS (SELECT 1 FROM reverse_etl.of_it_1_a5fc926e_rejections AS done WHERE done.plan_id = '20260101T000000000000-<run>');

DELETE FROM reverse_etl.of_it_1_a5fc926e_rejections WHERE plan_id <> '20260101T000000000000-<run>' AND NOT EXISTS (SELECT 1 FROM reverse_etl.of_it_1_a5fc926e_changes_<run> AS c WHERE c.key_hi = of_it_1_a5fc926e_rejections.key_hi AND c.key_lo = of_it_1_a5fc926e_rejections.key_lo AND (c.change = 'skipped' OR c.change = 'invalid' AND of_it_1_a5fc926e_rejections.fingerprint <> -1 OR c.seq <= 3 AND NOT (c.seq BETWEEN 1 AND 2)));

INSERT INTO reverse_etl.change_log (sync, run_id, plan_id, change, row_key, key_hi, key_lo, fingerprint, outcome, code, committed_at) SELECT 'Of-It.1', 'run1', '20260101T000000000000-<run>', c.change, c.row_key, c.key_hi, c.key_lo, c.fingerprint, CASE WHEN f.seq IS NOT NULL THEN f.outcome WHEN (c.seq BETWEEN 1 AND 2) THEN 'accepted' WHEN (c.seq BETWEEN 3 AND 3) THEN 'unknown' ELSE 'not sent' END, f.code, CURRENT_TIMESTAMP FROM reverse_etl.of_it_1_a5fc926e_changes_<run> AS c LEFT JOIN reverse_etl.of_it_1_a5fc926e_failed_<run> AS f ON c.seq = f.seq WHERE c.seq <= 3 AND NOT EXISTS (SELECT 1 FROM reverse_etl.change_log AS done WHERE done.plan_id = '20260101T000000000000-<run>');

SELECT COUNT(*) FROM reverse_etl.of_it_1_a5fc926e_snapshot;

SELECT MAX(generation), MAX(remembered) FROM reverse_etl.of_it_1_a5fc926e_state;

SELECT 1 FROM reverse_etl.runs WHERE sync = 'Of-It.1' LIMIT 1;

UPDATE reverse_etl.of_it_1_a5fc926e_state SET remembered = '{"rows": 4, "mapping": "fcb82a46561a19fa", "key": "fc949a4dac6b077d", "scope": "", "low": "", "stale": false, "destination": "d2b06e68a76ba1f5", "destination_since": ""}' WHERE 1 = 1;

DELETE FROM reverse_etl.runs WHERE sync = 'Of-It.1' AND planned_at < CAST('2025-01-01 00:00:00.000000' AS TIMESTAMPTZ);

DELETE FROM reverse_etl.change_log WHERE sync = 'Of-It.1' AND committed_at < CAST('2025-01-01 00:00:00.000000' AS TIMESTAMPTZ);

INSERT INTO reverse_etl.runs (sync, run_id, plan_id, model_rows, snapshot_rows, added, changed, removed, invalid, accepted, rejected, retryable, unknown, skipped, requests, mode, seconds, report, planned_at, committed_at) SELECT 'Of-It.1', 'run1', '20260101T000000000000-<run>', 4, 4, 3, 0, 0, 1, 1, 1, 1, 0, 0, 1, 'mirror', 0.5, '{"run_id": "run1", "planned": {"added": 3, "changed": 0, "removed": 0, "invalid": 1}, "accepted": 1, "rejected": 1, "retryable": 1, "unknown": 0, "skipped": 0, "given_up": 0, "model_rows": 0, "invalid": {}, "requests": 1, "seconds": 0.5, "reasons": []}', CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ), CURRENT_TIMESTAMP;

COMMIT;

DELETE FROM reverse_etl.plans WHERE plan_id = '20260101T000000000000-<run>' AND stage = 'ready';

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_changes_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_candidates_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_model_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_types_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_failed_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_fates_<run>;

DELETE FROM reverse_etl.checkpoints WHERE plan_id = '20260101T000000000000-<run>';

DELETE FROM reverse_etl.plans WHERE plan_id = '20260101T000000000000-<run>';

