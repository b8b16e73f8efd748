// What the pages share: the daemon's state, a button that asks first, and the consequences of forgetting.

import { get } from "./api.js";
import * as format from "./format.js";
import { $, showAbsence, showState } from "./header.js";
import { html, render, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { plural, t } from "./words.js";

const POLL_MS = 5000;

// The daemon's state, read again every few seconds and shown in the header; `attempt` shows what went wrong in `problem`.
export function useDaemon() {
  const [info, setInfo] = useState(null);
  const [problem, setProblem] = useState("");
  const isAsking = useRef(false);
  const seen = useRef(null); // when the state was read last

  async function attempt(action) {
    setProblem("");
    try {
      return await action();
    } catch (error) {
      if (error.status === 401) $("token-form").hidden = false;
      else setProblem(format.sentence(error.message));
    }
  }

  async function refresh() {
    if (isAsking.current) return; // a daemon that hangs is not asked again and again
    isAsking.current = true;
    try {
      const now = await get("info");
      setInfo(now);
      seen.current = new Date();
      $("token-form").hidden = true;
      showState(now);
    } catch (error) {
      $("token-form").hidden = error.status !== 401;
      showAbsence(error, seen.current);
    }
    isAsking.current = false;
  }

  useLayoutEffect(() => {
    refresh();
    const timer = setInterval(() => document.hidden || refresh(), POLL_MS);
    return () => clearInterval(timer);
  }, []);
  useEffect(() => {
    if (problem) document.querySelector("main .error")?.scrollIntoView({ block: "nearest" }); // whoever is far below sees it
  }, [problem]);
  return { info, problem, attempt, refresh };
}

// Put the page, as soon as there is something of it, in place of what could be read until then.
export function show(page, id) {
  const replaced = new MutationObserver(() => {
    if (!$(id).firstElementChild) return;
    $("reading").remove();
    replaced.disconnect();
  });
  replaced.observe($(id), { childList: true });
  render(page, $(id));
}

// What a page is until it is read.
export const waiting = (problem) => problem && html`<section><p class="error" role="alert">${problem}</p></section>`;

// A choice of [value, words]; without a label around it give it a name.
export const select = (value, set, options, name) => html`<select aria-label=${name} value=${value} onChange=${(event) => set(event.target.value)}>
  ${options.map(([name, shown]) => html`<option value=${name}>${shown}</option>`)}
</select>`;

// The choice of a profile, where there is more than one.
export function ProfileChoice({ profile, onChoose }) {
  const [names, setNames] = useState([]);
  useLayoutEffect(() => {
    get("profiles").then((found) => setNames(found.profiles.map(({ name }) => name)), () => {});
  }, []);
  return names.length > 1 && html`<label class="choice">${t("Profile")} ${select(profile, onChoose, names.map((name) => [name, name]))}</label>`;
}

// What was done: { text, undo, isLater }, with `undo` where it can be undone. It takes the focus from what did it, unless
// that was a while ago.
export function Done({ done }) {
  const place = useRef(null);
  useEffect(() => {
    if (!done?.isLater) place.current?.focus();
  }, [done]);
  return html`<div role="status">
    ${done && html`<p class="kept" tabindex="-1" ref=${place}>${done.text} ${done.undo && html`<button type="button" class="small" onClick=${done.undo}>${t("Undo")}</button>`}</p>`}
  </div>`;
}

// A button that asks before it acts; `more` may tell what else will happen.
export function Confirmed({ label, name, question, more, onDo }) {
  const [asked, setAsked] = useState("");
  const first = useRef(null);
  const opener = useRef(null);
  const was = useRef("");
  useEffect(() => {
    if (asked) first.current?.focus();
    else if (was.current) opener.current?.focus();
    was.current = asked;
  }, [asked]);
  const ask = async () => setAsked(more ? `${question} ${await more().catch(() => "")}` : question);
  if (!asked) return html`<button type="button" class="small" ref=${opener} aria-label=${name} onClick=${ask}>${label}</button>`;
  return html`<span class="confirm" role="group" aria-label=${name}>
    ${asked}
    <button type="button" class="small danger" ref=${first} onClick=${onDo}>${label}</button>
    <button type="button" class="small" onClick=${() => setAsked("")}>${t("Keep")}</button>
  </span>`;
}

export const quoted = (text) => html`<bdi dir="auto">${t("“{text}”", { text })}</bdi>`;
export const question = (row) => (row.messages.findLast((turn) => turn.role === "user") ?? row.messages.at(-1)).content; // behind it tools may have been called
export const idQuery = (ids) => ids.map((id) => `id=${encodeURIComponent(id)}`).join("&");

// What forgetting this feedback does besides, in words.
export async function effectsOf(ids) {
  const { interactions, profiles } = await get(`feedback/effects?${idQuery(ids)}`);
  const isOne = ids.length === 1;
  const gone = isOne
    ? plural(interactions, "One recorded reply goes with it.", "{number} recorded replies go with it.")
    : plural(interactions, "One recorded reply goes with them.", "{number} recorded replies go with them.");
  const withdrawn = profiles
    .filter(({ versions }) => versions.length)
    .map(({ versions, serving }) => {
      const values = { versions: versions.join(", "), version: format.label(serving) };
      return isOne
        ? t("{versions} learned it and will be deleted; {version} replies until the next is trained.", values)
        : t("{versions} learned them and will be deleted; {version} replies until the next is trained.", values);
    });
  return [interactions ? gone : "", ...withdrawn].join(" ").trim();
}
