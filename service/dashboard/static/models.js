// The base models on this device: which one is in use, choosing another for the next start, and fetching one.

import { get, post } from "./api.js";
import * as format from "./format.js";
import { html, useEffect, useLayoutEffect, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { said, t } from "./words.js";

const POLL_MS = 1500;

// `chosen` is the setting model.name, `onChoose` sets it.
export function Models({ chosen, attempt, onChoose }) {
  const [found, setFound] = useState(null);
  const [reference, setReference] = useState("");
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

  async function fetchIt(event) {
    event.preventDefault();
    if (isPulling || !reference.trim()) return;
    if (await attempt(() => post("models", { reference: reference.trim() }))) await read();
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
    <form class="filters" onSubmit=${fetchIt}>
      <label>${t("Fetch")} <input dir="auto" placeholder="org/name" value=${reference} onInput=${(event) => setReference(event.target.value)} /></label>
      <button type="submit" aria-disabled=${String(Boolean(isPulling))}>${t("Fetch")}</button>
    </form>
    <div role="status">
      ${isPulling && html`<p>${pull.reference}: ${said(pull.message)}…</p><progress aria-label=${t("Fetching a model")}></progress>`}
      ${pull?.is_over && !pull.error && html`<p>${pull.reference}: ${said(pull.message)}.</p>`}
    </div>
    ${pull?.error && html`<p class="error" role="alert">${format.sentence(said(pull.error))}</p>`}
    <p class="quiet">${t("A hub id, a folder or a .gguf file on this device. What was learned belongs to one base model: another one begins anew, and that stays for when you come back.")}</p>
  </section>`;
}
