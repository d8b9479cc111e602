// Search: words, a photo, a product, and what it should not be; facets; scores against the match threshold.

import { post } from "./api.js";
import { choose, recall } from "./photo.js";
import { card, openProduct, scaleOf } from "./product.js";
import { write } from "./state.js";
import { altOf, empty, failure, h, humane, icon, iconButton, latest, numbered, waiting } from "./ui.js";

const PAGE = 40;
const SHOWN = 8; // values of a facet, until "more"
const MANY = 12; // values of a facet, above which they can be searched
const WAIT = 35; // ms after the last key
const FACET = "f."; // f.gender=Men|Women
const RANGE = "r."; // r.price=10..50
let app, state, nodes, answer, unfolded = new Set();

/** Called once: other views open products without ever rendering this one. */
export function start(given) {
  app = given;
}

export function render(root, values) {
  state = { ...values };
  delete state.tab;
  answer = null;
  const photo = state.image ? recall(state.image) : null;
  nodes = { input: queryInput(), facets: h("aside", { class: "facets", "aria-label": "Filters" }), list: h("section", { "aria-label": "Results" }) };
  nodes.refine = h("div", { class: "refine" });
  root.replaceChildren(h("div", { class: "view" },
    h("form", { class: "search", role: "search", onsubmit: (event) => { event.preventDefault(); change({ q: nodes.input.value }, true); } },
      h("div", { class: "search-box" }, icon("search"), chips(photo), nodes.input,
        iconButton("camera", "Search with a photo", () => choose((chosen) => onPhoto(chosen, app)))),
      nodes.refine),
    h("div", { class: "results" }, nodes.facets, nodes.list)));
  refine();
  if (state.image && !photo) {
    nodes.list.replaceChildren(h("div", { class: "notice" }, "This tab no longer has the photo of this address: paste or choose it again."));
    return;
  }
  if (!state.q && !state.like && !state.image && matchMedia("(min-width: 861px)").matches) nodes.input.focus({ preventScroll: true });
  nodes.list.replaceChildren(waiting("Searching …"));
  search();
}

function queryInput() {
  const attached = state.like || state.image;
  return h("input", { type: "search", value: state.q || "", autocomplete: "off", spellcheck: false, enterKeyHint: "search",
    "aria-label": "Query", placeholder: attached ? "… but red, with long sleeves" : "Describe a product or paste a photo",
    oninput: (event) => change({ q: event.target.value }),
    onkeydown: (event) => { if (event.key === "ArrowDown" && move(event.key)) event.preventDefault(); } });
}

/** What stands before the words: the photo, or the product, that is searched with. */
function chips(photo) {
  const made = [];
  if (photo) made.push(chip(h("img", { src: photo.data, alt: "Your photo" }), "Photo", () => drop("image")));
  if (state.like) {
    const image = h("img", { src: `image?product_id=${encodeURIComponent(state.like)}&index=${state.index || ""}`, alt: "", onerror: () => image.remove() });
    made.push(chip(image, `Like ${state.like}`, () => drop("like")));
  }
  return made;
}

function chip(image, label, remove) {
  return h("span", { class: "chip" }, image, h("span", {}, label), h("button", { type: "button", "aria-label": `Remove ${label}`, onclick: remove }, icon("close")));
}

function drop(name) {
  app.show("search", { ...state, [name]: "", w: "" });
}

/** Second thoughts about the query: what it is not, and how much the words count next to the photo. */
function refine() {
  const asked = state.q || state.like || state.image;
  const without = h("input", { type: "text", value: state.minus || "", placeholder: "nothing", oninput: (event) => change({ minus: event.target.value }) });
  const both = (state.like || state.image) && state.q;
  const weight = h("input", { type: "range", min: 0.1, max: 0.9, step: 0.1, value: state.w || 0.5, "aria-label": "How much the words count", oninput: (event) => change({ w: event.target.value }) });
  const words = h("input", { type: "checkbox", checked: state.hybrid === "1", onchange: (event) => change({ hybrid: event.target.checked ? "1" : "" }) });
  const index = state.index ? chip("", `Index ${app.served(state.index).name}`, () => drop("index")) : "";
  nodes.refine.replaceChildren(index, ...(asked ? [
    h("label", {}, "Without", without),
    both ? h("label", {}, "Picture", weight, "words") : "",
    state.q ? h("label", { title: "Also match words of titles and SKUs letter by letter" }, words, "Exact words, too") : "",
  ] : app.served(state.index).examples.length ? [
    h("div", { class: "examples" }, app.served(state.index).examples.map((text) =>
      h("button", { class: "button", type: "button", onclick: () => app.show("search", { q: text, index: state.index }) }, text))),
  ] : []));
}

