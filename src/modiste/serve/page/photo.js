// Photos that the user gives: dropped, pasted or chosen; reduced here, so that little is sent, and kept for a reload.

import { h, icon, notify } from "./ui.js";

const LONGEST = 768;
const KEPT = "modiste-photo-";
const MOST = 8; // photos that are kept
const given = new Map(); // id → data URL, also where the session's storage is full

/** A data URL of a JPEG whose longer side has at most `LONGEST` pixels. */
async function reduced(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("This file is not an image that the browser can read.");
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = h("canvas", { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.93);
}

function keep(data) {
  let hash = 5381;
  for (let i = 0; i < data.length; i++) hash = ((hash * 33) ^ data.charCodeAt(i)) >>> 0;
  const id = hash.toString(36);
  given.set(id, data);
  if (given.size > MOST) given.delete(given.keys().next().value);
  try {
    const kept = Object.keys(sessionStorage).filter((key) => key.startsWith(KEPT));
    if (kept.length > MOST) sessionStorage.removeItem(kept[0]);
    sessionStorage.setItem(KEPT + id, data);
  } catch { /* full: it is only lost on a reload */ }
  return { id, data };
}

/** A photo that was given before in this tab, or null. */
export function recall(id) {
  const data = given.get(id) ?? sessionStorage.getItem(KEPT + id);
  return data ? { id, data } : null;
}

export async function fromFile(file) {
  return keep(await reduced(file));
}

export function imageOf(transfer) {
  return [...(transfer?.files || [])].find((file) => file.type.startsWith("image/"));
}

export function choose(done) {
  const input = h("input", { type: "file", accept: "image/*", onchange: () => input.files[0] && take(input.files[0], done) });
  input.click();
}

export async function take(file, done) {
  try {
    done(await fromFile(file));
  } catch (error) {
    notify(error.message, true);
  }
}

/** A field that shows a photo and takes another one. */
export function picker(source, done) {
  const filled = source
    ? h("img", { src: source.src, alt: source.alt || "The chosen photo" })
    : h("div", {}, icon("camera"), h("p", {}, "Drop, paste or choose a photo"), h("p", { class: "small" }, "or take one from Search"));
  return h("div", {
    class: `picker${source ? " filled" : ""}`, tabIndex: 0, role: "button", "aria-label": "Choose a photo",
    onclick: () => choose(done),
    onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(done); } },
  }, filled);
}
