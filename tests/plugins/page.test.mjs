// Pure functions of the page, with `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  bars,
  destinationOf,
  filtered,
  healthOf,
  isLate,
  latestTasks,
  maintained,
  marksText,
  pictureOf,
  reasonsOf,
  rulesOf,
  runsOf,
  syncsOf,
  typeOf,
} from "../../airflow_reverse_etl/plugins/static/syncs.js";

import { commitUrl, fileUrl } from "../../airflow_reverse_etl/plugins/static/picture.js";

const COUNTS = { accepted: 3, rejected: 0, unknown: 0, given_up: 0, retryable: 0, planned: { invalid: 0 } };
const task = (dag, id, run, state) => ({ dag_id: dag, task_id: id, dag_run_id: run, state });

test("the tasks of a sync's latest run are those of its group", () => {
  const tasks = [
    task("d", "other", "2", "success"),
    task("d", "crm.commit", "2", "success"),
    task("d", "crm.load", "2", "failed"),
    task("d", "crm.commit", "1", "failed"),
  ];
  assert.deepEqual(latestTasks([{ dag_id: "d", task_id: "crm.commit" }], tasks), tasks.slice(1, 3));
  assert.deepEqual(latestTasks([{ dag_id: "e", task_id: "crm.commit" }], tasks), []);
});

test("the health of a sync is its worst sign", () => {
  const health = (states, counts, hasRun = true) => healthOf(states.map((state) => ({ state })), counts, hasRun);
  assert.equal(health(["success", "failed"], COUNTS), "failing");
  assert.equal(health(["running"], COUNTS), "running");
  assert.equal(health([null], undefined, false), "running");
  assert.equal(health([], undefined, false), "never run");
  assert.equal(health(["success"], undefined), "not known");
  assert.equal(health(["success"], { ...COUNTS, rejected: 1 }), "attention");
  assert.equal(health(["success"], { ...COUNTS, planned: { invalid: 2 } }), "attention");
  assert.equal(health(["success"], { ...COUNTS, drift: [{}] }), "attention");
  assert.equal(health(["success"], COUNTS), "ok");
});

test("syncs are joined with what is known of them, the worst first", () => {
  const assets = ["a", "b"].map((name, id) => ({
    id,
    name: `sync/${name}`,
    extra: { sync: name, model: "m", destination: { type: "http", connection: "crm", object: "x" } },
    producing_tasks: [{ dag_id: name, task_id: "t" }],
  }));
  const events = [
    { asset_id: 0, timestamp: "2026-01-02", extra: COUNTS },
    { asset_id: 0, timestamp: "2026-01-01", extra: { ...COUNTS, rejected: 9 } },
  ];
  const found = syncsOf(assets, events, [task("b", "t", "1", "failed")], [{ dag_id: "a", is_paused: true }]);
  assert.deepEqual(
    found.map((sync) => [sync.name, sync.health, sync.last, sync.dag?.is_paused]),
    [
      ["b", "failing", undefined, undefined],
      ["a", "ok", "2026-01-02", true],
    ],
  );
  assert.equal(destinationOf(found[0].definition), "http / crm / x");
  assert.deepEqual(filtered(found, " CRM ", "ok").map((sync) => sync.name), ["a"]);
  assert.deepEqual(filtered(found, "nothing", ""), []);
});

test("the bars of a chart are parts of the longest, oldest first", () => {
  const events = [{ extra: { accepted: 1, rejected: 1 } }, { extra: { accepted: 4, rejected: 0, planned: { removed: 1 } } }, {}];
  assert.deepEqual(bars(events), [
    { accepted: 0, removed: 0, rejected: 0 },
    { accepted: 0.75, removed: 0.25, rejected: 0 },
    { accepted: 0.25, removed: 0, rejected: 0.25 },
  ]);
});

test("a sync is late after more than twice the usual time, once three commits show what is usual", () => {
  const hours = (...list) => list.map((hour) => new Date(hour * 3_600_000).toISOString());
  assert.equal(isLate(hours(1, 2, 3), 4.9 * 3_600_000), false);
  assert.equal(isLate(hours(1, 2, 3), 5.1 * 3_600_000), true);
  assert.equal(isLate(hours(2, 3), 99 * 3_600_000), false);
});

test("runs are those of tasks and of events, also when they failed or another DAG did them", () => {
  const started = (run, state, from, to) => ({ ...task("d", "g.load", run, state), start_date: from, end_date: to });
  const tasks = [
    started("2", "failed", "2026-01-02T00:00:00Z", "2026-01-02T00:01:00Z"),
    started("1", "success", "2026-01-01T00:00:00Z", "2026-01-01T00:00:30Z"),
  ];
  const events = [
    { source_dag_id: "m", source_run_id: "x", source_task_id: "maintain", timestamp: "2026-01-03T00:00:00Z", extra: { seconds: 4 } },
    { source_dag_id: "d", source_run_id: "1", source_task_id: "g.commit", timestamp: "2026-01-01T00:00:30Z", extra: COUNTS },
  ];
  const runs = runsOf([{ dag_id: "d", task_id: "g.commit" }], tasks, events);
  assert.deepEqual(
    runs.map((run) => [run.dag, run.run, run.state, run.seconds, run.task, run.counts?.accepted]),
    [
      ["m", "x", "success", 4, "maintain", undefined],
      ["d", "2", "failed", 60, "g.load", undefined],
      ["d", "1", "success", 30, "g.commit", 3],
    ],
  );
});