/** Takes new values into the address and searches; typing replaces the address, all else adds to the history. */
function change(values, step = false) {
  const before = Boolean(state.q) && Boolean(state.like || state.image);
  const started = Boolean(state.q || state.like || state.image);
  Object.assign(state, values, { k: values.k || "" });
  write(state, step);
  if (before !== (Boolean(state.q) && Boolean(state.like || state.image)) || started !== Boolean(state.q || state.like || state.image)) refine();
  search();
}

const search = latest(async (signal) => {
  nodes.list.classList.add("loading");
  nodes.list.ariaBusy = true;
  try {
    answer = await post("search", request(), signal);
    show();
  } catch (error) {
    if (error.name === "AbortError") return;
    nodes.list.replaceChildren(failure(error), active().length ? h("button", { class: "button", type: "button", onclick: clear }, "Remove the filters") : "");
  }
  nodes.list.classList.remove("loading");
  nodes.list.ariaBusy = false;
}, WAIT);

/** Number of results asked for: at most what the server gives. */
function wanted() {
  return Math.min(Number(state.k) || PAGE, app.catalogue.limits.max_results);
}

function request() {
  const words = Number(state.w || 0.5);
  const both = (state.like || state.image) && state.q;
  return {
    text: state.q?.trim() || null,
    like: state.like || null,
    image: state.image ? recall(state.image)?.data : null,
    minus: state.minus?.trim() || null,
    where: state.where || null,
    filters: filters(),
    weights: both && state.w ? { text: words, image: 1 - words, like: 1 - words } : {},
    hybrid: state.hybrid === "1",
    k: wanted(),
    facets: true,
    index: state.index,
  };
}

/** Values of a facet as one parameter, and back: a value may contain the separator. */
function joined(values) {
  return values.map((value) => value.replaceAll("%", "%25").replaceAll("|", "%7C")).join("|");
}

function valuesOf(parameter) {
  return parameter ? parameter.split("|").map((value) => value.replaceAll("%7C", "|").replaceAll("%25", "%")) : [];
}

export function filters() {
  const made = {};
  for (const [key, value] of Object.entries(state)) {
    if (!value) continue;
    if (key.startsWith(FACET)) made[key.slice(2)] = { values: valuesOf(value) };
    if (key.startsWith(RANGE)) {
      const [low, high] = value.split("..");
      made[key.slice(2)] = { min: low === "" ? null : Number(low), max: high === "" ? null : Number(high) };
    }
  }
  return made;
}

function show() {
  const { results } = answer;
  const scale = scaleOf(answer);
  const { index } = state;
  const actions = [["similar", "More like this", (product) => similar(product, index)], ["but", "Like this, but …", (product) => but(product, index)]];
  const first = results.findIndex((product) => product.match === false);
  const cards = results.map((product) => card(product, { scale, actions, open: () => openFull(product, index), weak: first > 0 && product.match === false }));
  if (first > 0 && !answer.hybrid) cards.splice(first, 0, h("div", { class: "divider" }, `Below the match threshold of ${answer.threshold.toFixed(2)}`));
  nodes.list.replaceChildren(
    summary(),
    answer.no_match && results.length ? h("div", { class: "notice", role: "status" }, "No good match: ",
      "nothing in this catalogue scores as a true match usually does. The nearest products are shown.") : "",
    results.length ? h("div", { class: "grid" }, cards) : empty("search", "Nothing passes these filters", answer.hints.join(" ") || "Take one of them away."),
    results.length === wanted() && results.length < answer.products ? h("div", { class: "more" }, wanted() < app.catalogue.limits.max_results
      ? h("button", { class: "button", type: "button", onclick: () => change({ k: String(wanted() + PAGE) }) }, "Show more")
      : h("p", { class: "soft small" }, `The server returns at most ${numbered(wanted())} results: add a filter to see others.`)) : "");
  showFacets();
}

