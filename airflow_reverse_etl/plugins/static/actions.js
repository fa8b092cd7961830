// What a person can do with a sync, by its own DAG or by a maintenance DAG, and what came of it.

import { api, Button, counted, duration, h, link, Muted, number, out, request, taskPath } from "./kit.js";
import { maintained } from "./syncs.js";

const TASK = "maintain";
/** Milliseconds between two looks at a run. */
const PAUSE = 2000;

const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Return an XCom of a task; undefined without one, or if the user may not see it. */
export async function xcomOf(task, key) {
  const run = encodeURIComponent(task.dag_run_id);
  const path = `/dags/${task.dag_id}/dagRuns/${run}/taskInstances/${task.task_id}/xcomEntries/${key}`;
  const found = await api(`${path}?map_index=${task.map_index ?? -1}`).catch(() => undefined);
  if (typeof found?.value !== "string") return found?.value;
  try {
    return JSON.parse(found.value);
  } catch {
    return found.value;
  }
}

/** Find the maintenance DAG of a sync, what the user may do, and the results of its last actions. */
export async function loadMaintenance(name, dags) {
  const { dags: found } = await api("/dags?tags=reverse_etl_maintenance&limit=50").catch(() => ({ dags: [] }));
  let own;
  for (const dag of found) {
    const details = await api(`/dags/${dag.dag_id}/details`).catch(() => undefined);
    const names = maintained(details?.params);
    if (details && (!names || names.includes(name))) own ??= dag;
  }
  const asked = [...new Set([...dags, ...(own ? [own.dag_id] : [])])];
  const query = asked.map((dag) => `dag_id=${encodeURIComponent(dag)}`).join("&");
  const rights = asked.length ? await request(`/reverse-etl/page/rights?${query}`).catch(() => undefined) : undefined;
  const may = rights ?? { edit: [], trigger: [] };
  const results = own ? await resultsOf(own.dag_id, name) : {};
  const all = own && [own.dag_id, ...dags].every((dag) => may.edit.includes(dag)) && may.trigger.includes(own.dag_id);
  return { dag: own, may, allowed: Boolean(all), results };
}

/** Return the last result of a preview and of a list of rejected rows. */
async function resultsOf(dag, name) {
  const { dag_runs: runs } = await api(`/dags/${dag}/dagRuns?run_type=manual&order_by=-run_after&limit=50`).catch(() => ({ dag_runs: [] }));
  const results = {};
  for (const action of ["preview", "rejected"]) {
    const run = runs.find((one) => one.state === "success" && one.conf?.sync === name && one.conf?.action === action);
    if (!run) continue;
    const value = await xcomOf({ dag_id: dag, dag_run_id: run.dag_run_id, task_id: TASK }, "return_value");
    if (value) results[action] = { ...value, at: run.end_date };
  }
  return results;
}

/** Trigger a run, and look at it until it is over. */
async function follow(dag, conf, note, say) {
  const run = await api(`/dags/${dag}/dagRuns`, { logical_date: null, conf, note });
  const started = Date.now();
  for (let state = run.state; ; ) {
    if (state === "success" || state === "failed") return { ...run, state, seconds: (Date.now() - started) / 1000 };
    say({ dag, run, state, seconds: (Date.now() - started) / 1000 });
    await wait(PAUSE);
    state = (await api(`/dags/${dag}/dagRuns/${encodeURIComponent(run.dag_run_id)}`)).state;
  }
}

/** Do an action by the maintenance DAG; return its result, or throw with the task's own error. */
export async function maintain(dag, conf, say) {
  const run = await follow(dag, conf, `${conf.action} of ${conf.sync}, from the Reverse ETL page`, say);
  const task = { dag_id: dag, dag_run_id: run.dag_run_id, task_id: TASK };
  const [value, error] = await Promise.all([xcomOf(task, "return_value"), xcomOf(task, "error")]);
  if (run.state === "failed") throw Object.assign(new Error(error || "The run failed. Its log says why."), { task });
  return { value, task, seconds: run.seconds };
}

const MAINTENANCE = [
  { action: "preview", title: "Preview", about: "Plans, and sends nothing." },
  { action: "full_resync", title: "Full resync", about: "Sends every valid row again." },
  { action: "reset", title: "Reset", about: "Records every valid row as delivered, and sends nothing." },
];
const GUARDS = ["max_removed", "max_changes", "min_rows"];

/** Return the result of an action, in words. */
function resultText(value) {
  if (value?.report) {
    const { accepted, rejected, planned } = value.report;
    return `${counted(accepted, "row", "rows")} accepted, ${number(rejected)} rejected, ${number(planned?.invalid ?? 0)} invalid.`;
  }
  if (value?.plan) return `${counted(value.plan.total, "row", "rows")} would be sent. The plan is below.`;
  if (value?.changed != null) return `${counted(value.changed, "rejection", "rejections")} changed.`;
  if (value?.rows) return `${counted(value.total, "rejected row", "rejected rows")} listed below.`;
  return "Done.";
}