test("guards and policy are sentences", () => {
  const rules = rulesOf({
    mode: "mirror",
    guards: { min_rows: 1, max_changes: "5%" },
    failure: { max_rejected: 0, max_given_up: "1%", on_unknown: "fail" },
    retry: { max_attempts: 5, max_age_days: 14 },
  });
  assert.deepEqual(rules, [
    "Nothing is sent if the model has fewer than 1 row.",
    "Nothing is sent if more than 20% of the delivered rows, and more than 10 rows, would be removed.",
    "Nothing is sent if more than 5% of the model's rows would be sent.",
    "The task fails if any row is rejected or invalid.",
    "The task fails if more than 1% of the model's rows are given up.",
    "A row whose answer was lost fails the task.",
    "A rejected row is given up after 5 attempts, or 14 days.",
  ]);
});

test("a reason has the time when its code was first seen, also if the last try has no report", () => {
  const health = { by_code: { bad: { count: 2, message: "no", first_seen: "t" } } };
  assert.deepEqual(reasonsOf({ reasons: [{ code: "bad", count: 3, message: "no" }] }, health)[0].first_seen, "t");
  assert.deepEqual(reasonsOf(undefined, health), [{ code: "bad", count: 2, message: "no", first_seen: "t" }]);
  assert.deepEqual(reasonsOf(undefined, undefined), []);
});

test("a maintenance DAG names its syncs, or works on all", () => {
  assert.deepEqual(maintained({ sync: { schema: { enum: [null, "a"] } } }), ["a"]);
  assert.equal(maintained({ sync: { schema: {} } }), undefined);
});

test("the marks of personal data are a text", () => {
  const marks = { email: ["email"], contact: ["email", "unknown"], id: [], "*": ["pii"] };
  assert.equal(marksText({ marks }), "email (email), contact (email, unknown), every other column (pii)");
  assert.equal(marksText({}), "");
  assert.equal(marksText(undefined), "");
});

test("a picture leads from the commit over two steps of models to the destination", () => {
  const sync = { name: "s", health: "ok", definition: { model: "m", destination: { type: "http", connection: "crm", object: "x" } } };
  const nodes = [
    { id: "m", name: "m", kind: "model", step: 0, tests: 2 },
    { id: "stg", name: "stg", kind: "model", step: 1, tests: 0 },
    { id: "src", name: "raw.t", kind: "source", step: 2, tests: 0, freshness: "12 hour" },
  ];
  const picture = { repository: "https://git.example.com/a/shop.git", commit: "0123456789", nodes, edges: [["src", "stg"], ["stg", "m"]] };
  const { boxes, edges, width } = pictureOf(sync, picture);
  assert.deepEqual(
    boxes.map((box) => [box.id, box.x / 194]),
    [["@git", 0], ["m", 3], ["stg", 2], ["src", 1], ["@sync", 4], ["@to", 5]],
  );
  assert.equal(boxes[0].text, "@ 01234567");
  assert.equal(boxes[3].text, "source, fresh within 12 hour");
  const dbt = [{ status: "success", passed: 1, failed: 1 }, { status: "success", passed: 2, failed: 0 }, { status: "error" }];
  const said = pictureOf(sync, { ...picture, nodes: nodes.map((node, at) => ({ ...node, ...dbt[at] })) }).boxes;
  assert.deepEqual(
    said.slice(1, 4).map((box) => [box.text, box.tone]),
    [["model, built, 1 of 2 tests failed", "bad"], ["model, built, 2 tests passed", undefined], ["source, stale", "bad"]],
  );
  assert.deepEqual(edges, [["@git", "src"], ["src", "stg"], ["stg", "m"], ["m", "@sync"], ["@sync", "@to"]]);
  assert.equal(width, 6 * 194 - 28);
  assert.deepEqual(pictureOf(sync, undefined).boxes.map((box) => box.title), ["m", "s", "x"]);
});

test("the type of a column is that of the warehouse, and an expression has none", () => {
  assert.equal(typeOf("email", { EMAIL: "VARCHAR" }), "VARCHAR");
  assert.equal(typeOf("upper(email)", { EMAIL: "VARCHAR" }), "");
  assert.equal(typeOf("email", undefined), "");
});

test("a repository, a commit and a model's file have addresses on the web, without credentials", () => {
  assert.equal(commitUrl("https://me:s3cret@git.example.com/a/shop.git", "0123"), "https://git.example.com/a/shop/commit/0123");
  assert.equal(commitUrl("git@github.com:acme/shop.git"), "https://github.com/acme/shop");
  assert.equal(commitUrl("ssh://git@git.example.com/acme/shop.git"), "https://git.example.com/acme/shop");
  assert.equal(commitUrl("/srv/shop.git"), undefined);
  assert.equal(commitUrl(undefined), undefined);
  const picture = { repository: "git@github.com:acme/shop.git", commit: "0123", project_path: "analytics" };
  assert.equal(fileUrl(picture, { path: "models/m.sql" }), "https://github.com/acme/shop/blob/0123/analytics/models/m.sql");
  assert.equal(fileUrl({ ...picture, project_path: "." }, { path: "m.sql" }), "https://github.com/acme/shop/blob/0123/m.sql");
  assert.equal(fileUrl(picture, { path: null }), undefined);
});
