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

CREATE TABLE IF NOT EXISTS reverse_etl.of_it_1_a5fc926e_snapshot (key_hi BIGINT, key_lo BIGINT, fingerprint BIGINT, row_key VARCHAR(MAX), identifiers VARCHAR(MAX), field_hashes VARCHAR(MAX), row_hi BIGINT, row_lo BIGINT);

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

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_candidates_<run>;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_candidates_<run> AS WITH extracted AS (SELECT "id" AS c0, "email" AS c1 FROM (
SELECT * FROM m
) AS model), mapped AS (SELECT c0 AS k0, c1 AS f0 FROM extracted), model AS (SELECT f0, row_key, identifiers, unnamed, STRTOL(SUBSTRING(row_digest, 1, 15), 16) AS row_hi, STRTOL(SUBSTRING(row_digest, 17, 15), 16) AS row_lo, STRTOL(SUBSTRING(key_digest, 1, 15), 16) AS key_hi, STRTOL(SUBSTRING(key_digest, 17, 15), 16) AS key_lo, STRTOL(SUBSTRING(fingerprint_digest, 17, 15), 16) AS fingerprint, 1 AS present FROM (SELECT f0, CAST(CAST(k0 AS VARCHAR(MAX)) AS VARCHAR(MAX)) AS row_key, CAST(JSON_SERIALIZE(OBJECT('email', f0)) AS VARCHAR(MAX)) AS identifiers, CASE WHEN COALESCE(n0, '') = '' THEN 1 ELSE 0 END AS unnamed, CASE WHEN k0 IS NULL THEN NULL ELSE MD5(COALESCE(CAST(LENGTH(CAST(k0 AS VARCHAR(MAX))) AS VARCHAR(MAX)) || ':' || CAST(k0 AS VARCHAR(MAX)), 'n')) END AS row_digest, CASE WHEN COALESCE(n0, '') = '' THEN NULL ELSE MD5(COALESCE(CAST(LENGTH(n0) AS VARCHAR(MAX)) || ':' || n0, 'n')) END AS key_digest, MD5(COALESCE(CAST(LENGTH('b779ef55b45ee3d2') AS VARCHAR(MAX)) || ':' || 'b779ef55b45ee3d2', 'n') || COALESCE(CAST(LENGTH(CAST(f0 AS VARCHAR(MAX))) AS VARCHAR(MAX)) || ':' || CAST(f0 AS VARCHAR(MAX)), 'n')) AS fingerprint_digest FROM (SELECT *, BTRIM(CAST(f0 AS VARCHAR(MAX)), CHR(32) || CHR(9) || CHR(13) || CHR(10) || ' ') AS n0 FROM mapped) AS named) AS digests), delivered AS (SELECT key_hi, key_lo, row_hi, row_lo, fingerprint, row_key, identifiers, field_hashes FROM reverse_etl.of_it_1_a5fc926e_snapshot) SELECT m.f0, 'b779ef55' || COALESCE(SUBSTR(MD5(CAST(m.key_hi AS VARCHAR(MAX)) || ':' || CAST(m.f0 AS VARCHAR(MAX))), 1, 4), 'null') AS field_hashes, CASE WHEN m.present IS NULL THEN s.row_key ELSE m.row_key END AS row_key, COALESCE(m.identifiers, s.identifiers) AS identifiers, COALESCE(m.unnamed, 0) AS unnamed, CASE WHEN m.present IS NULL THEN s.key_hi ELSE m.key_hi END AS key_hi, CASE WHEN m.present IS NULL THEN s.key_lo ELSE m.key_lo END AS key_lo, CASE WHEN m.present IS NULL THEN s.row_hi ELSE m.row_hi END AS row_hi, CASE WHEN m.present IS NULL THEN s.row_lo ELSE m.row_lo END AS row_lo, COALESCE(m.fingerprint, -1) AS fingerprint, m.present, CASE WHEN m.present IS NULL THEN 'gone' WHEN s.key_hi IS NULL THEN 'added' WHEN s.fingerprint = -2 THEN 'doubtful' WHEN m.fingerprint <> s.fingerprint THEN 'changed' WHEN m.row_hi <> s.row_hi OR m.row_lo <> s.row_lo OR s.row_hi IS NULL OR s.identifiers IS NULL THEN 'renamed' ELSE 'same' END AS found FROM model AS m FULL JOIN delivered AS s ON m.key_hi = s.key_hi AND m.key_lo = s.key_lo WHERE m.present IS NULL OR s.key_hi IS NULL OR m.fingerprint <> s.fingerprint OR m.row_hi <> s.row_hi OR m.row_lo <> s.row_lo OR s.row_hi IS NULL OR s.identifiers IS NULL OR m.row_hi IS NULL;

