// Ground: where on a photo the model sees what a phrase says.

import { post } from "./api.js";
import { modelOf, source } from "./classify.js";
import { picker } from "./photo.js";
import { write } from "./state.js";
import { empty, failure, h, latest, lines, waiting } from "./ui.js";

const METHODS = { patches: "Patch–text similarity", cam: "CAM", gradcam: "Grad-CAM", occlusion: "Occlusion (slow)" };
// From nothing to most: paper, amber, coral, crimson, oxblood. Drawn over the photo by multiplication.
const COLOURS = [[253, 247, 236], [246, 201, 138], [226, 114, 91], [163, 38, 42], [61, 11, 29]];
let app, state, nodes;

export function render(root, values, given) {
  app = given;
  state = { ...values };
  nodes = { out: h("section", { "aria-label": "Heat maps", "aria-live": "polite" }) };
  nodes.phrases = h("textarea", { rows: 4, value: state.phrases ?? "sleeves\ncollar\nshoe", oninput: () => ground(), spellcheck: false });
  nodes.method = h("select", { onchange: () => ground() }, Object.entries(METHODS).map(([value, label]) => h("option", { value, selected: value === state.method }, label)));
  const strength = h("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0.65, oninput: (event) => nodes.out.style.setProperty("--heat", event.target.value) });
  nodes.out.style.setProperty("--heat", 0.65);
  root.replaceChildren(h("div", { class: "view" },
    h("div", { class: "view-head" }, h("div", {}, h("h1", {}, "Ground"), h("p", {}, "Where on the photo the model sees a phrase. A map is scaled to its own minimum and maximum: compare places within a map, not maps with each other. The box is around the region of the highest place that reaches half of it."))),
    h("div", { class: "columns" },
      h("section", { class: "panel", "aria-label": "Settings" }, picker(source(state), (photo) => onPhoto(photo, app)), modelOf(state, app),
        h("label", { class: "field" }, h("span", {}, "Phrases, one per line"), nodes.phrases),
        h("label", { class: "field" }, h("span", {}, "Method"), nodes.method),
        h("label", { class: "field" }, h("span", {}, "Strength of the map"), strength)),
      nodes.out)));
  ground();
}

const ground = latest(async (signal) => {
  const photo = source(state);
  if (!photo) {
    nodes.out.replaceChildren(empty("ground", "No photo yet", "Drop or paste one anywhere on this page, or open a product and choose Ground."));
    return;
  }
  Object.assign(state, { phrases: nodes.phrases.value, method: nodes.method.value === "patches" ? "" : nodes.method.value });
  write(state);
  if (!nodes.out.childElementCount) nodes.out.replaceChildren(waiting("Looking …"));
  try {
    const answer = await post("ground", { ...photo.body, phrases: lines(state.phrases), method: nodes.method.value }, signal);
    nodes.out.replaceChildren(h("div", { class: "stack" },
      h("div", { class: "heat" }, answer.maps.map((map) => figure(map, photo, answer))),
      h("div", { class: "legend" }, "least", h("i"), "most similar")));
  } catch (error) {
    if (error.name !== "AbortError") nodes.out.replaceChildren(failure(error));
  }
}, 250);

function figure(map, photo, { width, height }) {
  const canvas = h("canvas", { width: map.width, height: map.height, role: "img", "aria-label": `Heat map of “${map.phrase}”: most similar at ${place(map)}` });
  paint(canvas, map);
  return h("figure", {}, h("div", { class: "frame tile" }, h("img", { src: photo.src, alt: photo.alt, width, height }), canvas, outline(map, width, height)),
    h("figcaption", {}, h("span", {}, map.phrase), h("span", { class: "soft number", title: "Cosine of the whole photo and the phrase" }, map.cosine.toFixed(3))));
}

function bytes(map) {
  return Uint8Array.from(atob(map.values), (letter) => letter.charCodeAt(0));
}

function paint(canvas, map) {
  const values = bytes(map);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(map.width, map.height);
  values.forEach((value, i) => {
    const at = (value / 255) * (COLOURS.length - 1);
    const low = Math.min(COLOURS.length - 2, Math.floor(at));
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = COLOURS[low][c] + (at - low) * (COLOURS[low + 1][c] - COLOURS[low][c]);
    pixels.data[4 * i + 3] = 255;
  });
  context.putImageData(pixels, 0, 0);
}

/** The box around the region of the map's maximum that reaches half of it, given in pixels of the photo. */
function outline({ box: [left, top, right, bottom] }, width, height) {
  const box = h("span", { class: "box", "aria-hidden": "true" });
  const part = (value, whole) => `${(100 * value) / whole}%`;
  Object.assign(box.style, { left: part(left, width), top: part(top, height), width: part(right - left, width), height: part(bottom - top, height) });
  return box;
}

/** "the upper left" for those who do not see the map. */
function place(map) {
  const values = bytes(map);
  const best = values.indexOf(Math.max(...values));
  const third = (part) => Math.min(2, Math.floor(3 * part));
  const row = ["upper", "middle", "lower"][third(Math.floor(best / map.width) / map.height)];
  const column = ["left", "centre", "right"][third((best % map.width) / map.width)];
  return `the ${row} ${column}`;
}

export function onPhoto(photo, given) {
  given.show("ground", { phrases: state?.phrases, method: state?.method, image: photo.id, index: state?.index });
}
