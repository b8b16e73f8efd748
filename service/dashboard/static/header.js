// What stands above every page: the daemon's state, its problems and notices.

import * as format from "./format.js";
import { locale, said, t } from "./words.js";

export const $ = (id) => document.getElementById(id);

const TITLE = document.title;

export function setText(id, text) {
  if ($(id).textContent !== (text ?? "")) $(id).textContent = text ?? "";
  $(id).hidden = !text;
}

export function showState(info) {
  const wrong = info.loading_error || info.problems.length > 0;
  const ready = wrong ? t("something is wrong") : t("ready");
  const loading = info.loading_error ? t("the model cannot be loaded") : t("loading the model: {progress}", { progress: said(info.loading) ?? "" });
  const job = info.night.adapting ? t("learning") : t("learning, paused");
  setText("state", format.sentence(info.job ? job : info.model ? ready : loading).slice(0, -1));
  document.title = `${info.job ? `${$("state").textContent} · ` : ""}${TITLE}`;
  $("state").className = `state ${wrong ? "bad" : info.job ? "busy" : info.model ? "good" : ""}`;
  setText("notice", [info.loading_error, ...info.problems].filter(Boolean).map(said).map(format.sentence).join("\n"));
  setText("waits", info.notices.map(said).map(format.sentence).join("\n"));
}

// Say that the daemon gives no state, and since when what is shown may be old.
export function showAbsence(error, seen) {
  const since = seen ? t("What you see is of {time}.", { time: seen.toLocaleTimeString(locale, { timeStyle: "short" }) }) : "";
  setText("state", error.status === 401 ? t("Locked") : `${format.sentence(error.message)} ${since}`.trim());
  $("state").className = "state bad";
}

// The profile of whoever is let in with a token for that alone; "" for the owner. And the one that is chosen at first.
export const own = document.body.dataset.profile ?? "";
export const usual = own || "default";

// The profiles that there are, as far as the daemon's state tells.
export const profilesOf = (info) => [...new Set([usual, ...Object.keys(info.serving)])].sort();
