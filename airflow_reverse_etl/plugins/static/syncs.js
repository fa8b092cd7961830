// What is known of syncs, from Airflow's answers. Pure: no request, no element.

/** States of a task that is not over. */
const OPEN = new Set([
  "scheduled",
  "queued",
  "running",
  "deferred",
  "up_for_retry",
  "up_for_reschedule",
  "restarting",
  "awaiting_input",
]);

/** The parts of a task id: the group of a sync's tasks, or the task itself. */
const groupOf = (taskId) => (taskId.includes(".") ? taskId.slice(0, taskId.lastIndexOf(".")) : taskId);

/** Return the task instances of a sync, of a list of all. */
export function ownTasks(producers, tasks) {
  return tasks.filter((task) =>
    producers.some((one) => one.dag_id === task.dag_id && groupOf(one.task_id) === groupOf(task.task_id)),
  );
}

/** Return the task instances of a sync in its latest DAG run, of a list in which the latest come first. */
export function latestTasks(producers, tasks) {
  const own = ownTasks(producers, tasks);
  return own.filter((task) => task.dag_run_id === own[0].dag_run_id && task.dag_id === own[0].dag_id);
}

/** Return the number of rows that a person should look at. */
export function openRows(counts) {
  const names = ["rejected", "unknown", "given_up", "retryable"];
  return names.reduce((sum, name) => sum + (counts[name] ?? 0), counts.planned?.invalid ?? 0);
}

/** Return the health of a sync: `failing`, `attention`, `running`, `ok`, `never run`, or `not known` without its counts. */
export function healthOf(tasks, counts, hasRun) {
  const states = tasks.map((task) => task.state);
  if (states.some((state) => state === "failed")) return "failing";
  if (states.some((state) => state == null || OPEN.has(state))) return "running";
  if (!hasRun) return "never run";
  if (!counts) return "not known";
  return openRows(counts) > 0 || counts.drift?.length ? "attention" : "ok";
}

/** Return whether no commit came for more than twice the usual time. It takes three commits to know what is usual. */
export function isLate(times, now) {
  const moments = times.map((text) => new Date(text).getTime()).sort((a, b) => b - a);
  if (moments.length < 3) return false;
  const gaps = moments.slice(1).map((moment, at) => moments[at] - moment).sort((a, b) => a - b);
  const usual = gaps[Math.floor(gaps.length / 2)];
  const MINUTE = 60_000;
  return now - moments[0] > Math.max(2 * usual, 10 * MINUTE);
}

const ORDER = ["failing", "attention", "late", "not known", "running", "never run", "ok"];

