// Elements, icons, messages: what every view builds with.

const PATHS = {
  search: "M10.5 18a7.5 7.5 0 1 1 0-15 7.5 7.5 0 0 1 0 15Zm5.5-2 5 5",
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 16.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7Z",
  close: "m6 6 12 12M18 6 6 18",
  similar: "M4 4h9v12H4zM16 8h4v12h-9v-2",
  but: "M4 20l1-4L16 5l3 3L8 19zM13.5 7.5l3 3",
  classify: "M4 12V4h8l8 8-8 8zM8 8h.01",
  ground: "M12 3v3M12 18v3M3 12h3M18 12h3M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8Z",
  compare: "M4 4h7v16H4zM13 4h7v16h-7z",
  health: "M3 12h4l3-8 4 16 3-8h4",
  theme: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5Z",
  keys: "M9.2 9a3 3 0 1 1 4 2.8c-.8.4-1.2 1-1.2 2M12 17.5h.01M12 21a9 9 0 1 1 0-18 9 9 0 0 1 0 18Z",
  filter: "M4 6h16M7 12h10M10 18h4",
  download: "M12 4v11m-4-4 4 4 4-4M5 20h14",
};

/** An element: properties, listeners (`onclick`), `data`, `vars` (custom properties), then children. */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-")) {
      element.setAttribute(key, value); // also what is false
      continue;
    }
    if (value === undefined || value === null) continue;
    if (key === "class") element.className = value;
    else if (key === "vars") for (const [k, v] of Object.entries(value)) element.style.setProperty(`--${k}`, v);
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element) element[key] = value;
    else if (value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": 1.6,
    "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true" })) svg.setAttribute(key, value);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

export function iconButton(name, label, onclick, properties = {}) {
  return h("button", { class: "icon", type: "button", "aria-label": label, title: label, onclick, ...properties }, icon(name));
}

export function notify(message, bad = false) {
  const toast = h("div", { class: `toast${bad ? " bad" : ""}` }, message);
  document.getElementById("notices").append(toast);
  setTimeout(() => toast.remove(), bad ? 8000 : 4000);
}

export function empty(iconName, title, ...text) {
  return h("div", { class: "empty" }, icon(iconName), h("h2", {}, title), text.length ? h("p", {}, ...text) : null);
}

export function failure(error) {
  return h("div", { class: "notice bad", role: "alert" }, error.message);
}

export function waiting(label = "Working …") {
  return h("div", { class: "empty", role: "status" }, h("div", { class: "spinner" }), h("p", {}, label));
}

/** Calls of `run` that were overtaken by a later one are aborted, and none comes sooner than `wait` ms after the last. */
export function latest(run, wait = 0) {
  let timer, controller;
  return (...given) => {
    clearTimeout(timer);
    controller?.abort();
    const own = (controller = new AbortController());
    timer = setTimeout(() => run(own.signal, ...given), wait);
  };
}

export function numbered(value) {
  return Number(value).toLocaleString("en");
}

/** The first values of a product's attributes, for a line under its title. */
export function facts(product) {
  const told = Object.entries(product.attributes).filter(([name, value]) => name !== "split" && value !== null && value !== "");
  return told.slice(0, 3).map(([, value]) => value).join(" · ");
}

/** "Base colour" of baseColour or base_colour. */
export function humane(name) {
  const words = name.replaceAll("_", " ").replace(/([a-z])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`);
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function altOf(product) {
  return product.title || `Product ${product.product_id}`;
}

export function lines(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}