function Status({ said }) {
  if (!said) return null;
  if (said.error) {
    const { error } = said;
    const text = error.status === 403 ? "Airflow does not allow it: ask for the right to trigger the DAG." : error.message;
    const log = error.task ? [" ", link(taskPath(error.task.dag_id, error.task.dag_run_id, error.task.task_id), "Its log", "log")] : [];
    return h("p", { role: "alert", style: { whiteSpace: "pre-line" } }, text, ...log);
  }
  if (said.done) return h("p", null, `${said.title}: ${said.text}${said.seconds ? ` It took ${duration(said.seconds)}.` : ""}`);
  const run = link(`/dags/${said.dag}/runs/${encodeURIComponent(said.run.dag_run_id)}`, said.run.dag_run_id);
  const slow = said.seconds > 30 && said.state === "queued" ? " Is the scheduler at work, and the DAG not paused?" : "";
  return h("p", null, `${said.title}: ${said.state} for ${duration(said.seconds)}, `, run, `.${slow}`);
}

function Confirm({ asked, yes, no }) {
  const { useEffect, useRef } = globalThis.React;
  const box = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    box.current.querySelector("button").focus();
    // A keyboard goes on where it was.
    return () => before.focus();
  }, [asked]);
  const onKeyDown = (event) => event.key === "Escape" && no();
  return h(
    "div",
    { ref: box, role: "alertdialog", "aria-label": asked.title, className: "re-box", onKeyDown },
    h("p", null, h("strong", null, asked.title), `: ${asked.about}`),
    h("div", { className: "re-row" }, h(Button, { onClick: yes }, asked.title), h(Button, { onClick: no }, "Cancel")),
  );
}

/** Buttons of a sync. `told` receives results of the maintenance DAG. */
export function Actions({ sync, maintenance, told, changed }) {
  const { useState } = globalThis.React;
  const [said, say] = useState();
  const [asked, ask] = useState();
  const [guard, setGuard] = useState("max_removed");
  const [busy, setBusy] = useState(false);
  const dag = sync.producers[0]?.dag_id;
  const { may, allowed } = maintenance;

  const act = async (title, work) => {
    ask(undefined);
    setBusy(true);
    try {
      const found = await work((state) => say({ ...state, title }));
      say({ done: true, title, text: found.text, seconds: found.seconds });
      changed();
    } catch (error) {
      say({ error });
    }
    setBusy(false);
  };
  const run = () =>
    act("Run now", async (report) => {
      const found = await follow(dag, { reverse_etl: { [sync.name]: {} } }, "Run now, from the Reverse ETL page", report);
      return { text: `the DAG ${dag} ended with ${found.state}.`, seconds: found.seconds };
    });
  const repair = (title, conf) =>
    act(title, async (report) => {
      const { value, seconds } = await maintain(maintenance.dag.dag_id, { sync: sync.name, ...conf }, report);
      told(value);
      return { text: resultText(value), seconds };
    });

  // A person approves each plan of the sync in its own DAG, which no maintenance run may evade.
  const approved = (title, conf) =>
    act(title, async () => {
      await api(`/dags/${dag}/dagRuns`, { logical_date: null, conf: { reverse_etl: { [sync.name]: conf } }, note: `${title}, from the Reverse ETL page` });
      return { text: `the DAG ${dag} has begun, and a person approves its plan.`, seconds: 0 };
    });
  const options = { full_resync: { full_resync: true }, reset: { reset: true }, lift_guards: { lift_guards: [guard] } };
  const decide = ({ title, conf }) => (sync.isApproved ? approved(title, options[conf.action]) : repair(title, conf));

  const later = { title: `Run without ${guard}`, about: "Sends the changes, although this guard would stop them. Once.", conf: { action: "lift_guards", guards: [guard] } };
  const choose = (one) => (one.action === "preview" ? repair(one.title, { action: one.action }) : ask({ ...one, conf: { action: one.action } }));
  const onGuard = (event) => setGuard(event.target.value);
  const buttons = [
    may.trigger.includes(dag) ? h(Button, { key: "run", onClick: run, disabled: busy }, "Run now") : null,
    ...(allowed ? MAINTENANCE.map((one) => h(Button, { key: one.action, onClick: () => choose(one), disabled: busy }, one.title)) : []),
    allowed ? h(Button, { key: "guard", onClick: () => ask(later), disabled: busy }, "Run without guard") : null,
    allowed
      ? h("select", { key: "which", "aria-label": "Guard to lift", value: guard, onChange: onGuard, className: "re-field" }, GUARDS.map((name) => h("option", { key: name, value: name }, name)))
      : null,
  ];
  return h(
    "div",
    null,
    h("div", { className: "re-row" }, ...buttons, sync.recordsUrl ? out(sync.recordsUrl, "Records at the destination") : null),
    allowed ? null : h(Muted, null, notAllowed(maintenance, dag)),
    maintenance.dag?.is_paused && allowed ? h(Muted, null, `The DAG ${maintenance.dag.dag_id} is paused: its actions wait until it is not.`) : null,
    asked ? h(Confirm, { asked, yes: () => decide(asked), no: () => ask(undefined) }) : null,
    h("div", { role: "status" }, h(Status, { said })),
  );
}

/** Return why a user sees no actions. */
function notAllowed({ dag, may }, own) {
  if (!dag) return "A DAG file with reverse_etl_maintenance_dag() brings more actions: full resync, reset, preview, rejected rows.";
  const missing = [own, dag.dag_id].filter((name) => name && !may.edit.includes(name));
  return missing.length ? `More actions need the right to edit ${missing.join(" and ")}.` : `More actions need the right to trigger ${dag.dag_id}.`;
}