WITH candidates AS (SELECT * FROM reverse_etl.of_it_1_a5fc926e_candidates_<run>) SELECT found, COUNT(*) FROM candidates GROUP BY found;

WITH delivered AS (SELECT key_hi, key_lo, row_hi, row_lo, fingerprint, row_key, identifiers, field_hashes FROM reverse_etl.of_it_1_a5fc926e_snapshot), candidates AS (SELECT * FROM reverse_etl.of_it_1_a5fc926e_candidates_<run>), owners AS (SELECT s.key_hi, s.key_lo, s.row_hi, s.row_lo FROM delivered AS s JOIN (SELECT DISTINCT row_hi, row_lo FROM candidates WHERE present = 1 AND row_hi IS NOT NULL) AS c ON s.row_hi = c.row_hi AND s.row_lo = c.row_lo) SELECT 1 AS found FROM owners AS o LEFT JOIN candidates AS c ON o.key_hi = c.key_hi AND o.key_lo = c.key_lo WHERE c.key_hi IS NULL LIMIT 1;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_changes_<run> AS WITH candidates AS (SELECT * FROM reverse_etl.of_it_1_a5fc926e_candidates_<run>), repeated AS (SELECT key_hi, key_lo FROM candidates WHERE present = 1 AND key_hi IS NOT NULL GROUP BY key_hi, key_lo HAVING COUNT(*) > 1), repeated_rows AS (SELECT row_hi, row_lo FROM candidates WHERE present = 1 AND row_hi IS NOT NULL GROUP BY row_hi, row_lo HAVING COUNT(*) > 1), judged AS (SELECT c.*, CASE WHEN c.present IS NULL THEN NULL WHEN c.row_hi IS NULL THEN 'null_key' WHEN e.row_hi IS NOT NULL THEN 'duplicate_key' WHEN c.unnamed = 1 THEN 'no_identifier' WHEN d.key_hi IS NOT NULL THEN 'duplicate_identifier' END AS invalid, 0 AS repeats FROM candidates AS c LEFT JOIN repeated AS d ON c.key_hi = d.key_hi AND c.key_lo = d.key_lo LEFT JOIN repeated_rows AS e ON c.row_hi = e.row_hi AND c.row_lo = e.row_lo), row_states AS (SELECT row_hi, row_lo, MAX(CASE WHEN invalid IS NOT NULL THEN 2 WHEN found IN ('added', 'doubtful') THEN 1 ELSE 0 END) AS state FROM judged WHERE present = 1 AND row_hi IS NOT NULL GROUP BY row_hi, row_lo), delivered AS (SELECT key_hi, key_lo, row_hi, row_lo, fingerprint, row_key, identifiers, field_hashes FROM reverse_etl.of_it_1_a5fc926e_snapshot), owners AS (SELECT s.key_hi, s.key_lo, s.row_hi, s.row_lo FROM delivered AS s JOIN (SELECT DISTINCT row_hi, row_lo FROM candidates WHERE present = 1 AND row_hi IS NOT NULL) AS c ON s.row_hi = c.row_hi AND s.row_lo = c.row_lo), rejections AS (SELECT key_hi, key_lo, fingerprint, attempts, first_seen, last_seen, outcome, code FROM reverse_etl.of_it_1_a5fc926e_rejections), quarantined AS (SELECT key_hi, key_lo, fingerprint, code, CASE outcome WHEN 'unknown' THEN 'in_doubt' WHEN 'skipped' THEN 'missing' WHEN 'dismissed' THEN 'dismissed' ELSE 'given_up' END AS cause FROM rejections WHERE ((outcome = 'unknown') OR (outcome = 'dismissed') OR (outcome = 'rejected' AND attempts >= 5) OR (outcome = 'rejected' AND first_seen <= CAST('2025-12-18 00:00:00' AS TIMESTAMP)))), the_plan AS (SELECT j.*, CASE WHEN j.invalid IS NOT NULL THEN 'invalid' WHEN j.found = 'gone' THEN CASE WHEN j.identifiers IS NULL THEN 'forgotten' WHEN w.state >= 1 THEN 'skipped' WHEN q.key_hi IS NULL THEN 'removed' ELSE 'skipped' END WHEN j.found = 'same' OR j.repeats = 1 THEN 'ignored' WHEN j.found = 'renamed' THEN 'recorded' WHEN q.key_hi IS NOT NULL THEN 'skipped' ELSE CASE WHEN j.found = 'added' THEN 'added' ELSE 'changed' END END AS change, CASE WHEN j.invalid IS NOT NULL THEN j.invalid WHEN j.found = 'gone' AND w.state >= 1 THEN 'held' WHEN q.key_hi IS NOT NULL THEN q.cause WHEN j.found = 'added' AND o.row_hi IS NOT NULL THEN 'moved' END AS cause, q.code FROM judged AS j LEFT JOIN row_states AS w ON j.present IS NULL AND w.row_hi = j.row_hi AND w.row_lo = j.row_lo LEFT JOIN (SELECT DISTINCT row_hi, row_lo FROM owners) AS o ON o.row_hi = j.row_hi AND o.row_lo = j.row_lo LEFT JOIN quarantined AS q ON q.key_hi = j.key_hi AND q.key_lo = j.key_lo AND q.fingerprint = j.fingerprint) SELECT ROW_NUMBER() OVER (ORDER BY CASE change WHEN 'removed' THEN 0 WHEN 'changed' THEN 1 WHEN 'added' THEN 2 ELSE 9 END) AS seq, change, cause, code, row_key, identifiers, f0, field_hashes, key_hi, key_lo, row_hi, row_lo, fingerprint FROM the_plan WHERE change <> 'ignored';

