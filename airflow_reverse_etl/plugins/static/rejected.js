// The rejected rows of a sync, and what can be done with some or all of them.

import { maintain } from "./actions.js";
import { Button, counted, duration, h, Muted, number, Problem, Table, time, when } from "./kit.js";

const isOlder = (listed, ended) => Boolean(listed?.at && ended) && new Date(listed.at) < new Date(ended);

/** Rejected and given-up rows, as the maintenance DAG has listed them. */
export function Rejected({ sync, maintenance, listed, ended, told }) {
  const { useState } = globalThis.React;
  const [chosen, choose] = useState(new Set());
  const [state, set] = useState({});
  const { dag, allowed } = maintenance;

  const act = async (conf) => {
    set({ busy: true });
    try {
      const started = Date.now();
      const run = (more) => maintain(dag.dag_id, { sync: sync.name, ...more }, ({ seconds }) => set({ busy: true, seconds }));
      const done = conf.action === "rejected" ? undefined : (await run(conf)).value;
      const { value } = await run({ action: "rejected" });
      choose(new Set());
      told({ ...value, at: new Date().toISOString() });
      const text = done ? `${counted(done.changed, "rejection", "rejections")} ${conf.action === "release" ? "released" : "dismissed"}` : "Listed";
      set({ text: `${text} in ${duration((Date.now() - started) / 1000)}.` });
    } catch (error) {
      set({ error });
    }
  };

  const rows = listed?.rows ?? [];
  const some = [...chosen];
  const button = (title, conf, disabled) => h(Button, { key: title, onClick: () => act(conf), disabled: state.busy || disabled }, title);
  const buttons = [button(listed ? "List again" : "List rejected rows", { action: "rejected" }, false)];
  if (rows.length) {
    buttons.push(
      button(`Release ${number(some.length)} chosen`, { action: "release", records: some }, !some.length),
      button(`Dismiss ${number(some.length)} chosen`, { action: "dismiss", records: some }, !some.length),
      button("Release all", { action: "release", every_record: true }, false),
      button("Dismiss all", { action: "dismiss", every_record: true }, false),
    );
  }
  const status = state.busy ? `At work${state.seconds ? ` for ${duration(state.seconds)}` : ""} …` : state.text;
  return h(
    "div",
    null,
    allowed ? h("div", { className: "re-row" }, ...buttons) : null,
    allowed ? null : h(Muted, null, "Lists and changes of rejected rows need the right to edit the sync's DAG and a maintenance DAG."),
    h("p", { role: "status" }, status ?? ""),
    state.error ? h(Problem, { error: state.error }) : null,
    isOlder(listed, ended) ? h(Muted, null, "The sync has run since this list was made.") : null,
    listed ? h(Rows, { listed, allowed, chosen, choose }) : allowed ? h(Muted, null, "Not listed yet.") : null,
  );
}

function Rows({ listed, allowed, chosen, choose }) {
  if (!listed.rows.length) return h(Muted, null, `No rejected row, at ${time(listed.at)}.`);
  const withKeys = allowed && listed.rows.some((row) => row.key != null);
  const toggle = (record) => {
    const next = new Set(chosen);
    if (!next.delete(record)) next.add(record);
    choose(next);
  };
  const lines = listed.rows.map((row) => {
    const name = `${row.outcome} row ${withKeys ? row.key : row.record.slice(0, 8)}`;
    const box = h("input", { type: "checkbox", "aria-label": `Choose ${name}`, checked: chosen.has(row.record), onChange: () => toggle(row.record) });
    const cells = [row.outcome, row.code || "–", row.message || "–", row.change, number(row.attempts), when(row.first_seen), when(row.last_seen)];
    return [...(allowed ? [box] : []), withKeys ? row.key : h("code", { title: row.record }, row.record.slice(0, 8)), ...cells];
  });
  const columns = [...(allowed ? ["Choose"] : []), withKeys ? "Key" : "Record", "Outcome", "Code", "The destination's own words", "Change", "Attempts", "First seen", "Last seen"];
  const shown = listed.rows.length < listed.total ? `The first ${number(listed.rows.length)} of ${number(listed.total)} rows` : counted(listed.total, "row", "rows");
  return h("div", null, h(Muted, null, `${shown}, at ${time(listed.at)}.`), h(Table, { label: "Rejected rows", stacked: true, columns, rows: lines }));
}