function summary() {
  const shown = `${numbered(answer.results.length)} of ${numbered(answer.products)} products`;
  const threshold = answer.threshold === null ? null : h("span", { title: answer.calibration }, `match from ${answer.threshold.toFixed(2)}`);
  return h("div", { class: "summary" }, h("span", {}, h("strong", {}, shown)),
    h("span", { class: "row" },
      answer.exactness ? h("span", { title: [answer.exactness, answer.note].filter(Boolean).join("; ") }, answer.exactness.replace(" measured on", " on")) : null, threshold,
      h("span", { class: "number" }, `${Math.max(1, Math.round(answer.took_ms))} ms`),
      h("button", { class: "button filters-button", type: "button", onclick: () => nodes.facets.classList.toggle("open") }, icon("filter"), "Filters",
        active().length ? ` · ${active().length}` : "")),
    answer.uncalibrated ? h("span", { class: "uncalibrated" }, answer.uncalibrated) : null);
}

function active() {
  return Object.keys(state).filter((key) => (key.startsWith(FACET) || key.startsWith(RANGE) || key === "where") && state[key]);
}

function clear() {
  const chosen = active();
  app.show("search", Object.fromEntries(Object.entries(state).filter(([key]) => !chosen.includes(key))));
}

function showFacets() {
  const { columns } = app.served(state.index);
  const head = h("div", { class: "facets-head" }, h("h3", {}, "Filters"),
    active().length ? h("button", { class: "link small", type: "button", onclick: clear }, "Clear") : null,
    h("button", { class: "button filters-button", type: "button", onclick: () => nodes.facets.classList.remove("open") }, "Done"));
  const where = state.where ? h("span", { class: "chip" }, h("span", {}, state.where), h("button", { type: "button", "aria-label": "Remove the filter", onclick: () => change({ where: "" }, true) }, icon("close"))) : null;
  const focused = document.activeElement?.dataset?.facet;
  nodes.facets.replaceChildren(head, where || "", ...columns.filter((column) => column.facet).map(
    (column, place) => (column.type === "number" ? range(column) : facet(column, place))).filter(Boolean));
  if (focused) nodes.facets.querySelector(`[data-facet="${CSS.escape(focused)}"]`)?.focus();
}

function facet({ name }, place) {
  const chosen = valuesOf(state[FACET + name]);
  const counted = answer.facets?.[name] || [];
  const gone = chosen.filter((value) => !counted.some((entry) => entry.value === value)).map((value) => ({ value, count: 0 }));
  const all = [...gone, ...counted];
  if (!all.length) return null;
  const open = unfolded.has(name);
  const toggle = (value, on) => change({ [FACET + name]: joined(on ? [...chosen, value] : chosen.filter((other) => other !== value)) }, true);
  const options = h("div", { class: "options" });
  const list = () => {
    const sought = all.length > MANY ? (finding[name] || "").trim().toLowerCase() : "";
    const fits = ({ value }) => value.toLowerCase().includes(sought);
    const listed = all.filter((entry, i) => chosen.includes(entry.value) || (sought ? fits(entry) : open || i < SHOWN));
    options.replaceChildren(...listed.map(({ value, count }) => h("label", {},
      h("input", { type: "checkbox", checked: chosen.includes(value), "data-facet": `${name}=${value}`, onchange: (event) => toggle(value, event.target.checked) }),
      h("span", { title: value }, value), h("span", { class: "count", title: `${numbered(count)} products` }, numbered(count)))),
    sought ? (all.some(fits) ? "" : h("p", { class: "soft small" }, "No such value"))
      : all.length > listed.length || open ? h("button", { class: "link", type: "button", onclick: () => { open ? unfolded.delete(name) : unfolded.add(name); showFacets(); } },
        open ? "Fewer" : `${numbered(all.length - listed.length)} more`) : "");
  };
  list();
  return h("details", { open: chosen.length || folded[name] === true || (place < 3 && folded[name] !== false), ontoggle: (event) => { folded[name] = event.target.open; } },
    h("summary", {}, humane(name)),
    all.length > MANY ? h("input", { type: "search", value: finding[name] || "", placeholder: `Find among ${numbered(all.length)}`, "aria-label": `Find a value of ${humane(name)}`,
      "data-facet": `${name}?`, autocomplete: "off", spellcheck: false, oninput: (event) => { finding[name] = event.target.value; list(); } }) : null,
    options);
}