SELECT change, cause, code, COUNT(*) FROM reverse_etl.of_it_1_a5fc926e_changes_<run> GROUP BY change, cause, code;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_candidates_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_whole_model_<run>;

COMMIT;

INSERT INTO reverse_etl.plans (plan_id, sync, run_id, stage, content, created_at) SELECT '20260101T000000000000-<run>', 'Of-It.1', 'run1', 'ready', '{"plan_id": "20260101T000000000000-<run>", "run_id": "run1", "sync": "Of-It.1", "planned": {"added": 3, "changed": 0, "removed": 0, "invalid": 1}, "total": 3, "model_rows": 4, "snapshot_rows": 4, "skipped": 2, "created_at": "2026-01-01T00:00:00+00:00", "spec": "5d133ec1a61eb5b948515429fc687390b8a2c984767e57860d23757344c46eaa", "recorded": 0, "notes": [], "causes": {"no_identifier": 1}, "given_up": 2, "given_up_codes": {"bad": 2}, "moved": 0, "held": 0, "kinds": ["removed", "changed", "added"], "other_writers": {}, "place": "", "forgotten": 0, "whole": false, "format": 2, "mode": "mirror", "values": ["f0"], "generation": "nothing yet", "approach": {"compared": true, "adopted": false, "recorded": "", "anew": false, "forgiven": false, "resent": false, "low": "", "tracked": true, "notes": [], "mapping": "fcb82a46561a19fa", "key": "fc949a4dac6b077d", "identity": "5a407fb3bf0d60b7", "scope": "", "destination": "d2b06e68a76ba1f5", "address": "", "destination_since": "", "columns": [], "columns_before": null, "kind": null, "high": null, "floor": null, "format": 2}, "cursor_type": "", "columns": ["field_hashes", "row_hi", "row_lo"], "value_kinds": {}}', CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ);

