// Compare: two indexes (of two models) side by side on a query, and blind over a file of queries.

import { post } from "./api.js";
import { card, scaleOf } from "./product.js";
import { openFull } from "./search.js";
import { write } from "./state.js";
import { empty, failure, h, icon, latest, lines, notify, numbered, waiting } from "./ui.js";

let app, state, nodes;
let session = null; // {file, answer, at, picked: [Set per query]}; outlives a change of the tab

export function render(root, values, given) {
  app = given;
  state = { ...values };
  const out = h("div", {});
  nodes = { out };
  const judging = state.of === "file";
  const switched = (of) => () => app.show("compare", { of });
  root.replaceChildren(h("div", { class: "view" },
    h("div", { class: "view-head" },
      h("div", {}, h("h1", {}, "Compare"), h("p", {}, judging
        ? "Blind: the results of both models are interleaved (team draft), you mark what fits, and only the end says whose they were."
        : "Two models side by side on one query. What both found is marked.")),
      h("div", { class: "segmented", role: "group", "aria-label": "What to compare on" },
        h("button", { type: "button", "aria-pressed": !judging, onclick: switched("") }, "One query"),
        h("button", { type: "button", "aria-pressed": judging, onclick: switched("file") }, "A query file"))),
    out));
  if (!app.catalogue.indexes.compare) {
    out.replaceChildren(h("div", { class: "empty" }, icon("compare"), h("h2", {}, "One index is served"),
      h("p", {}, "Start the server with a second one to compare: ", h("code", {}, "modiste serve index=A compare=B"))));
  } else if (judging) {
    session ? judge() : fileForm();
  } else {
    sideBySide();
  }
}

function sideBySide() {
  const { main, compare } = app.catalogue.indexes;
  const input = h("input", { type: "search", value: state.q || "", "aria-label": "Query for both", placeholder: "A query for both", oninput: () => run() });
  const place = h("div", {});
  nodes.out.replaceChildren(h("form", { class: "search", onsubmit: (event) => event.preventDefault() }, h("div", { class: "search-box" }, icon("search"), input)), place);
  nodes.input = input;
  const run = latest(async (signal) => {
    state.q = input.value;
    write(state);
    if (!input.value.trim()) return place.replaceChildren(empty("compare", "Ask both", `${main.name} and ${compare.name} answer next to each other.`));
    try {
      const answer = await post("compare/search", { text: input.value, k: Math.min(24, app.catalogue.limits.max_results) }, signal);
      const shared = new Set(answer.shared);
      const side = (name, index) => {
        const scale = scaleOf(answer[name]);
        const some = answer[name].results.some((product) => product.match);
        return h("section", { "aria-label": index.name }, h("h2", {}, index.name),
          h("p", { class: "soft small" }, `${index.model.name} · ${Math.max(1, Math.round(answer[name].took_ms))} ms`),
          h("div", { class: "grid" }, answer[name].results.map((product) =>
            card(product, { scale, open: () => openFull(product, name === "main" ? "" : name), both: shared.has(product.product_id), weak: some && product.match === false }))));
      };
      place.replaceChildren(h("div", { class: "summary" }, h("span", {}, h("strong", {}, `${numbered(answer.shared.length)} of ${answer.main.results.length} in both`))),
        h("div", { class: "pair" }, side("main", main), side("compare", compare)));
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(failure(error));
    }
  }, 60);
  run();
}

function fileForm() {
  const text = h("textarea", { rows: 9, spellcheck: false, placeholder: "red running shoes\nblack leather handbag,1234\nsummer dress for women", "aria-label": "Queries" });
  const file = h("input", { type: "file", accept: ".csv,.txt,text/plain,text/csv", hidden: true, onchange: async () => { text.value = await file.files[0].text(); } });
  const begin = async () => {
    if (!lines(text.value).length) return notify("Give at least one query.", true);
    nodes.out.replaceChildren(waiting("Asking both …"));
    try {
      const answer = await post("compare/queries", { file: text.value });
      session = { file: text.value, answer, at: 0, picked: answer.queries.map(() => new Set()) };
      judge();
    } catch (error) {
      fileForm();
      nodes.out.prepend(failure(error));
      nodes.out.querySelector("textarea").value = text.value;
    }
  };
  nodes.out.replaceChildren(h("div", { class: "panel stack" },
    h("label", { class: "field" }, h("span", {}, "One query per line; after a comma the SKU that it should find, where you know it"), text),
    h("div", { class: "row" }, h("button", { class: "button primary", type: "button", onclick: begin }, "Start judging"),
      h("button", { class: "button", type: "button", onclick: () => file.click() }, "Open a file"), file)));
}

