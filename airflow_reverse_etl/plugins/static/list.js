// The view of all syncs.

import { api, Button, h, Health, link, Muted, number, Problem, syncPath, Table, when } from "./kit.js";
import { destinationOf, filtered, syncsOf } from "./syncs.js";

/** Operators whose tasks belong to syncs. */
const STEPS = ["ReverseEtl", "ReverseEtlPlan", "PlanApproval", "ReverseEtlRemove", "ReverseEtlLoad", "ReverseEtlCommit"];
export const OPERATORS = STEPS.map((step) => `operator=${step}Operator`).join("&");
/** Airflow gives at most so many things an answer. */
export const PAGE = 100;
/** Most answers that are asked of one kind. */
const MOST_PAGES = 30;
/** Rows that are drawn at a time. */
const DRAWN = 50;

/** Yield the items of a list, one answer after the other. */
async function* pages(path, name) {
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const found = await api(`${path}&limit=${PAGE}&offset=${page * PAGE}`);
    yield found[name];
    if ((page + 1) * PAGE >= found.total_entries) return;
  }
}

/** Load all syncs; report what is known so far after each answer. */
export async function loadSyncs(report) {
  const kinds = {
    assets: pages(`/assets?name_pattern=${encodeURIComponent("sync/%")}&order_by=name`, "assets"),
    events: pages("/assets/events?order_by=-timestamp", "asset_events"),
    tasks: pages(`/dags/~/dagRuns/~/taskInstances?${OPERATORS}&order_by=-run_after`, "task_instances"),
    dags: pages("/dags?order_by=dag_id", "dags"),
  };
  const found = { assets: [], events: [], tasks: [], dags: [] };
  const open = new Set(Object.keys(kinds));
  while (open.size) {
    // An answer of each kind at a time, so that the first ones draw the page.
    await Promise.all(
      [...open].map(async (kind) => {
        const { value, done } = await kinds[kind].next();
        if (done) open.delete(kind);
        else found[kind].push(...value);
      }),
    );
    const assets = found.assets.filter((asset) => asset.group === "reverse_etl_sync");
    // The last events and tasks of all syncs are enough.
    if (!open.has("assets")) {
      const seen = new Set(found.events.map((event) => event.asset_id));
      if (assets.every((asset) => !asset.last_asset_event?.timestamp || seen.has(asset.id))) open.delete("events");
      if (found.tasks.length >= 3 * assets.length) open.delete("tasks");
    }
    report(syncsOf(assets, found.events, found.tasks, found.dags), open.size > 0);
  }
}

function Select({ label, value, set, options }) {
  const option = (name) => h("option", { key: name, value: name }, name || `any ${label}`);
  const onChange = (event) => set(event.target.value);
  return h("select", { "aria-label": `Filter by ${label}`, value, onChange, className: "re-field" }, ["", ...options].map(option));
}

const distinct = (values) => [...new Set(values.filter(Boolean))].sort();

const COLUMNS = [
  "Sync",
  "Health",
  "Last commit",
  "Accepted",
  "Rejected",
  "Given up",
  "Next run",
  "Model",
  "Source",
  "Destination",
];

function rowOf(sync) {
  const next = sync.dag?.is_paused ? "paused" : when(sync.dag?.next_dagrun_run_after);
  return [
    link(syncPath(sync.name), sync.name),
    h(Health, { health: sync.health }),
    when(sync.last),
    number(sync.counts?.accepted),
    number(sync.counts?.rejected),
    number(sync.counts?.given_up),
    next,
    sync.definition.model,
    sync.definition.source,
    destinationOf(sync.definition),
  ];
}

const NONE = "No DAG that you may see has a sync. A ReverseEtlOperator, or reverse_etl(), in a DAG makes one appear here.";

/** All syncs, the worst first. */
export function Syncs() {
  const { useEffect, useState } = globalThis.React;
  const [text, setText] = useState("");
  const [health, setHealth] = useState("");
  const [type, setType] = useState("");
  const [dag, setDag] = useState("");
  const [most, setMost] = useState(DRAWN);
  const [{ syncs, loading, error }, set] = useState({});
  useEffect(() => {
    let here = true;
    const report = (found, more) => here && set({ syncs: found, loading: more });
    loadSyncs(report).catch((problem) => here && set((before) => ({ ...before, loading: false, error: problem })));
    return () => {
      here = false;
    };
  }, []);
  if (error && !syncs) return h(Problem, { error });
  if (!syncs || (loading && !syncs.length)) return h("p", { role: "status" }, "Loading syncs …");
  if (!syncs.length) return h(Muted, null, NONE);
  const shown = filtered(syncs, text, health, type, dag);
  const search = h("input", {
    type: "search",
    "aria-label": "Search syncs",
    placeholder: "Search by sync, model, destination or DAG",
    value: text,
    onChange: (event) => setText(event.target.value),
    className: "re-field",
    style: { flex: "1 1 14em" },
  });
  const healths = distinct(syncs.map((sync) => sync.health));
  const types = distinct(syncs.map((sync) => sync.definition.destination?.type));
  const dags = distinct(syncs.map((sync) => sync.producers[0]?.dag_id));
  return h(
    "section",
    null,
    h(
      "div",
      { className: "re-row" },
      search,
      h(Select, { label: "health", value: health, set: setHealth, options: healths }),
      h(Select, { label: "destination", value: type, set: setType, options: types }),
      h(Select, { label: "DAG", value: dag, set: setDag, options: dags }),
    ),
    h("p", { role: "status" }, `${number(shown.length)} of ${number(syncs.length)} syncs${loading ? ", loading more …" : ""}`),
    error ? h(Problem, { error }) : null,
    shown.length
      ? h(Table, { label: "Syncs", columns: COLUMNS, rows: shown.slice(0, most).map(rowOf) })
      : h(Muted, null, "No sync fits the filters."),
    shown.length > most
      ? h("div", { className: "re-row" }, h(Button, { onClick: () => setMost(most + DRAWN) }, `Show ${number(Math.min(DRAWN, shown.length - most))} more`))
      : null,
  );
}
