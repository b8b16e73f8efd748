// Requests to the daemon. Every failure is an ApiError whose message can be shown unchanged.

import { said, t } from "./words.js";

const ANSWER_MS = 15_000; // within which what is read comes, or the daemon hangs

const first = JSON.parse(document.getElementById("answers")?.textContent ?? "{}");

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status; // 0 without an answer
  }
}

function send(method, path, body, options = {}) {
  const headers = { ...options.headers };
  const isFile = body instanceof Blob;
  if (body !== undefined) headers["Content-Type"] = isFile ? "application/jsonl" : "application/json";
  const sent = body === undefined || isFile ? body : JSON.stringify(body);
  return fetch(path, { method, headers, body: sent, signal: options.signal });
}

function failure(response, answer) {
  const silence = response ? t("the daemon answered {status}", { status: response.status }) : t("the daemon does not answer");
  return new ApiError(answer?.error ? said(answer.error.message) : silence, response?.status ?? 0);
}

// `within` is the time to wait for what is only read; a reply of a model may take as long as it takes.
async function call(method, path, { body, headers, within } = {}) {
  let response;
  let answer = null;
  try {
    response = await send(method, path, body, { headers, signal: within && AbortSignal.timeout(within) });
    if (response.status !== 204) answer = await response.json();
  } catch {
    throw failure(response);
  }
  if (!response.ok) throw failure(response, answer);
  return answer;
}

// What came with the page is taken from it, once.
export async function get(path) {
  const known = first[path];
  delete first[path];
  return known ?? call("GET", path, { within: ANSWER_MS });
}

export const getSlowly = (path) => call("GET", path);
export const post = (path, body, headers) => call("POST", path, { body, headers });
export const patch = (path, body) => call("PATCH", path, { body });
export const remove = (path) => call("DELETE", path);

// Have the browser save what the daemon returns.
export async function download(path, name) {
  const response = await send("GET", path);
  if (!response.ok) throw failure(response, await response.json());
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Post and give each server-sent event to `take`; resolves after the last one. An abort by `signal` is not an error.
export async function stream(path, body, { headers, signal }, take) {
  let response;
  try {
    response = await send("POST", path, body, { headers, signal });
    if (!response.ok) throw failure(response, await response.json());
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = "", part = await reader.read(); !part.done; part = await reader.read()) {
      const events = (text + part.value).split(/\r?\n\r?\n/);
      text = events.pop();
      for (const event of events) {
        if (!event.startsWith("data:")) continue;
        const data = JSON.parse(event.slice("data:".length));
        if (data.error) throw failure(response, data);
        take(data);
      }
    }
  } catch (error) {
    if (signal?.aborted) return;
    throw error instanceof ApiError ? error : failure(response);
  }
}
