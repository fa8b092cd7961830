// What is known of syncs, from Airflow's answers. Pure: no request, no element.

/** States of a task that is not over. */
const OPEN = new Set(["scheduled", "queued", "running", "deferred", "up_for_retry", "up_for_reschedule", "restarting"]);

/** The parts of a task id: the group of a sync's tasks, or the task itself. */
const groupOf = (taskId) => (taskId.includes(".") ? taskId.slice(0, taskId.lastIndexOf(".")) : taskId);

/** Return the task instances of a sync in its latest DAG run, of a list in which the latest come first. */
export function latestTasks(producers, tasks) {
  const own = tasks.filter((task) =>
    producers.some((one) => one.dag_id === task.dag_id && groupOf(one.task_id) === groupOf(task.task_id)),
  );
  return own.filter((task) => task.dag_run_id === own[0].dag_run_id && task.dag_id === own[0].dag_id);
}

/** Return the health of a sync: `failing`, `attention`, `running`, `ok` or `never run`. */
export function healthOf(tasks, counts, hasRun) {
  const states = tasks.map((task) => task.state);
  if (states.some((state) => state === "failed")) return "failing";
  if (states.some((state) => state == null || OPEN.has(state))) return "running";
  if (!hasRun) return "never run";
  if (!counts) return "ok";
  const invalid = counts.planned?.invalid ?? 0;
  const open = counts.rejected + counts.unknown + counts.given_up + counts.retryable + invalid;
  return open > 0 || counts.drift?.length ? "attention" : "ok";
}

const ORDER = ["failing", "attention", "running", "never run", "ok"];

/** Join assets, their last events and task instances to syncs, the worst first. */
export function syncsOf(assets, events, tasks, dags) {
  const latest = new Map();
  for (const event of events) {
    if (!latest.has(event.asset_id)) latest.set(event.asset_id, event);
  }
  const known = new Map(dags.map((dag) => [dag.dag_id, dag]));
  const found = assets.map((asset) => {
    const event = latest.get(asset.id);
    const producers = asset.producing_tasks ?? [];
    const own = latestTasks(producers, tasks);
    const last = event?.timestamp ?? asset.last_asset_event?.timestamp;
    return {
      name: asset.extra?.sync ?? asset.name.replace(/^sync\//, ""),
      assetId: asset.id,
      definition: asset.extra ?? {},
      producers,
      dag: known.get(producers[0]?.dag_id),
      counts: event?.extra,
      last,
      tasks: own,
      health: healthOf(own, event?.extra, Boolean(last)),
    };
  });
  return found.sort((a, b) => ORDER.indexOf(a.health) - ORDER.indexOf(b.health) || a.name.localeCompare(b.name));
}

/** Return the destination of a sync, for people. */
export function destinationOf(definition) {
  const to = definition.destination ?? {};
  return [to.type, to.connection, to.object].filter(Boolean).join(" / ");
}

/** Return the syncs that a text and a health let through. */
export function filtered(syncs, text, health) {
  const wanted = text.trim().toLowerCase();
  return syncs.filter((sync) => {
    const words = `${sync.name} ${sync.definition.model} ${destinationOf(sync.definition)} ${sync.producers[0]?.dag_id}`;
    return (!health || sync.health === health) && words.toLowerCase().includes(wanted);
  });
}

/** Return the bars of a chart: one for each event, oldest first, in parts of 1. */
export function bars(events) {
  const counted = events.map((event) => event.extra ?? {}).reverse();
  const most = Math.max(1, ...counted.map((one) => (one.accepted ?? 0) + (one.rejected ?? 0)));
  return counted.map((one) => ({ accepted: (one.accepted ?? 0) / most, rejected: (one.rejected ?? 0) / most }));
}
