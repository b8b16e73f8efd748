// The base models on this device: which one is in use, choosing another for the next start, and fetching one, after a
// look at what it needs.

import { get, getSlowly, post } from "./api.js";
import { facts } from "./facts.js";
import * as format from "./format.js";
import { html, useEffect, useLayoutEffect, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { said, t } from "./words.js";

const POLL_MS = 1500;

// `chosen` is the setting model.name, `onChoose` sets it.
export function Models({ chosen, attempt, onChoose }) {
  const [found, setFound] = useState(null);
  const [reference, setReference] = useState("");
  const [needs, setNeeds] = useState(null); // of the model that may be fetched; false while it is found out
  const pull = found?.pull;
  const isPulling = pull && !pull.is_over;

  async function read() {
    const now = await attempt(() => get("models"));
    if (now) setFound(now);
  }

  useLayoutEffect(() => {
    read();
  }, []);
  useEffect(() => {
    if (!isPulling) return;
    const timer = setTimeout(read, POLL_MS);
    return () => clearTimeout(timer);
  }, [found]);

  async function look(event) {
    event.preventDefault();
    if (isPulling || needs === false || !reference.trim()) return;
    setNeeds(false);
    setNeeds((await attempt(() => getSlowly(`models/preview?reference=${encodeURIComponent(reference.trim())}`))) ?? null);
  }

  async function fetchIt() {
    setNeeds(null);
    if (await attempt(() => post("models", { reference: needs.reference }))) await read();
  }

  return html`<section aria-labelledby="models-title">
    <h2 id="models-title">${t("Models")}</h2>
    <ul class="models">
      ${found?.models.map((one) => html`<li key=${one.name}>
        <span><strong>${one.name}</strong> <span class="quiet">${format.bytes(one.bytes)}${one.reference === one.name ? "" : ` · ${one.reference}`}</span></span>
        ${one.in_use && html`<span class="pill good">${t("in use")}</span>`}
        ${!one.in_use && [one.name, one.reference].includes(chosen) && html`<span class="pill">${t("from the next start")}</span>`}
        ${!one.in_use && ![one.name, one.reference].includes(chosen) && html`<button type="button" class="small" aria-label=${t("Use {name} from the next start", { name: one.name })} onClick=${() => onChoose(one.name)}>${t("Use from the next start")}</button>`}
      </li>`)}
    </ul>
    <form class="filters" onSubmit=${look}>
      <label>${t("Fetch")} <input dir="auto" placeholder="org/name" value=${reference} onInput=${(event) => setReference(event.target.value)} /></label>
      <button type="submit" aria-disabled=${String(Boolean(isPulling) || needs === false)}>${t("What does it need?")}</button>
    </form>
    <div role="status">
      ${needs === false && html`<p class="quiet">${t("Looking at its configuration…")}</p>`}
      ${needs && html`<${Needs} of=${needs} onFetch=${fetchIt} onLeave=${() => setNeeds(null)} />`}
      ${isPulling && html`<p>${pull.reference}: ${pull.total_bytes ? t("{done} of {total}", { done: format.bytes(pull.done_bytes), total: format.bytes(pull.total_bytes) }) : said(pull.message)}…</p><progress aria-label=${t("Fetching a model")} ...${pull.total_bytes ? { value: pull.done_bytes, max: pull.total_bytes } : {}}></progress>`}
      ${pull?.is_over && !pull.error && html`<p>${pull.reference}: ${said(pull.message)}.</p>`}
    </div>
    ${pull?.error && html`<p class="error" role="alert">${format.sentence(said(pull.error))}</p>`}
    <p class="quiet">${t("A hub id, a folder or a .gguf file on this device. What was learned belongs to one base model: another one begins anew, and that stays for when you come back.")}</p>
  </section>`;
}

// What a model takes, before anything of it is fetched.
function Needs({ of, onFetch, onLeave }) {
  return html`
    ${facts(undefined, [
      [t("To fetch"), of.download_bytes ? format.bytes(of.download_bytes) : t("nothing")],
      [t("On the disk"), format.bytes(of.disk_bytes)],
      [t("Memory for replies"), format.bytes(of.serving_bytes)],
      [t("Memory for learning"), t("{peak}, at least {least}", { peak: format.bytes(of.training_bytes), least: format.bytes(of.least_training_bytes) })],
    ])}
    <p>${of.fits ? t("The budget allows it to learn.") : t("It can reply, but the budget does not allow it to learn.")}</p>
    <p class="actions"><button type="button" class="primary" onClick=${onFetch}>${t("Fetch {name}", { name: of.name })}</button><button type="button" onClick=${onLeave}>${t("Leave it")}</button></p>
  `;
}
