// Catalogue health: lists of what a merchandiser should look at, each with an export.

import { get } from "./api.js";
import { openFull } from "./search.js";
import { altOf, empty, failure, h, humane, icon, latest, numbered, waiting } from "./ui.js";

const PAGE = 50;
const MOST = 1000; // rows that the server sends
const AGAIN = 700; // ms until a list that is being computed is asked for again
let app, state, nodes;

export async function render(root, values, given) {
  app = given;
  state = { ...values };
  nodes = { lists: h("nav", { class: "lists", "aria-label": "Lists" }), out: h("section", { "aria-live": "polite" }) };
  root.replaceChildren(h("div", { class: "view" },
    h("div", { class: "view-head" }, h("div", {}, h("h1", {}, "Catalogue health"), h("p", {}, "What the embeddings say about the catalogue's own data. Each list is a suggestion to look, most suspicious first."))),
    h("div", { class: "columns" }, nodes.lists, nodes.out)));
  try {
    const { lists } = await get("catalogue-health");
    if (!lists.some(({ name }) => name === state.list)) state.list = lists[0].name;
    nodes.lists.replaceChildren(...lists.map((list) => h("button", { type: "button", "aria-pressed": list.name === state.list,
      onclick: () => app.show("health", { list: list.name }) },
      h("span", {}, list.title, list.total === null ? null : h("b", {}, numbered(list.total))), h("span", {}, list.description))));
    nodes.lists.querySelector("[aria-pressed=true]").scrollIntoView({ block: "nearest", inline: "nearest" });
    load(lists.find(({ name }) => name === state.list));
  } catch (error) {
    nodes.out.replaceChildren(failure(error));
  }
}

const load = latest(async (signal, list) => {
  const limit = Math.min(Number(state.limit) || PAGE, MOST);
  nodes.out.replaceChildren(waiting(`${list.title} …`));
  try {
    for (;;) {
      const answer = await get(`catalogue-health/${list.name}?limit=${limit}`, signal);
      if (signal.aborted) return;
      if (answer.status === "ready") return show(list, answer, limit);
      await new Promise((done) => setTimeout(done, AGAIN));
    }
  } catch (error) {
    if (error.name !== "AbortError") nodes.out.replaceChildren(failure(error));
  }
});

function show(list, answer, limit) {
  const count = nodes.lists.querySelector("[aria-pressed=true] > span:first-child");
  count.querySelector("b")?.remove();
  count.append(h("b", {}, numbered(answer.total)));
  const head = h("div", { class: "summary" }, h("span", {}, h("strong", {}, numbered(answer.total)), ` ${answer.total === 1 ? "entry" : "entries"}`),
    h("a", { class: "button", href: `catalogue-health/${list.name}.csv`, download: `${list.name}.csv` }, icon("download"), "Export CSV"));
  if (!answer.total) {
    nodes.out.replaceChildren(head, empty("health", "Nothing to report", "This list is empty for the current version of the index."));
    return;
  }
  const numeric = (column) => answer.rows.some((row) => typeof row[column] === "number");
  nodes.out.replaceChildren(head, h("div", { class: "table-wrap" }, h("table", { class: "rows" },
    h("thead", {}, h("tr", {}, answer.photos.map(() => h("th", {}, h("span", { class: "sr" }, "Photo"))), answer.columns.map((column) => h("th", { scope: "col", class: numeric(column) ? "number" : "" }, humane(column))))),
    h("tbody", {}, answer.rows.map((row) => h("tr", {}, answer.photos.map((name) => h("td", {}, thumb(row[`${name}_product`]))),
      answer.columns.map((column) => h("td", { class: typeof row[column] === "number" ? "number" : "" }, shown(row[column])))))))),
    answer.rows.length < answer.total && limit < MOST ? h("div", { class: "more" }, h("button", { class: "button", type: "button",
      onclick: () => app.show("health", { list: list.name, limit: limit + PAGE }, false) }, "Show more")) : "");
}

function thumb(product) {
  if (!product) return "";
  return h("button", { class: "thumb-button", type: "button", "aria-label": `Open ${altOf(product)}`, onclick: () => openFull(product) },
    h("img", { class: "thumb", src: product.image, alt: altOf(product), loading: "lazy" }));
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number" && !Number.isInteger(value)) return value.toFixed(3);
  return Array.isArray(value) ? value.join(", ") : String(value);
}