function judge() {
  const { answer, at, picked } = session;
  if (at >= answer.queries.length) return verdict();
  const { query, results } = answer.queries[at];
  const cards = results.map((product) => {
    const toggle = () => {
      const own = picked[at];
      own.has(product.product_id) ? own.delete(product.product_id) : own.add(product.product_id);
      element.classList.toggle("picked", own.has(product.product_id));
      button.setAttribute("aria-pressed", own.has(product.product_id));
    };
    const element = card({ ...product, score: null }, { open: toggle });
    const button = element.querySelector(".photo");
    button.setAttribute("aria-label", `Fits: ${product.title || product.product_id}`);
    button.setAttribute("aria-pressed", picked[at].has(product.product_id));
    element.classList.toggle("picked", picked[at].has(product.product_id));
    return element;
  });
  const go = (step) => () => { session.at += step; judge(); window.scrollTo(0, 0); };
  nodes.out.replaceChildren(h("div", { class: "stack" },
    h("progress", { value: at, max: answer.queries.length, "aria-label": "Progress" }),
    h("div", { class: "summary" }, h("span", {}, `Query ${at + 1} of ${answer.queries.length}: mark what fits`),
      h("span", { class: "row" }, h("button", { class: "button", type: "button", disabled: !at, onclick: go(-1) }, "Back"),
        h("button", { class: "button primary", type: "button", onclick: go(1) }, at + 1 < answer.queries.length ? "Next" : "Finish"))),
    h("h2", {}, `“${query}”`), h("div", { class: "grid" }, cards)));
}

async function verdict() {
  nodes.out.replaceChildren(waiting("Testing …"));
  const { answer, picked, file } = session;
  const again = h("button", { class: "button", type: "button", onclick: () => { session = null; fileForm(); } }, "New queries");
  const back = h("button", { class: "button", type: "button", onclick: () => { session.at = answer.queries.length - 1; judge(); } }, "Back to judging");
  try {
    const result = await post("compare/judge", { file, seed: answer.seed, versions: answer.versions, picked: picked.map((own) => [...own]) });
    const { main, compare } = app.catalogue.indexes;
    const figure = (value, label) => h("div", {}, h("b", {}, value), h("span", {}, label));
    const p = (value) => (value < 0.001 ? "< 0.001" : value.toFixed(3));
    nodes.out.replaceChildren(h("div", { class: "panel stack" }, h("h2", {}, conclusion(result, main, compare)),
      h("div", { class: "figures" }, figure(numbered(result.wins.main), `queries for ${main.name}`), figure(numbered(result.wins.compare), `queries for ${compare.name}`),
        figure(numbered(result.wins.ties), "ties"), figure(p(result.p), "p, exact sign test")),
      result.measured.length ? h("div", { class: "table-wrap" }, h("table", { class: "rows" },
        h("thead", {}, h("tr", {}, ["SKU given", main.name, compare.name, "difference", "95 % interval", "p"].map((name, i) => h("th", { class: i ? "number" : "" }, name)))),
        h("tbody", {}, result.measured.map((row) => h("tr", {}, h("td", {}, row.metric), h("td", { class: "number" }, row.main.toFixed(3)), h("td", { class: "number" }, row.compare.toFixed(3)),
          h("td", { class: "number" }, row.difference.toFixed(3)), h("td", { class: "number" }, row.n > 1 ? `[${row.low.toFixed(3)}, ${row.high.toFixed(3)}]` : "–"), h("td", { class: "number" }, p(row.p))))))) : null,
      h("p", { class: "soft small" }, "A query is won by the model whose results were marked more often. The test asks whether the queries that were not tied are split half and half (McNemar, exact)."),
      h("div", { class: "row" }, back, again, h("a", { class: "button", download: "judgements.csv", href: exported(answer, picked, result) }, icon("download"), "Export CSV"))));
  } catch (error) {
    nodes.out.replaceChildren(failure(error), h("div", { class: "row" }, back, again));
  }
}

function conclusion({ wins, p }, main, compare) {
  if (wins.main === wins.compare) return "No difference: both won as many queries.";
  const better = wins.main > wins.compare ? main.name : compare.name;
  return p < 0.05 ? `${better} is better` : `${better} won more queries, but so few that it may be chance.`;
}

function exported({ queries }, picked, { credited }) {
  const plain = (value) => (/^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value));  // no formula of a spreadsheet's
  const quoted = (value) => `"${plain(value).replaceAll('"', '""')}"`;
  const rows = queries.flatMap(({ query, results }, i) => results.map((product, rank) =>
    [query, rank + 1, product.product_id, picked[i].has(product.product_id) ? 1 : 0, credited[i][rank]].map(quoted).join(",")));
  return URL.createObjectURL(new Blob([["query,rank,product_id,marked,index", ...rows].join("\n")], { type: "text/csv" }));
}

export function onKey(event) {
  if (event.key === "/" && nodes.input) { nodes.input.focus(); return true; }
  return false;
}
