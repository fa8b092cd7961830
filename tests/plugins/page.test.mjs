// Pure functions of the page, with `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bars, destinationOf, filtered, healthOf, latestTasks, syncsOf } from "../../airflow_reverse_etl/plugins/static/syncs.js";

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
  const events = [{ extra: { accepted: 1, rejected: 1 } }, { extra: { accepted: 4, rejected: 0 } }, {}];
  assert.deepEqual(bars(events), [
    { accepted: 0, rejected: 0 },
    { accepted: 1, rejected: 0 },
    { accepted: 0.25, rejected: 0.25 },
  ]);
});
