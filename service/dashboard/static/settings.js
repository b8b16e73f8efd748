// All settings: what each means, where its value comes from, and changing it, with undo.

import { Access } from "./access.js";
import { get, patch } from "./api.js";
import * as format from "./format.js";
import { $ } from "./header.js";
import { Models } from "./models.js";
import { Done, select, show, useDaemon, waiting } from "./parts.js";
import { html, useLayoutEffect, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { nodes, said, t } from "./words.js";

const YEAR_S = 365 * 24 * 3600;
const HERE = "the settings page";
const EVERYDAY = [
  "schedule.enabled", "schedule.cron", "idle.on_battery", "memory.budget_bytes", "model.name", "model.dtype",
  "learning.statements", "recall.enabled", "retention.interaction_days",
];
const SECTIONS = {
  data_dir: t("Data"), server: t("Access"), model: t("Model"), memory: t("Memory"), lars: t("Adapter"), training: t("Training"),
  gate: t("Gate"), curation: t("Selection of examples"), schedule: t("Schedule"), idle: t("Idle device"), runtime: t("Replies"),
  recall: t("Recall"), learning: t("Learning from conversations"), retention: t("Keeping and deleting"),
  backup: t("Backups"), log: t("Log"),
};
const named = (key) => said(key.split(".").at(-1).replaceAll("_", " "));
const isJson = (schema) => ["object", "array"].includes(schema.type);
const shown = (value, schema) => (value === null ? "" : isJson(schema) ? JSON.stringify(value) : String(value));

// What was typed, as a value of the setting's type; an empty text takes the change back.
function parsed(text, { type, anyOf }) {
  const types = [type, ...(anyOf ?? []).map((one) => one.type)];
  if (text.trim() === "") return null;
  if (types.includes("object") || types.includes("array")) return JSON.parse(text);
  return types.includes("integer") || types.includes("number") ? Number(text) : text;
}

// The choice of the page's language, which a cookie keeps.
function LanguageChoice() {
  const chosen = document.cookie.match(/(?:^|; )lars-language=([^;]*)/)?.[1] ?? "";
  const options = [...$("languages").options].map((one) => [one.value, one.textContent]);
  const choose = (code) => {
    document.cookie = `lars-language=${code}; path=/; max-age=${code ? YEAR_S : 0}; samesite=strict`;
    location.reload();
  };
  return html`<p><label class="choice">${t("Language")} ${select(chosen, choose, [["", t("As the browser says")], ...options])}</label></p>`;
}

function Settings() {
  const { problem, attempt, refresh } = useDaemon();
  const [settings, setSettings] = useState(null);
  const [words, setWords] = useState("");
  const [done, setDone] = useState(null);
  const read = async () => setSettings((await attempt(() => get("settings")))?.settings ?? null);

  async function save(setting, value) {
    const before = setting.origin === HERE ? setting.value : null;
    const found = await attempt(() => patch("settings", { [setting.key]: value }));
    if (!found) return;
    setSettings(found.settings);
    const { key, is_waiting: isWaiting } = found.settings.find((one) => one.key === setting.key);
    const text = isWaiting ? t("{key}: saved, applies at the next start of the daemon.", { key }) : t("{key}: saved, applies now.", { key });
    setDone({ text, undo: () => save({ ...setting, value, origin: HERE }, before) });
    refresh();
  }

  useLayoutEffect(() => {
    read();
  }, []);

  if (!settings) return waiting(problem);
  const byKey = (key) => settings.find((one) => one.key === key);
  const wanted = words.toLowerCase().split(/\s+/);
  const found = words.trim() && settings.filter(({ key, description }) => wanted.every((word) => `${key} ${named(key)} ${said(description)} ${description}`.toLowerCase().includes(word)));
  const row = (place) => (setting) => html`<${Setting} place=${place} key=${`${setting.key} ${shown(setting.value, setting.value_schema)}`} setting=${setting} onSave=${save} />`;
  const sections = [...new Set(settings.map(({ key }) => key.split(".")[0]))];
  return html`
    <section aria-labelledby="settings-title">
      <div class="title"><h2 id="settings-title">${t("Settings")}</h2></div>
      <${LanguageChoice} />
      <p class="filters"><input type="search" aria-label=${t("Search settings")} placeholder=${t("Search {number} settings", { number: settings.length })} value=${words} onInput=${(event) => setWords(event.target.value)} /></p>
      ${problem && html`<p class="error" role="alert">${problem}</p>`}
      <${Done} done=${done} />
      ${found && found.length === 0 && html`<p class="quiet">${t("No setting is about that.")}</p>`}
      <ul class="settings">${(found || EVERYDAY.map(byKey).filter(Boolean)).map(row("setting"))}</ul>
    </section>
    ${!found && html`<${Models} chosen=${byKey("model.name")?.value} attempt=${attempt} onChoose=${(name) => save(byKey("model.name"), name)} />`}
    ${!found && html`<${Access} attempt=${attempt} hasToken=${Boolean(byKey("server.token")?.value)} />`}
    ${!found &&
    html`<section aria-labelledby="all-title">
      <h2 id="all-title">${t("All settings")}</h2>
      ${sections.map((section) => html`<details key=${section}>
        <summary>${SECTIONS[section] ?? section}</summary>
        <ul class="settings">${settings.filter(({ key }) => key.split(".")[0] === section).map(row("all"))}</ul>
      </details>`)}
    </section>`}
  `;
}

function Setting({ setting, place, onSave }) {
  const { key, value, default: standard, description, value_schema: schema, origin, locked, applies, is_waiting: isWaiting } = setting;
  const [text, setText] = useState(shown(value, schema));
  const [wrong, setWrong] = useState("");
  const id = `${place}-${key}`;
  const save = (event) => {
    event.preventDefault();
    try {
      setWrong("");
      onSave(setting, parsed(text, schema));
    } catch {
      setWrong(t("That is not JSON."));
    }
  };
  const limits = { min: schema.minimum ?? schema.exclusiveMinimum, max: schema.maximum, step: schema.type === "integer" ? 1 : "any" };
  const about = `${id}-about`;
  const common = { id, disabled: Boolean(locked), "aria-describedby": about };
  const editor = () => {
    if (schema.writeOnly || value === true && schema.anyOf?.some((one) => one.writeOnly)) return html`<span ...${{ id }}>${t("set, not shown")}</span>`;
    if (schema.type === "boolean") return html`<input type="checkbox" ...${common} checked=${value} onChange=${(event) => onSave(setting, event.target.checked)} />`;
    if (schema.enum) return html`<select ...${common} value=${value} onChange=${(event) => onSave(setting, event.target.value)}>${schema.enum.map((one) => html`<option value=${one}>${one}</option>`)}</select>`;
    const isNumber = ["integer", "number"].includes(schema.type);
    return html`<input ...${common} type=${isNumber ? "number" : "text"} ...${isNumber ? limits : {}} value=${text} onInput=${(event) => setText(event.target.value)} />
      ${text !== shown(value, schema) && html`<button type="submit" class="primary small">${t("Save")}</button>`}`;
  };
  const size = key.endsWith("_bytes") && Number(text) > 0 ? ` (${format.bytes(Number(text))})` : "";
  const values = { key: html`<code>${key}</code>`, origin: said(origin), default: shown(standard, schema) || t("none") };
  const source = origin === null ? nodes("{key}, the default.", values) : nodes("{key}, set by {origin}; default {default}.", values);
  return html`<li>
    <form onSubmit=${save}>
      <label for=${id}>${place === "all" ? "" : `${SECTIONS[key.split(".")[0]] ?? ""}: `}${named(key)}</label>
      <span class="filters">${editor()}${size}
        ${origin === HERE && !locked && html`<button type="button" class="small" aria-label=${t("Reset {key}", { key })} onClick=${() => onSave(setting, null)}>${t("Reset")}</button>`}
      </span>
    </form>
    <p id=${about} class="quiet">${said(description)} ${source}
      ${applies === "restart" && !locked && ` ${t("A change applies at the next start.")}`} ${locked && t("Locked: {reason}.", { reason: said(locked) })}</p>
    ${isWaiting && html`<p><span class="pill">${t("applies at the next start")}</span></p>`}
    ${wrong && html`<p class="error" role="alert">${wrong}</p>`}
  </li>`;
}

show(html`<${Settings} />`, "settings-page");
