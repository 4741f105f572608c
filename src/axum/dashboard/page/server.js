// What the page asks its server.

const API = new URL("../api/", import.meta.url);

export class Refused extends Error {
  constructor(status, { error = "unknown", message = `The server answered ${status}.` } = {}) {
    super(message);
    this.error = error;
  }
}

export let session;

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(new URL(path, API), { cache: "no-store", signal: AbortSignal.timeout(30_000), ...options });
  } catch {
    throw new Refused(0, { error: "unreachable", message: "The dashboard’s server cannot be reached." });
  }
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = { message: text || undefined };
  }
  if (!response.ok) throw new Refused(response.status, answer);
  return answer;
}

export async function begin() {
  session = await ask("session");
}

export function get(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(given).toString();
  return ask(query ? `${path}?${query}` : path);
}

export async function post(path, value) {
  const send = () => ask(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-idem-token": session.token },
    body: JSON.stringify(value),
  });
  // Each process has its token: it has been started again, or a balancer has chosen another.
  for (let tries = 0; ; tries += 1) {
    try {
      return await send();
    } catch (refused) {
      if (refused.error !== "token" || tries >= 3) throw refused;
      await begin();
    }
  }
}
