// What stands above every page: the daemon's state, its problems and notices.

import * as format from "./format.js";

export const $ = (id) => document.getElementById(id);

const TITLE = document.title;

export function setText(id, text) {
  if ($(id).textContent !== (text ?? "")) $(id).textContent = text ?? "";
  $(id).hidden = !text;
}

export function showState(info) {
  const wrong = info.loading_error || info.problems.length > 0;
  const ready = wrong ? "something is wrong" : "ready";
  const text = info.model ? ready : info.loading_error ? "the model cannot be loaded" : `loading the model: ${info.loading ?? ""}`;
  const job = info.night.adapting ? "learning" : "learning, paused";
  setText("state", format.sentence(info.job ? job : text).slice(0, -1));
  document.title = `${info.job ? `${$("state").textContent} · ` : ""}${TITLE}`;
  $("state").className = `state ${wrong ? "bad" : info.job ? "busy" : info.model ? "good" : ""}`;
  setText("notice", [info.loading_error, ...info.problems].filter(Boolean).map(format.sentence).join("\n"));
  setText("waits", info.notices.map(format.sentence).join("\n"));
}

// Say that the daemon gives no state, and since when what is shown may be old.
export function showAbsence(error, seen) {
  const since = seen ? ` What you see is of ${seen.toLocaleTimeString(undefined, { timeStyle: "short" })}.` : "";
  setText("state", error.status === 401 ? "Locked" : `${format.sentence(error.message)}${since}`);
  $("state").className = "state bad";
}

// The profiles that there are, as far as the daemon's state tells.
export const profilesOf = (info) => [...new Set(["default", ...Object.keys(info.serving)])].sort();