SELECT content FROM reverse_etl.plans WHERE plan_id = '20260101T000000000000-<run>' AND stage = 'ready' ORDER BY plan_id;

SELECT c.seq, s.field_hashes, c.field_hashes FROM reverse_etl.of_it_1_a5fc926e_changes_<run> AS c JOIN reverse_etl.of_it_1_a5fc926e_snapshot AS s ON s.key_hi = c.key_hi AND s.key_lo = c.key_lo WHERE c.change = 'changed' AND c.seq > 0 AND c.seq <= 3 ORDER BY c.seq;

SELECT COALESCE(MAX(number), 0) FROM reverse_etl.checkpoints WHERE plan_id = '20260101T000000000000-<run>' AND part = 0 AND number >= 0 AND number < 1000000;

BEGIN;

INSERT INTO reverse_etl.checkpoints (plan_id, sync, part, number, piece, pieces, content) SELECT '20260101T000000000000-<run>', 'Of-It.1', 0, 1, 0, 1, '{"low": 2, "above": [], "dispatched": 3, "failed": [[2, "rejected", 0]], "reasons": [["bad", "it\'s \\\\ 100% \'wrong\'", "", null]], "left": [], "uncertain": [], "requests": 0, "seconds": 0.0, "after": 0, "doubts": [], "taken": [], "closed": false}';

DELETE FROM reverse_etl.checkpoints WHERE plan_id = '20260101T000000000000-<run>' AND part = 0 AND number <= 0;

COMMIT;

SELECT 1 FROM reverse_etl.writers WHERE 1 = 0;

SELECT address FROM reverse_etl.writers WHERE sync = 'Of-It.1' AND (address <> 'crm contacts' OR written_at > CAST('2025-12-31 00:00:00.000000' AS TIMESTAMPTZ));

BEGIN;

DELETE FROM reverse_etl.writers WHERE sync = 'Of-It.1';

INSERT INTO reverse_etl.writers (sync, address, written_at) SELECT 'Of-It.1', 'crm contacts', CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ);

COMMIT;

SELECT 1 FROM reverse_etl.writers WHERE 1 = 0;

SELECT sync, MAX(written_at) FROM reverse_etl.writers WHERE address = 'crm contacts' GROUP BY sync;

SELECT content FROM reverse_etl.plans WHERE plan_id = '20260101T000000000000-<run>' AND stage = 'ready' ORDER BY plan_id;

SELECT 1 FROM reverse_etl.runs WHERE plan_id = '20260101T000000000000-<run>';

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_failed_<run>;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_failed_<run> (seq BIGINT, outcome VARCHAR(MAX), code VARCHAR(MAX), message VARCHAR(MAX));