/** Join assets, their last events and task instances to syncs, the worst first. */
export function syncsOf(assets, events, tasks, dags, now = Date.now()) {
  const ofAsset = Map.groupBy ? Map.groupBy(events, (event) => event.asset_id) : grouped(events);
  const known = new Map(dags.map((dag) => [dag.dag_id, dag]));
  const found = assets.map((asset) => {
    const own = ofAsset.get(asset.id) ?? [];
    const event = own[0];
    const producers = asset.producing_tasks ?? [];
    const latest = latestTasks(producers, tasks);
    const dag = known.get(producers[0]?.dag_id);
    const last = event?.timestamp ?? asset.last_asset_event?.timestamp;
    let health = healthOf(latest, event?.extra, Boolean(last));
    const awaited = dag?.timetable_summary && !dag.is_paused;
    if (health === "ok" && awaited && isLate(own.map((one) => one.timestamp), now)) health = "late";
    return {
      name: asset.extra?.sync ?? asset.name.replace(/^sync\//, ""),
      assetId: asset.id,
      definition: asset.extra ?? {},
      producers,
      dag,
      counts: event?.extra,
      last,
      tasks: latest,
      health,
    };
  });
  return found.sort((a, b) => ORDER.indexOf(a.health) - ORDER.indexOf(b.health) || a.name.localeCompare(b.name));
}

function grouped(events) {
  const found = new Map();
  for (const event of events) found.set(event.asset_id, [...(found.get(event.asset_id) ?? []), event]);
  return found;
}

/** Return the destination of a sync, for people. */
export function destinationOf(definition) {
  const to = definition.destination ?? {};
  return [to.type, to.connection, to.object].filter(Boolean).join(" / ");
}

/** Return the syncs that a text, a health, a type of destination and a DAG let through. */
export function filtered(syncs, text, health, type = "", dag = "") {
  const wanted = text.trim().toLowerCase();
  return syncs.filter((sync) => {
    const own = sync.producers[0]?.dag_id;
    const words = `${sync.name} ${sync.definition.model} ${destinationOf(sync.definition)} ${own}`;
    if (health && sync.health !== health) return false;
    if (type && sync.definition.destination?.type !== type) return false;
    return (!dag || own === dag) && words.toLowerCase().includes(wanted);
  });
}

/** Return the bars of a chart: one for each event, oldest first, in parts of 1. Removed rows are a part of the accepted. */
export function bars(events) {
  const counted = events.map((event) => event.extra ?? {}).reverse();
  const most = Math.max(1, ...counted.map((one) => (one.accepted ?? 0) + (one.rejected ?? 0)));
  return counted.map((one) => {
    const accepted = one.accepted ?? 0;
    const removed = Math.min(one.planned?.removed ?? 0, accepted);
    return { accepted: (accepted - removed) / most, removed: removed / most, rejected: (one.rejected ?? 0) / most };
  });
}

const worst = (states) => {
  for (const state of ["failed", "upstream_failed"]) if (states.includes(state)) return "failed";
  if (states.some((state) => state == null || OPEN.has(state))) return "running";
  return states.includes("success") ? "success" : (states[0] ?? "–");
};

/** Return the runs of a sync, the latest first, also those that failed or that a maintenance DAG did. */
export function runsOf(producers, tasks, events) {
  const runs = new Map();
  const at = (dag, run) => {
    const key = `${dag}\n${run}`;
    if (!runs.has(key)) runs.set(key, { dag, run, tasks: [] });
    return runs.get(key);
  };
  for (const task of ownTasks(producers, tasks)) at(task.dag_id, task.dag_run_id).tasks.push(task);
  for (const event of events) {
    if (!event.source_run_id) continue;
    const run = at(event.source_dag_id, event.source_run_id);
    run.counts ??= event.extra;
    run.committed ??= event.timestamp;
    run.task ??= event.source_task_id;
  }
  const found = [...runs.values()].map((run) => {
    const starts = run.tasks.map((task) => task.start_date).filter(Boolean).sort();
    const ends = run.tasks.map((task) => task.end_date).filter(Boolean).sort();
    const over = ends.length === run.tasks.length;
    const failed = run.tasks.find((task) => task.state === "failed");
    const seconds = starts.length && over ? (new Date(ends.at(-1)) - new Date(starts[0])) / 1000 : run.counts?.seconds;
    return {
      ...run,
      state: run.tasks.length ? worst(run.tasks.map((task) => task.state)) : "success",
      start: starts[0] ?? run.committed,
      seconds,
      task: failed?.task_id ?? run.task ?? run.tasks[0]?.task_id,
    };
  });
  return found.sort((a, b) => new Date(b.start ?? 0) - new Date(a.start ?? 0));
}

const share = (limit, of) => (typeof limit === "string" ? `${limit} of ${of}` : `${limit} ${limit === 1 ? "row" : "rows"}`);

/** Return guards and failure policy in words, one sentence each. */
export function rulesOf(definition) {
  const { guards = {}, failure = {}, retry = {}, mode } = definition;
  const found = [];
  if (guards.min_rows) found.push(`Nothing is sent if the model has fewer than ${share(guards.min_rows)}.`);
  if (guards.max_removed != null) {
    found.push(`Nothing is sent if more than ${share(guards.max_removed, "the delivered rows")} would be removed.`);
  } else if (mode === "mirror") {
    found.push("Nothing is sent if more than 20% of the delivered rows, and more than 10 rows, would be removed.");
  }
  if (guards.max_changes != null) {
    found.push(`Nothing is sent if more than ${share(guards.max_changes, "the model's rows")} would be sent.`);
  }
  if (failure.max_rejected != null) {
    const limit = failure.max_rejected === 0 ? "any row is" : `more than ${share(failure.max_rejected, "the planned rows")} are`;
    found.push(`The task fails if ${limit} rejected or invalid.`);
  }
  if (failure.max_given_up != null) {
    found.push(`The task fails if more than ${share(failure.max_given_up, "the model's rows")} are given up.`);
  }
  const unknown = { resend: "is sent again", accept: "counts as delivered", fail: "fails the task" }[failure.on_unknown];
  if (unknown) found.push(`A row whose answer was lost ${unknown}.`);
  if (retry.max_attempts) {
    found.push(`A rejected row is given up after ${retry.max_attempts} ${retry.max_attempts === 1 ? "attempt" : "attempts"}, or ${retry.max_age_days} days.`);
  }
  return found;
}

/** Return the reasons of a report, with when each was first seen, of a health document or of earlier events. */
export function reasonsOf(report, health) {
  const known = health?.by_code ?? {};
  if (!report) {
    return Object.entries(known).map(([code, found]) => ({ code, ...found }));
  }
  return (report.reasons ?? []).map((reason) => ({ ...reason, first_seen: known[reason.code]?.first_seen }));
}

/** Return the syncs that a maintenance DAG works on, of its params; undefined for all. */
export function maintained(params) {
  const names = params?.sync?.schema?.enum;
  return names?.filter((name) => name != null);
}

/** Return the personal data that dbt marks in the columns of a sync's model, as text; empty if there is none. */
export function marksText(picture) {
  const marked = Object.entries(picture?.marks ?? {}).filter(([, names]) => names.length);
  return marked.map(([column, names]) => `${column === "*" ? "every other column" : column} (${names.join(", ")})`).join(", ");
}

const COLUMN = 194;
const GAP = 28;
const LINE = 64;

const GOOD = ["success", "pass", "no-op", "reused"];

/** Return what a box says of a model or a source, and whether dbt found something wrong with it. */
function stateOf({ kind, tests, freshness, status, passed, failed }) {
  const source = kind === "source";
  const notes = [kind];
  if (status) notes.push(source ? { pass: "fresh", warn: "getting stale" }[status] ?? "stale" : GOOD.includes(status) ? "built" : status);
  else if (freshness) notes.push(`fresh within ${freshness}`);
  const ran = (passed ?? 0) + (failed ?? 0);
  if (failed) notes.push(`${failed} of ${ran} tests failed`);
  else if (ran) notes.push(`${ran} ${ran === 1 ? "test" : "tests"} passed`);
  else if (tests) notes.push(`${tests} ${tests === 1 ? "test" : "tests"}`);
  const tone = failed || (status && !GOOD.includes(status) && status !== "warn") ? "bad" : status === "warn" ? "warn" : undefined;
  return { text: notes.join(", "), tone };
}

/** Return a column's type in the warehouse, whatever the case of its name; an empty text for an expression. */
export function typeOf(source, types) {
  const found = Object.entries(types ?? {}).find(([name]) => name.toLowerCase() === source.toLowerCase());
  return found?.[1] ?? "";
}

/** Return places of boxes and arrows for the picture of a sync: repository, models, sync, destination. */
export function pictureOf(sync, picture) {
  const nodes = picture?.nodes?.length
    ? picture.nodes
    : [{ id: "model", name: sync.definition.model, kind: "model", step: 0, tests: 0 }];
  const steps = Math.max(...nodes.map((node) => node.step));
  const boxes = [];
  const columns = new Map();
  const place = (box, column) => {
    const line = columns.get(column) ?? 0;
    columns.set(column, line + 1);
    boxes.push({ ...box, x: column * COLUMN, y: line * LINE, width: COLUMN - GAP, height: LINE - 16 });
  };
  const first = picture?.commit || picture?.repository ? 1 : 0;
  if (first) {
    const name = (picture.repository ?? picture.project ?? "repository").replace(/\.git$/, "").split("/").slice(-2).join("/");
    place({ id: "@git", kind: "commit", title: name, text: picture.commit ? `@ ${picture.commit.slice(0, 8)}` : "" }, 0);
  }
  for (const node of nodes) {
    place({ id: node.id, kind: node.kind, title: node.name, ...stateOf(node) }, first + steps - node.step);
  }
  place({ id: "@sync", kind: "sync", title: sync.name, text: sync.health }, first + steps + 1);
  const to = sync.definition.destination ?? {};
  place({ id: "@to", kind: "destination", title: to.object ?? to.type, text: [to.type, to.connection].filter(Boolean).join(", ") }, first + steps + 2);
  const target = nodes.find((node) => node.step === 0).id;
  const upper = nodes.filter((node) => node.step === steps).map((node) => node.id);
  const edges = [...(picture?.edges ?? []), [target, "@sync"], ["@sync", "@to"]];
  if (first) edges.unshift(...upper.map((id) => ["@git", id]));
  const lines = Math.max(...columns.values());
  return { boxes, edges, width: (first + steps + 3) * COLUMN - GAP, height: lines * LINE - 16 };
}
