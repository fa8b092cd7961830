// The view of all syncs.

import { api, color, h, Health, Muted, number, Problem, Table, time, useLoaded } from "./kit.js";
import { destinationOf, filtered, syncsOf } from "./syncs.js";

/** Operators whose tasks belong to syncs. */
const OPERATORS = ["", "Plan", "Remove", "Load", "Commit"].map((step) => `operator=ReverseEtl${step}Operator`).join("&");
/** Airflow gives at most so many things an answer. */
const PAGE = 100;

async function allAssets() {
  const found = [];
  for (let offset = 0; ; offset += PAGE) {
    const query = `name_pattern=${encodeURIComponent("sync/%")}&order_by=name&limit=${PAGE}&offset=${offset}`;
    const { assets, total_entries: total } = await api(`/assets?${query}`);
    found.push(...assets.filter((asset) => asset.group === "reverse_etl_sync"));
    if (offset + PAGE >= total) return found;
  }
}

export async function loadSyncs() {
  const [assets, events, tasks, dags] = await Promise.all([
    allAssets(),
    api(`/assets/events?order_by=-timestamp&limit=${PAGE}`),
    api(`/dags/~/dagRuns/~/taskInstances?${OPERATORS}&order_by=-run_after&limit=${PAGE}`),
    api(`/dags?limit=${PAGE}`),
  ]);
  return syncsOf(assets, events.asset_events, tasks.task_instances, dags.dags);
}

const FIELD = { padding: "4px 8px", border: `1px solid ${color("border")}`, borderRadius: 6, background: color("bg") };

function Filters({ text, setText, health, setHealth, healths }) {
  const option = (name) => h("option", { key: name, value: name }, name || "any health");
  return h(
    "div",
    { style: { display: "flex", flexWrap: "wrap", gap: 8, margin: "12px 0" } },
    h("input", {
      type: "search",
      "aria-label": "Search syncs",
      placeholder: "Search by sync, model, destination or DAG",
      value: text,
      onChange: (event) => setText(event.target.value),
      style: { ...FIELD, flex: "1 1 12em" },
    }),
    h(
      "select",
      { "aria-label": "Health", value: health, onChange: (event) => setHealth(event.target.value), style: FIELD },
      ["", ...healths].map(option),
    ),
  );
}

const COLUMNS = ["Sync", "Health", "Last commit", "Accepted", "Rejected", "Model", "Destination", "Next run"];

function rowOf(sync) {
  const { Link } = globalThis.ReactRouterDOM;
  const next = sync.dag?.is_paused ? "paused" : time(sync.dag?.next_dagrun_run_after);
  return [
    h(Link, { to: `/plugin/reverse-etl/syncs/${encodeURIComponent(sync.name)}`, style: { color: color("fg-info") } }, sync.name),
    h(Health, { health: sync.health }),
    time(sync.last),
    number(sync.counts?.accepted),
    number(sync.counts?.rejected),
    sync.definition.model,
    destinationOf(sync.definition),
    next,
  ];
}

/** All syncs, the worst first. */
export function Syncs() {
  const { useState } = globalThis.React;
  const [text, setText] = useState("");
  const [health, setHealth] = useState("");
  const [syncs, error] = useLoaded(loadSyncs, "syncs");
  if (error) return h(Problem, { error });
  if (!syncs) return h(Muted, null, "Loading syncs …");
  if (!syncs.length) {
    return h(Muted, null, "No DAG has a sync yet. A ReverseEtlOperator, or reverse_etl(), in a DAG makes one appear here.");
  }
  const shown = filtered(syncs, text, health);
  const healths = [...new Set(syncs.map((sync) => sync.health))];
  return h(
    "section",
    null,
    h(Filters, { text, setText, health, setHealth, healths }),
    h(Muted, null, `${number(shown.length)} of ${number(syncs.length)} syncs`),
    h(Table, { label: "Syncs", columns: COLUMNS, rows: shown.map(rowOf) }),
  );
}
