// The query is the address: whatever a view shows can be reloaded, shared, and gone back from.

export function read() {
  const { text, ...given } = Object.fromEntries(new URLSearchParams(location.search));
  return text === undefined ? given : { q: text, ...given }; // as the API calls it
}

/** Replaces (or, with `step`, adds to the history) the address. Empty values are dropped. */
export function write(values, step = false) {
  const kept = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  const query = new URLSearchParams(kept).toString();
  const address = query ? `?${query}` : location.pathname;
  if (address === location.search) return;
  history[step ? "pushState" : "replaceState"](null, "", address);
}