const finding = {}; // facet → what its values are searched for
const folded = {};

function range({ name, min, max }) {
  const [low = "", high = ""] = (state[RANGE + name] || "..").split("..");
  const field = (value, label, at) => h("input", { type: "number", value, placeholder: label, "aria-label": `${name}, ${at}`, "data-facet": `${name}:${at}`,
    onchange: (event) => {
      const next = at === "from" ? `${event.target.value}..${high}` : `${low}..${event.target.value}`;
      change({ [RANGE + name]: next === ".." ? "" : next }, true);
    } });
  return h("details", { open: Boolean(state[RANGE + name]) || folded[name] === true, ontoggle: (event) => { folded[name] = event.target.open; } },
    h("summary", {}, humane(name)), h("div", { class: "range" }, field(low, numbered(min ?? 0), "from"), "–", field(high, numbered(max ?? 0), "to")));
}

function similar(product, index) {
  app.show("search", { like: product.product_id, index });
}

function but(product, index, words = "") {
  app.show("search", { like: product.product_id, index, q: words });
  nodes.input.focus();
}

/** @param index the index of the product, if it is not the first one: "compare" */
export function openFull(product, index) {
  const photo = { row: product.row, index };
  openProduct(product, { but: (_, words) => but(product, index, words), links: [
    ["similar", "More like this", () => similar(product, index)],
    ["classify", "Classify", () => app.show("classify", photo)],
    ["ground", "Ground", () => app.show("ground", { ...photo, phrases: altOf(product) })],
  ] });
}

export function onPhoto(photo, given) {
  given.show("search", { image: photo.id, index: given.tab === "search" ? state.index : "" });
}

function current() {
  const focused = document.activeElement?.closest?.(".card");
  return focused && answer?.results.find((product) => product.product_id === focused.dataset.product);
}

export function onKey(event) {
  if (event.key === "/") {
    nodes.input.focus();
    nodes.input.select();
    return true;
  }
  const product = current();
  if (product && event.key === "m") { similar(product, state.index); return true; }
  if (product && event.key === "b") { but(product, state.index); return true; }
  return move(event.key);
}

/** Arrows go from photo to photo of the grid; the first one from anywhere. */
function move(key) {
  const photos = [...nodes.list.querySelectorAll(".card .photo")];
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 0, ArrowUp: 0 }[key];
  if (step === undefined || !photos.length) return false;
  const at = photos.indexOf(document.activeElement?.closest?.(".card")?.querySelector(".photo"));
  let next = at + step;
  if (at < 0) next = 0;
  else if (step === 0) {
    const left = (photo) => Math.round(photo.getBoundingClientRect().left);
    const order = key === "ArrowDown" ? photos.slice(at + 1) : photos.slice(0, at).reverse();
    const found = order.find((photo) => left(photo) === left(photos[at]));
    if (!found) return false;
    next = photos.indexOf(found);
  }
  photos[next]?.focus();
  photos[next]?.scrollIntoView({ block: "nearest" });
  return next >= 0 && next < photos.length;
}

export function onEscape() {
  if (document.querySelector("dialog[open]")) return false;
  nodes.facets.classList.remove("open");
  if (document.activeElement === nodes.input && nodes.input.value) { nodes.input.value = ""; change({ q: "" }, true); return true; }
  document.activeElement?.blur();
  return true;
}