INSERT INTO reverse_etl.of_it_1_a5fc926e_failed_<run> (seq, outcome, code, message) VALUES (2, 'rejected', 'bad', 'it\'s \\ 100% \'wrong\'');

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_refused_<run>;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_refused_<run> AS WITH changes AS (SELECT seq, change, row_key, identifiers, key_hi, key_lo, fingerprint, field_hashes, row_hi, row_lo FROM reverse_etl.of_it_1_a5fc926e_changes_<run>), failed AS (SELECT * FROM reverse_etl.of_it_1_a5fc926e_failed_<run>), rejections AS (SELECT * FROM reverse_etl.of_it_1_a5fc926e_rejections) SELECT c.row_key, c.key_hi, c.key_lo, c.fingerprint, c.change, f.outcome, f.code, f.message, CASE WHEN f.outcome = 'skipped' THEN 0 ELSE COALESCE(r.attempts, 0) + 1 END AS attempts, COALESCE(r.first_seen, CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ)) AS first_seen, CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ) AS last_seen FROM changes AS c JOIN failed AS f ON f.seq = c.seq LEFT JOIN rejections AS r ON r.key_hi = c.key_hi AND r.key_lo = c.key_lo AND r.fingerprint = c.fingerprint AND r.outcome <> 'skipped' WHERE NOT f.outcome = 'skipped' UNION ALL SELECT r.row_key, r.key_hi, r.key_lo, r.fingerprint, r.change, r.outcome, r.code, r.message, r.attempts, r.first_seen, r.last_seen FROM rejections AS r WHERE EXISTS (SELECT 1 FROM changes AS c WHERE r.key_hi = c.key_hi AND r.key_lo = c.key_lo AND (r.fingerprint <> -1 OR c.fingerprint = -1) AND (c.change = 'skipped' OR c.change = 'invalid' AND r.fingerprint <> -1 OR c.change IN ('added', 'changed', 'removed') AND NOT (c.seq BETWEEN 1 AND 2))) OR EXISTS (SELECT 1 FROM changes AS c WHERE c.row_key = r.row_key AND c.change = 'invalid' AND r.fingerprint <> -1);

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_fates_<run>;

CREATE TABLE reverse_etl.of_it_1_a5fc926e_fates_<run> AS WITH changes AS (SELECT seq, change, row_key, identifiers, key_hi, key_lo, fingerprint, field_hashes, row_hi, row_lo FROM reverse_etl.of_it_1_a5fc926e_changes_<run>), failed AS (SELECT * FROM reverse_etl.of_it_1_a5fc926e_failed_<run>) SELECT * FROM (SELECT c.key_hi, c.key_lo, c.row_hi, c.row_lo, c.fingerprint, c.row_key, c.identifiers, c.field_hashes, CASE WHEN c.change = 'forgotten' THEN 'gone' WHEN c.change = 'recorded' THEN 'accepted' WHEN NOT (c.change IN ('added', 'changed', 'removed')) THEN NULL WHEN f.seq IS NULL AND (c.seq BETWEEN 1 AND 2) AND c.change = 'removed' THEN 'gone' WHEN f.seq IS NULL AND (c.seq BETWEEN 1 AND 2) THEN 'accepted' WHEN (c.seq BETWEEN 3 AND 3) OR f.outcome = 'unknown' THEN 'in_doubt' END AS fate FROM changes AS c LEFT JOIN failed AS f ON f.seq = c.seq) AS decided WHERE fate IS NOT NULL;

BEGIN;

UPDATE reverse_etl.of_it_1_a5fc926e_state SET generation = '20260101T000000000000-<run>' WHERE generation = 'nothing yet';

SELECT DISTINCT generation FROM reverse_etl.of_it_1_a5fc926e_state;

SELECT 1 FROM reverse_etl.of_it_1_a5fc926e_fates_<run> LIMIT 1;

SELECT COUNT(*) FROM reverse_etl.of_it_1_a5fc926e_snapshot;

DELETE FROM reverse_etl.of_it_1_a5fc926e_rejections WHERE 1 = 1;

INSERT INTO reverse_etl.of_it_1_a5fc926e_rejections (row_key, key_hi, key_lo, fingerprint, change, outcome, code, message, attempts, first_seen, last_seen, plan_id) SELECT row_key, key_hi, key_lo, fingerprint, change, outcome, code, message, attempts, first_seen, last_seen, '20260101T000000000000-<run>' FROM reverse_etl.of_it_1_a5fc926e_refused_<run>;

