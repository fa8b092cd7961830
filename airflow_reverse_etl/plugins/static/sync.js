// The view of one sync: its runs, why rows were not accepted, what it sends, and what can be done.

import { api, Button, color, h, Health, Muted, number, Problem, Table, time, useLoaded } from "./kit.js";
import { loadSyncs } from "./list.js";
import { bars, destinationOf } from "./syncs.js";

const RUNS = 50;

/** Return the report that a task left, also if it failed; undefined without one. */
async function reportOf(task) {
  const run = encodeURIComponent(task.dag_run_id);
  const path = `/dags/${task.dag_id}/dagRuns/${run}/taskInstances/${task.task_id}/xcomEntries/return_value`;
  const found = await api(`${path}?map_index=${task.map_index ?? -1}`).catch(() => undefined);
  const value = typeof found?.value === "string" ? JSON.parse(found.value) : found?.value;
  return value?.planned ? value : undefined;
}

async function loadSync(name) {
  const sync = (await loadSyncs()).find((one) => one.name === name);
  if (!sync) throw new Error(`No DAG has a sync named ${name}, or you may not see its DAG.`);
  const names = sync.producers.map((one) => one.task_id);
  const last = sync.tasks.find((task) => names.includes(task.task_id));
  const [events, report] = await Promise.all([
    api(`/assets/events?asset_id=${sync.assetId}&order_by=-timestamp&limit=${RUNS}`),
    last ? reportOf(last) : undefined,
  ]);
  return { sync, events: events.asset_events, last, report };
}

/** Rows of the last runs, oldest first. */
function Chart({ events }) {
  const width = 12;
  const height = 80;
  const parts = bars(events).flatMap((bar, at) => {
    const accepted = Math.round(bar.accepted * height);
    const rejected = Math.round(bar.rejected * height);
    const place = { x: at * width, width: width - 2 };
    return [
      h("rect", { key: `a${at}`, ...place, y: height - accepted, height: accepted, fill: color("green-solid") }),
      h("rect", { key: `r${at}`, ...place, y: height - accepted - rejected, height: rejected, fill: color("red-solid") }),
    ];
  });
  const label = `Accepted and rejected rows of the last ${events.length} commits, oldest first`;
  return h("svg", { role: "img", "aria-label": label, width: events.length * width, height, style: { margin: "8px 0" } }, parts);
}

function Runs({ events }) {
  const { Link } = globalThis.ReactRouterDOM;
  const rows = events.map((event) => {
    const run = encodeURIComponent(event.source_run_id ?? "");
    const to = `/dags/${event.source_dag_id}/runs/${run}/tasks/${event.source_task_id}`;
    const counts = event.extra ?? {};
    return [
      h(Link, { to, style: { color: color("fg-info") } }, time(event.timestamp)),
      number(counts.planned?.added),
      number(counts.planned?.changed),
      number(counts.planned?.removed),
      number(counts.accepted),
      number(counts.rejected),
      counts.seconds == null ? "–" : `${number(Math.round(counts.seconds))} s`,
    ];
  });
  const columns = ["Commit", "Added", "Changed", "Removed", "Accepted", "Rejected", "Duration"];
  return h(Table, { label: "Commits", columns, rows });
}

/** The last try: its counts, its log, and the reasons why rows were not accepted. */
function LastRun({ task, report }) {
  const { Link } = globalThis.ReactRouterDOM;
  if (!task) return h(Muted, null, "The sync has not run, or long ago.");
  const to = `/dags/${task.dag_id}/runs/${encodeURIComponent(task.dag_run_id)}/tasks/${task.task_id}`;
  const log = h(Link, { to, style: { color: color("fg-info") } }, "Its log");
  const counts = report
    ? `${number(report.accepted)} rows accepted, ${number(report.rejected)} rejected, ${number(report.planned.invalid)} invalid.`
    : `${task.state ?? "Not started yet"}, without a report.`;
  const rows = (report?.reasons ?? []).map((reason) => [reason.code, number(reason.count), reason.message]);
  return h(
    "div",
    null,
    h("p", null, time(task.start_date), ": ", counts, " ", log),
    rows.length
      ? h(Table, { label: "Reasons", columns: ["Code", "Rows", "The destination's own words"], rows })
      : report && h(Muted, null, "Every row that was sent was accepted."),
  );
}

function Definition({ definition }) {
  const fields = Object.entries(definition.fields ?? {}).map(([name, source]) => [name, source]);
  return h(
    "div",
    null,
    h(Muted, null, `${definition.model} (${definition.source}) → ${destinationOf(definition)}, mode ${definition.mode}`),
    h(Table, { label: "Mapping", columns: ["Field", "Column or expression"], rows: fields }),
  );
}

const ACTIONS = [
  { title: "Run now", conf: {}, ask: "" },
  { title: "Full resync", conf: { full_resync: true }, ask: "Every valid row is sent again. Go on?" },
];

function Actions({ sync, changed }) {
  const { useState } = globalThis.React;
  const [said, say] = useState("");
  const dag = sync.producers[0]?.dag_id;
  const start = async (action) => {
    if (action.ask && !globalThis.confirm(action.ask)) return;
    const conf = { reverse_etl: { [sync.name]: action.conf } };
    const note = `${action.title}, from the Reverse ETL page`;
    try {
      const run = await api(`/dags/${dag}/dagRuns`, { logical_date: null, conf, note });
      say(`Started ${run.dag_run_id} of ${dag}, which runs all tasks of the DAG.`);
      changed();
    } catch (error) {
      say(error.status === 403 ? `You may not trigger the DAG ${dag}.` : error.message);
    }
  };
  const buttons = ACTIONS.map((action) => h(Button, { key: action.title, onClick: () => start(action) }, action.title));
  return h("div", { style: { display: "flex", gap: 8, alignItems: "center" } }, ...buttons, h("span", { role: "status" }, said));
}

const Part = ({ title, children }) =>
  h("section", { style: { marginTop: 24 } }, h("h2", { style: { fontSize: "1.1em", fontWeight: 600 } }, title), children);

/** One sync. */
export function SyncView({ name }) {
  const { Link } = globalThis.ReactRouterDOM;
  const [found, error, again] = useLoaded(() => loadSync(name), name);
  const back = h(Link, { to: "/plugin/reverse-etl", style: { color: color("fg-info") } }, "All syncs");
  if (error) return h("div", null, back, h(Problem, { error }));
  if (!found) return h(Muted, null, "Loading …");
  const { sync, events, last, report } = found;
  const commits = events.length
    ? [h(Chart, { key: "chart", events }), h(Runs, { key: "runs", events })]
    : [h(Muted, { key: "none" }, "None yet. A run that failed is not listed here.")];
  const title = { display: "flex", gap: 12, alignItems: "center", margin: "8px 0" };
  return h(
    "div",
    null,
    back,
    h("div", { style: title }, h("strong", { style: { fontSize: "1.3em" } }, name), h(Health, { health: sync.health })),
    sync.dag?.is_paused ? h(Muted, null, `The DAG ${sync.dag.dag_id} is paused: a run waits until it is not.`) : null,
    h(Actions, { sync, changed: again }),
    h(Part, { title: "Last run" }, h(LastRun, { task: last ?? sync.tasks[0], report })),
    h(Part, { title: "Commits" }, ...commits),
    h(Part, { title: "Definition" }, h(Definition, { definition: sync.definition })),
  );
}
