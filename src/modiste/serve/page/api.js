// Calls of the server. Addresses are relative, so that the page also works behind a path of a reverse proxy.

async function answer(response) {
  const body = response.headers.get("content-type")?.includes("json") ? await response.json() : await response.text();
  if (response.ok) return body;
  const error = new Error(body?.error?.message || `The server answered ${response.status}.`);
  error.status = response.status;
  throw error;
}

async function send(path, options, again = true) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is it still running?");
  }
  if (response.status === 429 && again) {
    await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get("retry-after") || 1)));
    return send(path, options, false);
  }
  return answer(response);
}

export function get(path, signal) {
  return send(path, { signal });
}

export function post(path, body, signal) {
  return send(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
}