INSERT INTO reverse_etl.change_log (sync, run_id, change, row_key, key_hi, key_lo, fingerprint, outcome, code, plan_id, committed_at) WITH changes AS (SELECT seq, change, row_key, identifiers, key_hi, key_lo, fingerprint, field_hashes, row_hi, row_lo FROM reverse_etl.of_it_1_a5fc926e_changes_<run>), failed AS (SELECT * FROM reverse_etl.of_it_1_a5fc926e_failed_<run>) SELECT sync, run_id, change, row_key, key_hi, key_lo, fingerprint, outcome, code, '20260101T000000000000-<run>', CURRENT_TIMESTAMP FROM (SELECT 'Of-It.1' AS sync, 'run1' AS run_id, c.change, c.row_key, c.key_hi, c.key_lo, c.fingerprint, CASE WHEN f.seq IS NOT NULL THEN f.outcome WHEN (c.seq BETWEEN 1 AND 2) THEN 'accepted' WHEN (c.seq BETWEEN 3 AND 3) THEN 'unknown' ELSE 'not sent' END AS outcome, f.code FROM changes AS c LEFT JOIN failed AS f ON f.seq = c.seq WHERE c.change IN ('added', 'changed', 'removed')) AS logged WHERE NOT EXISTS (SELECT 1 FROM reverse_etl.change_log AS done WHERE done.plan_id = '20260101T000000000000-<run>');

SELECT MAX(generation), MAX(remembered) FROM reverse_etl.of_it_1_a5fc926e_state;

SELECT 1 FROM reverse_etl.runs WHERE sync = 'Of-It.1' LIMIT 1;

UPDATE reverse_etl.of_it_1_a5fc926e_state SET remembered = '{"rows": 4, "mapping": "fcb82a46561a19fa", "key": "fc949a4dac6b077d", "identity": "5a407fb3bf0d60b7", "scope": "", "low": "", "stale": false, "destination": "d2b06e68a76ba1f5", "destination_since": "", "address": "", "columns": [], "format": 2}' WHERE 1 = 1;

INSERT INTO reverse_etl.runs (run_id, plan_id, model_rows, snapshot_rows, added, changed, removed, invalid, accepted, rejected, retryable, unknown, skipped, requests, mode, seconds, report, sync, planned_at, committed_at) SELECT 'run1', '20260101T000000000000-<run>', 4, 4, 3, 0, 0, 1, 1, 1, 1, 0, 0, 1, 'mirror', 0.5, '{"run_id": "run1", "planned": {"added": 3, "changed": 0, "removed": 0, "invalid": 1}, "accepted": 1, "rejected": 1, "retryable": 1, "unknown": 0, "skipped": 0, "given_up": 0, "moved": 0, "held": 0, "model_rows": 0, "invalid": {}, "other_writers": {}, "answers": {}, "ids_problem": "", "attention": [], "requests": 1, "seconds": 0.5, "reasons": []}', 'Of-It.1', CAST('2026-01-01 00:00:00.000000' AS TIMESTAMPTZ), CURRENT_TIMESTAMP;

DELETE FROM reverse_etl.runs WHERE sync = 'Of-It.1' AND planned_at < CAST('2025-01-01 00:00:00.000000' AS TIMESTAMPTZ);

DELETE FROM reverse_etl.change_log WHERE sync = 'Of-It.1' AND committed_at < CAST('2025-01-01 00:00:00.000000' AS TIMESTAMPTZ);

COMMIT;

DELETE FROM reverse_etl.plans WHERE plan_id = '20260101T000000000000-<run>' AND stage = 'ready';

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_changes_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_candidates_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_whole_model_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_model_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_types_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_failed_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_fates_<run>;

DROP TABLE IF EXISTS reverse_etl.of_it_1_a5fc926e_refused_<run>;

DELETE FROM reverse_etl.checkpoints WHERE plan_id = '20260101T000000000000-<run>';

DELETE FROM reverse_etl.leases WHERE sync LIKE 'try 20260101T000000000000-<run> %';

DELETE FROM reverse_etl.plans WHERE plan_id = '20260101T000000000000-<run>';

