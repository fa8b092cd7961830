// What all views of the page need: elements, requests to Airflow's API, and texts in the user's language.

export const h = (...parts) => globalThis.React.createElement(...parts);

/** The path under which Airflow is served, without a trailing slash. */
const base = () =>
  new URL(document.querySelector("head > base")?.getAttribute("href") ?? "/", location.origin).pathname.replace(/\/$/, "");

/** A colour of Airflow's theme, which follows its light and dark mode. */
export const color = (name) => `var(--chakra-colors-${name})`;

/** An answer of Airflow's API other than a success. */
export class ApiError extends Error {
  constructor(status, detail) {
    super(detail || `Airflow answered ${status}`);
    this.status = status;
  }
}

/** Request a path of Airflow's public API with the user's session; return the JSON of the reply. */
export const api = (path, body) => request(`/api/v2${path}`, body);

/** Request a path below Airflow's own; return the JSON of the reply. */
export async function request(path, body) {
  const init = { headers: { Accept: "application/json" } };
  if (body !== undefined) {
    init.method = "POST";
    init.headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  const reply = await fetch(`${base()}${path}`, init);
  if (reply.status === 401) {
    location.assign(`${base()}/api/v2/auth/login?next=${encodeURIComponent(location.href)}`);
  }
  if (!reply.ok) {
    const found = await reply.json().catch(() => ({}));
    throw new ApiError(reply.status, typeof found.detail === "string" ? found.detail : "");
  }
  return reply.json();
}

/** The language that the user has chosen in Airflow. Airflow 3.1 writes it to its storage only. */
function language() {
  const chosen = globalThis.localStorage?.getItem("i18nextLng") || document.documentElement.lang;
  try {
    return Intl.getCanonicalLocales(chosen)[0];
  } catch {
    return undefined;
  }
}

export const number = (value) => (value == null ? "–" : new Intl.NumberFormat(language()).format(value));

export const time = (text) =>
  text ? new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(text)) : "–";

/** A time in a table, on one line. */
export const when = (text) => (text ? h("time", { dateTime: text, className: "re-time" }, time(text)) : "–");

export const duration = (seconds) => {
  if (seconds == null) return "–";
  const format = (value, unit) =>
    new Intl.NumberFormat(language(), { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: 0 }).format(value);
  if (seconds < 100) return format(seconds, "second");
  return seconds < 6000 ? format(seconds / 60, "minute") : format(seconds / 3600, "hour");
};

/** A number of things, in words. */
export const counted = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

export const link = (to, text, key) =>
  h(globalThis.ReactRouterDOM.Link, { key, to, className: "re-link" }, text);

export const out = (href, text) => h("a", { href, target: "_blank", rel: "noreferrer", className: "re-link" }, text);

/** The address of a sync's page, in the host's router. */
export const syncPath = (name) => `/plugin/reverse-etl/syncs/${encodeURIComponent(name)}`;

/** The address of a task in a run, in the host's router. */
export const taskPath = (dag, run, task) => `/dags/${dag}/runs/${encodeURIComponent(run)}/tasks/${task}`;

const MUTED = { color: color("fg-muted") };

/** The colours of shapes. Each is three times as light or dark as what is behind it, as WCAG asks, in both modes. */
export const SHAPE = { good: "fg-success", bad: "fg-error", warn: "fg-warning", info: "fg-info", plain: "gray-500" };

/** The colour of a text that says what went wrong. In the light mode, "fg-error" is too light for a text. */
export const ERROR = color("red-fg");

const TONES = { ok: "good", failing: "bad", attention: "warn", late: "warn", running: "info" };

/** The health of a sync: a word, and a dot in a colour. */
export function Health({ health }) {
  const background = color(SHAPE[TONES[health] ?? "plain"]);
  return h("span", { className: "re-health" }, h("span", { className: "re-dot", style: { background }, "aria-hidden": true }), health);
}

export const Muted = ({ children }) => h("p", { style: MUTED }, children);

/** The reason why a view cannot be shown. */
export function Problem({ error }) {
  const text = error.status === 403 ? "You may not see this. Ask an administrator for access to the DAGs." : error.message;
  return h("p", { role: "alert", style: { color: ERROR } }, text);
}

