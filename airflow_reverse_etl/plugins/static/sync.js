// The view of one sync: its runs, why rows were not accepted, what it sends, and what can be done.

import { Actions, loadMaintenance, xcomOf } from "./actions.js";
import { api, color, counted, duration, ERROR, h, Health, link, Muted, number, Part, Problem, SHAPE, Table, taskPath, time, useLoaded, when } from "./kit.js";
import { OPERATORS, PAGE } from "./list.js";
import { commitUrl, fileUrl, Picture } from "./picture.js";
import { Rejected } from "./rejected.js";
import { bars, destinationOf, latestTasks, marksText, reasonsOf, rulesOf, runsOf, syncsOf, typeOf } from "./syncs.js";

const RUNS = 50;

/** Airflow's answer, or undefined if there is none, or the user may not see it. */
const maybe = (path) => api(path).catch(() => undefined);

async function loadSync(name) {
  const { assets } = await api(`/assets?name_pattern=${encodeURIComponent(`sync/${name}`)}&limit=${PAGE}`);
  const asset = assets.find((one) => one.group === "reverse_etl_sync" && one.extra?.sync === name);
  if (!asset) throw new Error(`No DAG has a sync named ${name}, or you may not see its DAG.`);
  const producers = asset.producing_tasks ?? [];
  const names = [...new Set(producers.map((one) => one.dag_id))];
  const [events, health, maintenance, ...ofDags] = await Promise.all([
    api(`/assets/events?asset_id=${asset.id}&order_by=-timestamp&limit=${RUNS}`),
    maybe(`/assets/${asset.id}/state-store/health`),
    loadMaintenance(name, names),
    ...names.map(async (dag) => {
      const path = `/dags/${dag}/dagRuns/~/taskInstances?${OPERATORS}&order_by=-run_after&limit=${PAGE}`;
      const [found, tasks] = await Promise.all([maybe(`/dags/${dag}`), maybe(path)]);
      return { dag: found, tasks: tasks?.task_instances ?? [] };
    }),
  ]);
  const tasks = ofDags.flatMap((one) => one.tasks);
  const dags = ofDags.map((one) => one.dag).filter(Boolean);
  const [sync] = syncsOf([asset], events.asset_events, tasks, dags);
  const latest = latestTasks(producers, tasks);
  const ids = producers.map((one) => one.task_id);
  const last = latest.find((task) => ids.includes(task.task_id));
  const approval = latest.find((task) => task.task_id.endsWith(".approve"));
  const planning = latest.find((task) => task.task_id.endsWith(".plan")) ?? last;
  const failed = latest.find((task) => task.state === "failed");
  const [report, error, plan, picture, kept] = await Promise.all([
    last && xcomOf(last, "return_value"),
    failed && xcomOf(failed, "error"),
    planning && xcomOf(planning, "plan"),
    planning && xcomOf(planning, "picture"),
    // Before Airflow 3.3, the health is an XCom.
    last && !health && xcomOf(last, "health"),
  ]);
  sync.isApproved = Boolean(approval);
  // Others than our tasks may add events: only an address of the web becomes a link.
  sync.recordsUrl = events.asset_events.map((event) => event.extra?.records_url).find((url) => /^https?:\/\//.test(url));
  return {
    sync,
    events: events.asset_events,
    runs: runsOf(producers, tasks, events.asset_events),
    latest,
    last: failed ?? [last, ...latest].find((task) => task?.start_date),
    report: report?.planned ? report : undefined,
    error,
    plan: plan?.planned ? plan : undefined,
    planned: planning?.end_date,
    approval,
    picture,
    health: health?.value ?? kept,
    ended: (failed ?? last)?.end_date,
    maintenance,
  };
}

const LEGEND = [
  ["accepted", SHAPE.good],
  ["removed", SHAPE.info],
  ["rejected", SHAPE.bad],
];

/** Rows of the last commits, oldest first. */
function Chart({ events }) {
  const width = 14;
  const height = 90;
  const said = events.map((event) => event.extra ?? {}).reverse();
  const parts = bars(events).map((bar, at) => {
    let y = height;
    const rects = LEGEND.map(([name, tone]) => {
      const tall = bar[name] > 0 ? Math.max(2, Math.round(bar[name] * height)) : 0;
      y -= tall;
      return h("rect", { key: name, x: at * width, y, width: width - 3, height: tall, fill: color(tone) });
    });
    const text = `${number(said[at].accepted ?? 0)} accepted, ${number(said[at].planned?.removed ?? 0)} of them removed, ${number(said[at].rejected ?? 0)} rejected`;
    return h("g", { key: at }, h("title", null, text), ...rects);
  });
  const label = `Accepted, removed and rejected rows of the last ${events.length} commits, oldest first`;
  const legend = LEGEND.map(([name, tone]) =>
    h("span", { key: name, className: "re-health" }, h("span", { className: "re-dot", style: { background: color(tone) }, "aria-hidden": true }), name),
  );
  return h(
    "div",
    { className: "re-scroll", tabIndex: 0, role: "region", "aria-label": "Chart" },
    h("svg", { role: "img", "aria-label": label, width: Math.max(1, events.length) * width, height: height + 2, viewBox: `0 -2 ${Math.max(1, events.length) * width} ${height + 2}` }, parts),
    h("div", { className: "re-row" }, ...legend),
  );
}

function Runs({ runs }) {
  const rows = runs.slice(0, RUNS).map((run) => [
    run.task ? link(taskPath(run.dag, run.run, run.task), when(run.start)) : when(run.start),
    run.state,
    duration(run.seconds),
    number(run.counts?.planned?.added),
    number(run.counts?.planned?.changed),
    number(run.counts?.planned?.removed),
    number(run.counts?.accepted),
    number(run.counts?.rejected),
    run.dag,
  ]);
  const columns = ["Run", "State", "Duration", "Added", "Changed", "Removed", "Accepted", "Rejected", "DAG"];
  return h(Table, { label: "Runs", columns, rows });
}

/** The last try: its counts, its log, and the reasons why rows were not accepted. */
function LastRun({ task, report, error, health }) {
  if (!task) return h(Muted, null, "No task of the sync has begun, or it was long ago.");
  const log = link(taskPath(task.dag_id, task.dag_run_id, task.task_id), "Its log");
  const counts = report
    ? `${counted(report.accepted, "row", "rows")} accepted, ${number(report.rejected)} rejected, ${number(report.given_up ?? 0)} given up, ${number(report.planned.invalid)} invalid.`
    : `${task.state ?? "not started yet"}, without a report.`;
  const reasons = reasonsOf(report, health);
  const rows = reasons.map((reason) => [reason.code, number(reason.count), when(reason.first_seen), reason.message]);
  return h(
    "div",
    null,
    h("p", null, time(task.start_date), ": ", counts, " ", log),
    health?.since ? h(Muted, null, `${health.state} since ${time(health.since)}.`) : null,
    error ? h("p", { role: "alert", style: { color: ERROR, whiteSpace: "pre-line" } }, error) : null,
    rows.length
      ? h(Table, { label: "Reasons", stacked: true, columns: ["Code", "Rows", "First seen", "The destination's own words"], rows })
      : report && h(Muted, null, "No row was rejected."),
    report?.drift?.length ? h("ul", { "aria-label": "Drift" }, report.drift.map((one, at) => h("li", { key: at }, `Changed in the model: ${one.message}`))) : null,
  );
}

/** The latest plan, by counts, and the way to its approval. */
function Plan({ plan, approval }) {
  if (!plan) return h(Muted, null, "A sync without a task of its own for the plan shows its plan here after a preview.");
  const { planned } = plan;
  const rows = [["added", "changed", "removed", "invalid"].map((name) => number(planned[name]))];
  const waits = approval && (approval.state === "deferred" || approval.state === "awaiting_input");
  const way = waits ? link(`${taskPath(approval.dag_id, approval.dag_run_id, approval.task_id)}/required_actions`, "Approve or reject this plan") : null;
  const minutes = plan.minutes == null ? "" : `, about ${duration(plan.minutes * 60)} at the sync's rate`;
  return h(
    "div",
    null,
    h(Table, { label: "Plan", columns: ["Added", "Changed", "Removed", "Invalid"], rows }),
    h("p", null, `${counted(plan.total, "row", "rows")} to send, in about ${counted(plan.requests, "request", "requests")}${minutes}.`),
    plan.guards?.length ? h("ul", { "aria-label": "Guards of the plan" }, plan.guards.map((text, at) => h("li", { key: at }, text))) : null,
    way,
  );
}

function Definition({ definition, types }) {
  const fields = Object.entries(definition.fields ?? {}).map(([name, source]) => [name, source, typeOf(source, types)]);
  return h(
    "div",
    null,
    h(Muted, null, `${definition.model} (${definition.source}) → ${destinationOf(definition)}, mode ${definition.mode}`),
    h(Table, { label: "Mapping", columns: ["Field", "Column or expression", "Type in the warehouse"], rows: fields }),
  );
}

const Rules = ({ definition }) => h("ul", null, rulesOf(definition).map((text, at) => h("li", { key: at }, text)));

/** Return the plan of the last run, or of a preview since then. */
function newestPlan({ plan, planned }, preview) {
  const later = preview && (!plan || !planned || new Date(preview.at) > new Date(planned));
  return later ? preview.plan : plan;
}

/** One sync. */
export function SyncView({ name }) {
  const { useState } = globalThis.React;
  const [found, error, again] = useLoaded(() => loadSync(name), name);
  const [results, setResults] = useState({});
  const back = link("/plugin/reverse-etl", "All syncs");
  if (error) return h("div", null, back, h(Problem, { error }));
  if (!found) return h("p", { role: "status" }, "Loading …");
  const { sync, events, runs, last, report, maintenance, health, picture } = found;
  const told = (value) => value?.action && setResults((before) => ({ ...before, [value.action]: { at: new Date().toISOString(), ...value } }));
  const latest = { ...maintenance.results, ...results };
  const plan = newestPlan(found, latest.preview);
  const dag = sync.producers[0]?.dag_id;
  const base = document.querySelector("head > base")?.getAttribute("href")?.replace(/\/$/, "") ?? "";
  const links = {
    "@git": commitUrl(picture?.repository, picture?.commit),
    "@sync": dag && `${base}/dags/${dag}`,
    "@to": sync.recordsUrl,
    ...Object.fromEntries((picture?.nodes ?? []).map((node) => [node.id, fileUrl(picture, node)])),
  };
  const marks = marksText(picture);
  const part = (title, ...children) => h(Part, { key: title, title }, ...children);
  return h(
    "div",
    null,
    back,
    h("div", { className: "re-row" }, h("strong", { style: { fontSize: "1.3em" } }, name), h(Health, { health: sync.health })),
    sync.dag?.is_paused ? h(Muted, null, `The DAG ${sync.dag.dag_id} is paused: a run waits until it is not.`) : null,
    h(Actions, { sync, maintenance, told, changed: again }),
    part("From the model to the destination", h(Picture, { sync, picture, links }), marks ? h("p", null, `Personal data in the model: ${marks}`) : null),
    part("Last run", h(LastRun, { task: last, report, error: found.error, health })),
    part("Rejected rows", h(Rejected, { sync, maintenance, listed: latest.rejected, ended: found.ended, told })),
    part("Rows over time", events.length ? h(Chart, { events }) : h(Muted, null, "No commit yet.")),
    part("Latest plan", h(Plan, { plan, approval: found.approval })),
    part("Runs", runs.length ? h(Runs, { runs }) : h(Muted, null, "None yet.")),
    part("Guards and policy", h(Rules, { definition: sync.definition })),
    part("Definition", h(Definition, { definition: sync.definition, types: picture?.types })),
  );
}
