// Classify: labels and prompts are edited, and what they do to a photo, or to a whole attribute, is seen at once.

import { post } from "./api.js";
import { picker, recall } from "./photo.js";
import { card } from "./product.js";
import { openFull } from "./search.js";
import { write } from "./state.js";
import { empty, failure, h, humane, latest, lines, numbered, waiting } from "./ui.js";

const PROMPTS = "a photo of a {}\na photo of a {}, a fashion product";
let app, state, nodes, words = {};

export function render(root, values, given) {
  app = given;
  state = { ...values };
  const whole = state.of === "attribute";
  const switched = (of) => () => app.show("classify", { of });
  nodes = { out: h("section", { "aria-label": "Result", "aria-live": "polite" }) };
  root.replaceChildren(h("div", { class: "view" },
    h("div", { class: "view-head" },
      h("div", {}, h("h1", {}, "Classify"), h("p", {}, "Zero-shot: each label becomes the mean of its prompts, and a photo takes the nearest. Edit the words and see what they do.")),
      h("div", { class: "segmented", role: "group", "aria-label": "What to classify" },
        h("button", { type: "button", "aria-pressed": !whole, onclick: switched("") }, "One photo"),
        h("button", { type: "button", "aria-pressed": whole, onclick: switched("attribute") }, "An attribute"))),
    h("div", { class: "columns" }, h("section", { class: "panel", "aria-label": "Settings" }, whole ? attributeForm() : photoForm()), nodes.out)));
  (whole ? classifyAttribute : classifyPhoto)();
}

/** The photo that the address names: one that was given, or one of the catalogue. */
export function source(values) {
  if (values.row !== undefined && values.row !== "") return { src: `image/${values.row}?large=1&index=${values.index || "main"}`, alt: `Product photo, row ${values.row}`, body: { row: Number(values.row), index: values.index } };
  const photo = values.image && recall(values.image);
  return photo ? { src: photo.data, alt: "Your photo", body: { image: photo.data, index: values.index } } : null;
}

/** Says which model looks at the photo, where there are two. */
export function modelOf(values, app) {
  const { name, model } = app.served(values.index);
  return app.catalogue.indexes.compare ? h("p", { class: "soft small" }, `Model of index ${name}: ${model.name}`) : null;
}

function suggested() {
  // A kind of product says more about any photo than a season does.
  const columns = texts(state.index);
  const column = columns.find(({ name }) => /categ|type|class|kind/i.test(name)) || columns[0];
  return column ? column.values.slice(0, 8).join("\n") : "dress\nshirt\nshoe\nbag";
}

function texts(index) {
  return app.served(index).columns.filter((column) => column.facet && column.type === "text" && column.name !== "split");
}

function prompts(run) {
  nodes.prompts = h("textarea", { rows: 3, value: state.prompts ?? PROMPTS, oninput: run, spellcheck: false });
  return h("label", { class: "field" }, h("span", {}, "Prompts, one per line; {} is the label"), nodes.prompts);
}

function photoForm() {
  nodes.labels = h("textarea", { rows: 7, value: state.labels ?? suggested(), oninput: () => classifyPhoto(), spellcheck: false });
  return [picker(source(state), (photo) => onPhoto(photo, app)), modelOf(state, app),
    h("label", { class: "field" }, h("span", {}, "Labels, one per line"), nodes.labels), prompts(() => classifyPhoto())];
}

const classifyPhoto = latest(async (signal) => {
  const photo = source(state);
  if (!photo) {
    nodes.out.replaceChildren(empty("classify", "No photo yet", "Drop or paste one anywhere on this page, or open a product and choose Classify."));
    return;
  }
  Object.assign(state, { labels: nodes.labels.value, prompts: nodes.prompts.value });
  write(state);
  try {
    const answer = await post("zero-shot", { ...photo.body, labels: lines(state.labels), prompts: lines(state.prompts) }, signal);
    nodes.out.replaceChildren(h("div", { class: "panel stack" }, h("h2", {}, answer.labels[0].label),
      h("div", { class: "bars" }, answer.labels.map(({ label, probability, cosine }) => h("div", { title: `Cosine ${cosine.toFixed(4)}` },
        h("span", {}, label), h("div", { class: "track", vars: { part: probability } }, h("i")), h("span", { class: "number" }, `${(100 * probability).toFixed(1)} %`)))),
      h("p", { class: "soft small" }, `Softmax of cosine × ${answer.scale.toFixed(1)}, ${answer.scale_known ? "the model's temperature" : "CLIP's temperature, as the index does not hold the model's own"}. It compares these labels with each other and is no probability that any of them is right.`)));
  } catch (error) {
    if (error.name !== "AbortError") nodes.out.replaceChildren(failure(error));
  }
}, 120);

