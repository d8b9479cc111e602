// The frame: tabs, theme, keyboard, photos that are dropped or pasted anywhere.

import { get } from "./api.js";
import * as classify from "./classify.js";
import * as compare from "./compare.js";
import * as ground from "./ground.js";
import * as health from "./health.js";
import { imageOf, take } from "./photo.js";
import * as search from "./search.js";
import { read, write } from "./state.js";
import { failure, h, icon, iconButton, numbered } from "./ui.js";

const VIEWS = { search, classify, ground, compare, health };
const TITLES = { search: "Search", classify: "Classify", ground: "Ground", compare: "Compare", health: "Health" };
const root = document.getElementById("view");
const tabs = document.querySelector(".tabs");
const app = { catalogue: null, show, served, tab: null };

/** The index that the address names: the first one, unless it is "compare". */
function served(name) {
  return app.catalogue.indexes[name] || app.catalogue.indexes.main;
}

/** Shows a view; `values` become the address. */
function show(tab, values = {}, step = true) {
  write(tab === "search" ? values : { tab, ...values }, step);
  render();
}

function render() {
  const values = read();
  const tab = VIEWS[values.tab] ? values.tab : "search";
  document.querySelector("dialog[open]")?.close();
  for (const button of tabs.children) {
    const chosen = button.dataset.tab === tab;
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen ? 0 : -1;
  }
  document.title = `${TITLES[tab]} · Modiste`;
  const entered = app.tab !== tab;
  app.tab = tab;
  VIEWS[tab].render(root, values, app);
  if (entered) window.scrollTo(0, 0);
}

function cycleTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("modiste-theme", document.documentElement.dataset.theme);
}

function shortcuts() {
  const keys = [["/", "Type a query"], ["← ↑ → ↓", "Move between products"], ["Enter", "Open a product"], ["m", "More like this"],
    ["b", "Like this, but …"], ["1 – 5", "Views"], ["t", "Light or dark"], ["Ctrl V", "Search with the photo on the clipboard"], ["Esc", "Close, or clear the query"]];
  const dialog = h("dialog", { "aria-label": "Keyboard shortcuts", onclose: () => dialog.remove(), onclick: (event) => event.target === dialog && dialog.close() },
    h("div", { class: "sheet" }, iconButton("close", "Close", () => dialog.close(), { class: "icon close" }), h("h2", {}, "Keyboard"),
      h("dl", {}, keys.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]))));
  document.body.append(dialog);
  dialog.showModal();
}

function typing(target) {
  return target.closest?.("input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, select") || document.querySelector("dialog[open]");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && VIEWS[app.tab].onEscape?.(event)) return;
  if (typing(event.target)) return;
  const place = "12345".indexOf(event.key);
  if (place >= 0) show(Object.keys(VIEWS)[place]);
  else if (event.key === "t") cycleTheme();
  else if (event.key === "?") shortcuts();
  else if (VIEWS[app.tab].onKey?.(event)) { /* taken by the view */ } else return;
  event.preventDefault();
}

function takePhotos() {
  const given = (photo) => (VIEWS[app.tab].onPhoto || search.onPhoto)(photo, app);
  const drop = document.getElementById("drop");
  let depth = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  addEventListener("dragenter", (event) => { if (hasFiles(event)) { depth += 1; drop.hidden = false; } });
  addEventListener("dragleave", (event) => { if (hasFiles(event) && --depth <= 0) { depth = 0; drop.hidden = true; } });
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    depth = 0;
    drop.hidden = true;
    const file = imageOf(event.dataTransfer);
    if (!file) return;
    event.preventDefault();
    take(file, given);
  });
  addEventListener("paste", (event) => {
    const file = imageOf(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    take(file, given);
  });
}

async function start() {
  for (const [tab, title] of Object.entries(TITLES)) {
    tabs.append(h("button", { type: "button", role: "tab", "data-tab": tab, onclick: () => show(tab) }, icon(tab), title));
  }
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const buttons = [...tabs.children];
    const next = buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length];
    show(next.dataset.tab);
    next.focus();
    event.stopPropagation();
  });
  const theme = document.getElementById("theme");
  theme.append(icon("theme"));
  theme.addEventListener("click", cycleTheme);
  const keys = document.getElementById("keys");
  keys.append(icon("keys"));
  keys.addEventListener("click", shortcuts);
  try {
    app.catalogue = await get("catalogue");
  } catch (error) {
    root.replaceChildren(h("div", { class: "view" }, failure(error)));
    return;
  }
  const { main } = app.catalogue.indexes;
  document.getElementById("catalogue").textContent = `${main.name} · ${numbered(main.products)} products`;
  search.start(app);
  addEventListener("popstate", render);
  addEventListener("keydown", onKey);
  takePhotos();
  render();
}

start();