/**
 * A table. A row is a list of cells. On a narrow screen, a stacked one has its cells below each other, with their names.
 * The roles are those of a table, which some browsers forget when its parts are no longer laid out as one.
 */
export function Table({ label, columns, rows, stacked }) {
  const head = columns.map((name, at) => h("th", { key: at, scope: "col", role: "columnheader" }, name));
  const part = (cell, column) => h("td", { key: column, role: "cell", "data-name": columns[column] }, cell);
  const line = (cells, at) => h("tr", { key: at, role: "row" }, ...cells.map(part));
  return h(
    "div",
    { className: "re-scroll", tabIndex: 0, role: "region", "aria-label": label },
    h(
      "table",
      { "aria-label": label, role: "table", className: stacked ? "re-stacked" : undefined },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head)),
      h("tbody", { role: "rowgroup" }, ...rows.map(line)),
    ),
  );
}

/** A button. It keeps the focus while it is disabled, so that a keyboard does not lose its place. */
export function Button({ children, onClick, disabled }) {
  const off = disabled ? { "aria-disabled": true } : { onClick };
  return h("button", { type: "button", className: "re-button", ...off }, children);
}

export const Part = ({ title, children }) =>
  h("section", { className: "re-part", "aria-label": title }, h("h2", null, title), children);

/** Styles that need more than an attribute: states, narrow screens. Colours are those of Airflow's theme. */
export const STYLES = `
.re-page { padding: 16px; color: ${color("fg")}; max-width: 100%; }
.re-page h1 { font-size: 1.5em; font-weight: 600; }
.re-page h2 { font-size: 1.1em; font-weight: 600; margin-bottom: 4px; }
.re-page p { margin: 4px 0; }
.re-part { margin-top: 24px; }
.re-link { color: ${color("fg-info")}; text-decoration: underline; text-underline-offset: 2px; }
.re-scroll { overflow-x: auto; }
.re-page table { border-collapse: collapse; width: 100%; }
.re-page th, .re-page td { text-align: start; vertical-align: top; padding: 6px 12px 6px 0; border-bottom: 1px solid ${color("border")}; }
.re-page th { color: ${color("fg-muted")}; font-weight: 500; white-space: nowrap; }
.re-page td { overflow-wrap: break-word; max-width: 32em; }
.re-time { white-space: nowrap; }
.re-row { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 8px 0; }
.re-button, .re-field { border: 1px solid ${color(SHAPE.plain)}; border-radius: 6px; padding: 4px 12px; background: ${color("bg-panel")}; color: ${color("fg")}; }
.re-button:not([aria-disabled]):hover { background: ${color("bg-muted")}; }
.re-button[aria-disabled] { color: ${color("fg-muted")}; cursor: default; border-style: dashed; }
.re-page :focus-visible { outline: 2px solid ${color("fg-info")}; outline-offset: 2px; }
.re-box { border: 1px solid ${color("border-emphasized")}; border-radius: 6px; padding: 12px; margin: 8px 0; background: ${color("bg-subtle")}; }
.re-health { display: inline-flex; align-items: center; gap: 6px; white-space: nowrap; }
.re-field::placeholder { color: ${color("fg-muted")}; opacity: 1; }
.re-dot { width: 10px; height: 10px; border-radius: 5px; display: inline-block; }
@media (max-width: 640px) {
  .re-stacked thead { position: absolute; display: block; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .re-stacked tr { display: block; padding: 6px 0; border-bottom: 1px solid ${color("border")}; }
  .re-page .re-stacked td { display: grid; grid-template-columns: 7em 1fr; gap: 8px; padding: 2px 0; border-bottom: 0; }
  .re-stacked td::before { content: attr(data-name); color: ${color("fg-muted")}; }
  .re-stacked td > * { justify-self: start; }
}
`;

/** Load something when the view opens; returns [what was loaded, error, function that loads again]. */
export function useLoaded(load, key) {
  const { useCallback, useEffect, useState } = globalThis.React;
  const [state, set] = useState({});
  const again = useCallback(() => {
    let open = true;
    load().then(
      (data) => open && set({ data }),
      (error) => open && set({ error }),
    );
    return () => {
      open = false;
    };
  }, [key]);
  useEffect(again, [again]);
  return [state.data, state.error, again];
}
