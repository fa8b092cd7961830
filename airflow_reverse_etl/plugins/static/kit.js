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
export async function api(path, body) {
  const init = { headers: { Accept: "application/json" } };
  if (body !== undefined) {
    init.method = "POST";
    init.headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  const reply = await fetch(`${base()}/api/v2${path}`, init);
  if (reply.status === 401) {
    location.assign(`${base()}/api/v2/auth/login?next=${encodeURIComponent(location.href)}`);
  }
  if (!reply.ok) {
    const found = await reply.json().catch(() => ({}));
    throw new ApiError(reply.status, typeof found.detail === "string" ? found.detail : "");
  }
  return reply.json();
}

const language = () => document.documentElement.lang || undefined;

export const number = (value) => (value == null ? "–" : new Intl.NumberFormat(language()).format(value));

export const time = (text) =>
  text ? new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(text)) : "–";

const MUTED = { color: color("fg-muted") };

/** The health of a sync: a word in a colour. */
export function Health({ health }) {
  const colors = { ok: "green", failing: "red", attention: "orange", running: "blue" };
  const tone = colors[health];
  const style = {
    border: `1px solid ${tone ? color(`${tone}-solid`) : color("border")}`,
    borderRadius: 12,
    padding: "1px 10px",
    whiteSpace: "nowrap",
  };
  return h("span", { style }, health);
}

export const Muted = ({ children }) => h("p", { style: MUTED }, children);

/** The reason why a view cannot be shown. */
export function Problem({ error }) {
  const text = error.status === 403 ? "You may not see this. Ask an administrator for access to the DAGs." : error.message;
  return h("p", { role: "alert", style: { color: color("fg-error") } }, text);
}

const CELL = { textAlign: "start", verticalAlign: "top", minWidth: "5em", padding: "6px 12px", borderBottom: `1px solid ${color("border")}` };

/** A table. A row is a list of cells. */
export function Table({ label, columns, rows }) {
  const head = columns.map((name) => h("th", { key: name, scope: "col", style: { ...CELL, ...MUTED } }, name));
  const line = (cells, at) =>
    h("tr", { key: at }, ...cells.map((cell, column) => h("td", { key: column, style: CELL }, cell)));
  return h(
    "div",
    { style: { overflowX: "auto" } },
    h(
      "table",
      { "aria-label": label, style: { borderCollapse: "collapse", width: "100%" } },
      h("thead", null, h("tr", null, ...head)),
      h("tbody", null, ...rows.map(line)),
    ),
  );
}

export function Button({ children, onClick, disabled }) {
  const style = {
    border: `1px solid ${color("border")}`,
    borderRadius: 6,
    padding: "4px 12px",
    background: color("bg-panel"),
    cursor: disabled ? "default" : "pointer",
    opacity: disabled ? 0.5 : 1,
  };
  return h("button", { type: "button", onClick, disabled, style }, children);
}

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
