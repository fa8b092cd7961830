// The picture of a sync: from the repository over dbt's models to the destination, as SVG.

import { color, h, Muted, SHAPE } from "./kit.js";
import { pictureOf } from "./syncs.js";

const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function Box({ box, href }) {
  const kinds = { sync: "info", destination: "good" };
  const stroke = color(SHAPE[box.tone ?? kinds[box.kind] ?? "plain"]);
  const shape = h("rect", { x: box.x + 1, y: box.y + 1, width: box.width - 2, height: box.height - 2, rx: 6, fill: color("bg-panel"), stroke, strokeWidth: 1.5 });
  const title = h("text", { x: box.x + 10, y: box.y + 20, fill: color("fg"), style: { fontSize: 13, fontWeight: 600 } }, shortened(box.title ?? "", 21));
  const text = h("text", { x: box.x + 10, y: box.y + 37, fill: color("fg-muted"), style: { fontSize: 11 } }, shortened(box.text ?? "", 29));
  const parts = [h("title", { key: "name" }, `${box.title}: ${box.text}`), shape, title, text];
  if (!href) return h("g", null, ...parts);
  const outside = /^https?:/.test(href);
  const props = { href, "aria-label": `${box.kind} ${box.title}`, ...(outside ? { target: "_blank", rel: "noreferrer" } : {}) };
  return h("a", props, ...parts);
}

function Arrow({ from, to }) {
  const x1 = from.x + from.width;
  const y1 = from.y + from.height / 2;
  const x2 = to.x - 3;
  const y2 = to.y + to.height / 2;
  const middle = (x1 + x2) / 2;
  const d = `M ${x1} ${y1} C ${middle} ${y1}, ${middle} ${y2}, ${x2} ${y2}`;
  return h("path", { d, fill: "none", stroke: color("fg-muted"), strokeWidth: 1.5, markerEnd: "url(#re-arrow)" });
}

/** Return a model's file on the web, at a commit; undefined if it has none. */
export function fileUrl(picture, node) {
  const root = commitUrl(picture.repository);
  if (!root || !picture.commit || !node.path) return undefined;
  const folder = picture.project_path && picture.project_path !== "." ? `${picture.project_path}/` : "";
  return `${root}/blob/${picture.commit}/${folder}${node.path}`;
}

/** Return a repository's address on the web, at a commit if there is one; undefined if it has none. */
export function commitUrl(repository, commit) {
  const found = /^(?:https:\/\/(?:[^@/]*@)?|(?:ssh:\/\/)?git@)([^/:]+)[/:](.+?)(?:\.git)?$/.exec(repository ?? "");
  if (!found) return undefined;
  return `https://${found[1]}/${found[2]}${commit ? `/commit/${commit}` : ""}`;
}

/** Where a row of the sync comes from, and where it goes. */
export function Picture({ sync, picture, links }) {
  const { boxes, edges, width, height } = pictureOf(sync, picture);
  const places = new Map(boxes.map((box) => [box.id, box]));
  const drawn = edges.filter(([from, to]) => places.has(from) && places.has(to));
  const arrow = h("marker", { key: "arrow", id: "re-arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, h("path", { d: "M 0 0 L 8 4 L 0 8 z", fill: color("fg-muted") }));
  const names = boxes.map((box) => box.title).join(", then ");
  return h(
    "div",
    { className: "re-scroll", tabIndex: 0, role: "region", "aria-label": "Picture" },
    h(
      "svg",
      { role: "group", "aria-label": `From the model to the destination: ${names}`, width, height, viewBox: `0 0 ${width} ${height}`, style: { maxWidth: "none" } },
      h("defs", null, arrow),
      ...drawn.map(([from, to], at) => h(Arrow, { key: `arrow${at}`, from: places.get(from), to: places.get(to) })),
      ...boxes.map((box) => h(Box, { key: box.id, box, href: links[box.id] ?? links[box.kind] })),
    ),
    picture?.nodes ? null : h(Muted, null, "The models upstream appear after the next run, if the sync has a dbt catalog."),
  );
}