function attributeForm() {
  const columns = texts();
  const chosen = columns.find((column) => column.name === state.attribute) || columns[0];
  state.attribute = chosen?.name;
  nodes.attribute = h("select", { onchange: (event) => app.show("classify", { of: "attribute", attribute: event.target.value, where: nodes.where.value }, true) },
    columns.map(({ name }) => h("option", { value: name, selected: name === state.attribute }, humane(name))));
  nodes.where = h("input", { type: "text", value: state.where || "", placeholder: app.catalogue.indexes.main.columns.some(({ name, values }) => name === "split" && values?.length) ? "split = 'test'" : "all products", spellcheck: false, oninput: () => classifyAttribute() });
  words = {};
  nodes.words = h("div", { class: "label-list" });
  return [h("label", { class: "field" }, h("span", {}, "Attribute"), nodes.attribute),
    h("label", { class: "field" }, h("span", {}, "Where (SQL)"), nodes.where),
    prompts(() => classifyAttribute()),
    h("div", { class: "field" }, h("span", {}, "Word for each value"), nodes.words)];
}

function wordList(classes) {
  const known = new Set([...nodes.words.children].map((row) => row.dataset.value));
  if (classes.length === known.size && classes.every((value) => known.has(value))) return;
  nodes.words.replaceChildren(...classes.map((value) => h("div", { "data-value": value }, h("span", { title: value }, value),
    h("input", { type: "text", value: words[value] ?? value, "aria-label": `Word for ${value}`, spellcheck: false,
      oninput: (event) => { words[value] = event.target.value; classifyAttribute(); } }))));
}

const classifyAttribute = latest(async (signal) => {
  if (!state.attribute) {
    nodes.out.replaceChildren(empty("classify", "No attribute to classify", "The index has no text column with a handful of values."));
    return;
  }
  Object.assign(state, { where: nodes.where.value, prompts: nodes.prompts.value });
  write(state);
  if (!nodes.out.childElementCount) nodes.out.replaceChildren(waiting("Classifying …"));
  try {
    const answer = await post("zero-shot/attribute", { attribute: state.attribute, where: state.where || null, words, prompts: lines(state.prompts) }, signal);
    wordList(answer.classes);
    showConfusion(answer);
  } catch (error) {
    if (error.name !== "AbortError") nodes.out.replaceChildren(failure(error));
  }
}, 250);

function showConfusion(answer) {
  const cell = h("div", {});
  const total = answer.matrix.map((row) => row.reduce((sum, count) => sum + count, 0));
  const figures = [["Accuracy", answer.accuracy], ["Weighted F1", answer.weighted_f1], ["Macro F1", answer.macro_f1]];
  let pressed = null;
  const open = async (button, truth, predicted) => {
    pressed?.setAttribute("aria-pressed", false);
    button.setAttribute("aria-pressed", true);
    pressed = button;
    const products = answer.cells[`${truth},${predicted}`] || [];
    cell.replaceChildren(h("h3", {}, truth === predicted
      ? `${answer.classes[truth]}: ${numbered(answer.matrix[truth][predicted])} right`
      : `${answer.classes[truth]} taken for ${answer.classes[predicted]}: ${numbered(answer.matrix[truth][predicted])}`),
      h("div", { class: "grid small" }, products.map((product) => card(product, { open: openFull }))));
  };
  const rows = answer.classes.map((name, truth) => h("tr", {}, h("th", { scope: "row", title: name }, name),
    answer.matrix[truth].map((count, predicted) => {
      const part = total[truth] ? count / total[truth] : 0;
      return h("td", {}, h("button", { type: "button", class: `${part > 0.55 ? "on-dark" : ""}${count ? "" : " zero"}`, vars: { part }, disabled: !count,
        "aria-label": `${name} classified as ${answer.classes[predicted]}: ${count}`, title: `${name} → ${answer.classes[predicted]}: ${count} of ${total[truth]}`,
        onclick: (event) => open(event.currentTarget, truth, predicted) }, String(count)));
    })));
  nodes.out.replaceChildren(h("div", { class: "panel stack" },
    h("div", { class: "figures" }, figures.map(([name, value]) => h("div", {}, h("b", {}, value.toFixed(3)), h("span", {}, name))),
      h("div", {}, h("b", {}, numbered(answer.n)), h("span", {}, "products"))),
    h("div", { class: "matrix-wrap" }, h("table", { class: "matrix" },
      h("caption", { class: "sr" }, "Confusions: rows are true values, columns what was predicted"),
      h("thead", {}, h("tr", {}, h("th"), answer.classes.map((name) => h("th", { scope: "col", title: name }, h("span", {}, name))))),
      h("tbody", {}, rows))),
    h("p", { class: "soft small" }, "Rows: the catalogue's value. Columns: the label with the nearest words. Choose a cell to see its products."), cell));
}

export function onPhoto(photo, given) {
  given.show("classify", { labels: state?.labels, prompts: state?.prompts, image: photo.id, index: state?.index });
}
