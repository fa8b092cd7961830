// The page "Reverse ETL": Airflow's host imports this module and shows the global that it sets.

import { h, STYLES } from "./kit.js";
import { Syncs } from "./list.js";
import { SyncView } from "./sync.js";

function Page() {
  const { useLocation } = globalThis.ReactRouterDOM;
  const [, , view, name] = useLocation().pathname.split("/plugin")[1]?.split("/") ?? [];
  const shown = view === "syncs" && name ? h(SyncView, { key: name, name: decodeURIComponent(name) }) : h(Syncs);
  return h("main", { className: "re-page" }, h("style", null, STYLES), h("h1", null, "Reverse ETL"), shown);
}

globalThis["Reverse ETL"] = Page;
