// Calls of the API.

import { session, signOut } from "./session.js";

/** Everything is relative to the page, which may be behind a base path. */
const base = new URL(".", document.baseURI);
export const address = (path) => new URL(path, base).href;

/** The address of the service, for the command line. */
export const service = base.href.replace(/\/$/, "");

/** An answer that is not a success, or no answer (status 0). */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? "The server did not answer.");
    Object.assign(this, { status, code: body.code, errors: body.errors ?? [], requestId: body.requestId });
  }
}

/** The answer of a call, or a `Problem`. */
export async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = new Headers(headers);
  if (body !== undefined) sent.set("content-type", "application/json");
  if (session.credential) sent.set("authorization", `Bearer ${session.credential}`);
  let answer;
  try {
    answer = await fetch(address(path), {
      method,
      headers: sent,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The server cannot be reached. Check your connection and try again." });
  }
  if (answer.ok) return answer;
  const problem = new Problem(answer.status, await answer.json().catch(() => ({})));
  if (answer.status === 401 && session.user !== null) {
    signOut("You were signed out: the key or token is no longer accepted.");
  }
  throw problem;
}

/** The JSON of a call. */
export async function get(path, options) {
  const answer = await send(path, options);
  return answer.status === 204 ? null : answer.json();
}

export const post = (path, body) => get(path, { method: "POST", body });

/** With `userId` where the caller has to name it. */
export function forUser(object) {
  return session.config.auth === "none" ? { userId: session.user, ...object } : object;
}

export function search(parameters) {
  const query = new URLSearchParams(forUser(parameters));
  for (const [name, value] of [...query]) if (!value || value === "undefined") query.delete(name);
  return get(`transcript/search?${query}`);
}

/** An id of a request that may be sent twice. Not `crypto.randomUUID`, which pages without TLS lack. */
export function requestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const sleep = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    });
  });
