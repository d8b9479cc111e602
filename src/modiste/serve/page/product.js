// A product as a card of a grid, and in full.

import { altOf, facts, h, humane, icon, iconButton } from "./ui.js";

/** @param options scale: what scaleOf returns draws the score; actions: [[icon, label, run]]; onopen, onpick. */
export function card(product, { scale, actions = [], open, weak = false, both = false } = {}) {
  const image = h("img", { src: product.image, alt: altOf(product), loading: "lazy", decoding: "async" });
  const details = facts(product);
  return h("article", { class: `card${weak ? " weak" : ""}${both ? " both" : ""}`, "data-product": product.product_id },
    h("button", { class: "photo", type: "button", "aria-label": `Open ${altOf(product)}`, onclick: () => open?.(product) }, image),
    actions.length ? h("div", { class: "actions" }, actions.map(([name, label, run]) =>
      h("button", { type: "button", "aria-label": `${label}: ${altOf(product)}`, title: label, onclick: () => run(product) }, icon(name)))) : null,
    h("div", { class: "title" }, altOf(product)),
    details && h("div", { class: "facts", title: details }, details),
    scale && product.score !== null ? score(product, scale) : null);
}

function score(product, { top, tick }) {
  const part = (value) => Math.max(0, Math.min(1, value / top));
  const described = product.match === null ? "" : product.match ? ", a match" : ", not a match";
  return h("div", { class: "score", title: `Score ${product.score.toFixed(3)}${described}` },
    h("div", { class: "meter", vars: { part: part(product.score), tick: tick === null ? 0 : part(tick) } },
      h("i"), tick === null ? null : h("b")),
    h("span", { "aria-label": `Score ${product.score.toFixed(3)}${described}` }, product.score.toFixed(3)));
}

/** The scale of a list's scores: the best and the threshold both fit. The threshold is of cosines, so a hybrid list has no tick. */
export function scaleOf(answer) {
  const tick = answer.hybrid ? null : answer.threshold;
  const best = Math.max(...answer.results.map((product) => product.score ?? 0), tick ?? 0, 1e-6);
  return { top: best * 1.04, tick };
}

/** The address of the same photo, less reduced. */
export function large(address) {
  return `${address}${address.includes("?") ? "&" : "?"}large=1`;
}

/** The product in a dialog; `links` are [label, run] next to it, `but` takes the words of "like this, but …". */
export function openProduct(product, { links = [], but } = {}) {
  const close = () => dialog.close();
  const photo = h("img", { src: product.image, alt: altOf(product) });
  const better = h("img", { src: large(product.image), onload: () => { photo.src = better.src; } });
  const words = h("input", { type: "text", placeholder: "… but red, with long sleeves", "aria-label": "Like this, but" });
  const dialog = h("dialog", { "aria-label": altOf(product), onclose: () => dialog.remove(), onclick: (event) => event.target === dialog && close() },
    h("div", { class: "product" },
      iconButton("close", "Close", close, { class: "icon close" }),
      h("div", { class: "tile" }, photo),
      h("div", { class: "detail" },
        h("div", {}, h("p", { class: "soft small" }, `Product ${product.product_id}`), h("h2", {}, altOf(product))),
        h("dl", {}, Object.entries(product.attributes).filter(([, value]) => value !== null && value !== "")
          .map(([name, value]) => [h("dt", {}, humane(name)), h("dd", {}, String(value))]),
          product.score !== null && product.score !== undefined ? [h("dt", {}, "Score"), h("dd", { class: "number" }, product.score.toFixed(4))] : []),
        but ? h("form", { class: "but", onsubmit: (event) => { event.preventDefault(); close(); but(product, words.value.trim()); } },
          words, h("button", { class: "button primary" }, "Search")) : null,
        h("div", { class: "row" }, links.map(([name, label, run]) =>
          h("button", { class: "button", type: "button", onclick: () => { close(); run(product); } }, icon(name), label))))));
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, words };
}
