// The page "Reverse ETL": Airflow's host imports this module and shows the global that it sets.

import { color, h } from "./kit.js";
import { Syncs } from "./list.js";
import { SyncView } from "./sync.js";

function Page() {
  const { useLocation } = globalThis.ReactRouterDOM;
  const [, , view, name] = useLocation().pathname.split("/plugin")[1]?.split("/") ?? [];
  const shown = view === "syncs" && name ? h(SyncView, { key: name, name: decodeURIComponent(name) }) : h(Syncs);
  return h(
    "main",
    { style: { padding: 16, color: color("fg") } },
    h("h1", { style: { fontSize: "1.5em", fontWeight: 600 } }, "Reverse ETL"),
    shown,
  );
}

globalThis["Reverse ETL"] = Page;
