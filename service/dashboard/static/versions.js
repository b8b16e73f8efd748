// The line of versions: what each came from, learned and was worth, which one replies, and going back.

import { get, getSlowly, post } from "./api.js";
import { facts } from "./facts.js";
import * as format from "./format.js";
import { usual } from "./header.js";
import { Done, ProfileChoice, show, useDaemon, waiting } from "./parts.js";
import { html, useLayoutEffect, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { plural, said, t } from "./words.js";

const FIRST = 10; // versions shown before somebody asks for all
const BASE = { version: "base", parent: null };

function Versions() {
  const { info, problem, attempt, refresh } = useDaemon();
  const [profile, setProfile] = useState(new URLSearchParams(location.search).get("profile") ?? usual);
  const [list, setList] = useState(null);
  const [isWhole, setWhole] = useState(false);
  const [done, setDone] = useState(null);
  const query = `profile=${encodeURIComponent(profile)}`;
  const serving = info?.serving[profile];

  async function read() {
    const found = await attempt(() => get(`adapters?${query}`));
    if (found) setList(found);
  }

  useLayoutEffect(() => {
    if (info) read();
  }, [profile, serving]);

  async function use(version) {
    const before = list.active;
    if (!(await attempt(() => post(`adapters/${version}/activate?${query}`)))) return;
    await read();
    refresh();
    setDone({ text: format.sentence(t("{version} replies from now on", { version: format.label(version) })), undo: () => use(before) });
  }

  if (!list || list.profile !== profile) return waiting(problem);
  const newest = [...list.adapters].reverse();
  const active = newest.find((one) => one.active);
  const shown = isWhole ? newest : newest.slice(0, FIRST);
  const listed = !isWhole && active && !shown.includes(active) ? [...shown, active] : shown;
  return html`
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    <section aria-labelledby="versions-title">
      <div class="title">
        <h2 id="versions-title">${t("Versions")}</h2>
        <${ProfileChoice} profile=${profile} onChoose=${setProfile} />
        ${active && html`<button id="rollback" type="button" onClick=${() => use(active.parent)}>${t("Go back to {version}", { version: format.label(active.parent) })}</button>`}
      </div>
      <p>${active ? t("{version} replies.", { version: active.version }) : t("The base model replies.")} ${newest.length === 0 ? t("Nothing has been learned yet: each night that learns something good makes a version.") : t("Every version stays until it is too old or what it learned is forgotten; going back takes a moment and loses nothing.")}</p>
      <${Done} done=${done} />
      ${Object.entries(list.problems).map(([version, reason]) => html`<p key=${version} class="error" dir="auto">${format.sentence(t("{version} cannot be used: {reason}", { version, reason: said(reason) }))}</p>`)}
      <ol class="versions">
        ${[...listed, BASE].map((one, index, all) => html`<${Version} key=${one.version} one=${one} below=${all[index + 1]} list=${list} onUse=${use} attempt=${attempt} />`)}
      </ol>
      ${listed.length < newest.length && html`<button type="button" onClick=${() => setWhole(true)}>${t("Show all {number}", { number: newest.length })}</button>`}
    </section>
  `;
}

// One version; `below` is the next older one in the list.
function Version({ one, below, list, onUse, attempt }) {
  const { version, parent, verdict, ratings, losses = {} } = one;
  const isActive = version === list.active;
  const isBase = version === "base";
  const earlier = new Set(list.adapters.find((other) => other.version === parent)?.example_ids ?? []);
  const ids = one.example_ids ?? [];
  const fresh = ids.filter((id) => !earlier.has(id)).length;
  const scores = verdict?.candidate;
  const right = scores?.whole && t("{right} of {total} corrections right word for word, {before} before", { right: format.rights(scores), total: scores.whole.length, before: format.rights(verdict.incumbent) });
  const branch = below && !isBase && parent !== below.version && t("branches off from {version}", { version: format.label(parent) });
  const rated = ratings && ratings.good + ratings.bad > 0 && t("in use: {good} liked, {bad} disliked or corrected", { good: ratings.good, bad: ratings.bad });
  const parts = isBase ? [t("the model without anything learned"), rated] : [format.time(one.created), plural(ids.length, "{number} lesson, {fresh} new", "{number} lessons, {fresh} new", { fresh }), branch, right, rated];
  return html`<li class=${branch ? "branch" : ""} aria-current=${isActive ? "true" : undefined}>
    <strong>${format.label(version)}</strong>
    <div>
      <p class="quiet">${parts.filter(Boolean).join(" · ")}</p>
      ${!isBase && html`<details>
        <summary class="quiet">${t("Details")}</summary>
        ${facts(undefined, [
          [t("From"), format.label(parent)],
          [t("Model"), `${one.base_model}, ${one.base_model_sha256?.slice(0, 12)}`],
          [t("Loss on examples it had not seen"), format.loss(losses.heldout)],
          [t("General text, loss"), scores ? t("{loss} ({earlier} before)", { loss: format.loss(scores.text_loss), earlier: format.loss(verdict.incumbent?.text_loss) }) : t("unknown")],
          [t("Peak memory"), one.peak_bytes ? t("{peak} of {budget}", { peak: format.bytes(one.peak_bytes), budget: format.bytes(one.budget_bytes) }) : t("unknown")],
        ])}
        <p><a href=${`learned?profile=${encodeURIComponent(list.profile)}&version=${version}#lessons-title`}>${t("What it learned")}</a> · <a href=${`learned?profile=${encodeURIComponent(list.profile)}&left=${parent}&right=${version}#compare-title`}>${t("Compare with {version}", { version: format.label(parent) })}</a></p>
        <${Probes} version=${version} profile=${list.profile} attempt=${attempt} />
      </details>`}
    </div>
    ${isActive ? html`<span class="pill good">${t("in use")}</span>` : html`<button type="button" aria-label=${t("Use {version}", { version: format.label(version) })} onClick=${() => onUse(version)}>${t("Use")}</button>`}
  </li>`;
}

// Its replies to general questions, beside the base model's; what differs is marked.
function Probes({ version, profile, attempt }) {
  const [found, setFound] = useState(null); // false while they are asked
  const ask = async () => {
    if (found === false) return;
    setFound(false);
    setFound((await attempt(() => getSlowly(`adapters/${version}/probes?profile=${encodeURIComponent(profile)}`))) ?? null);
  };
  return html`
    ${!found && html`<p><button type="button" class="small" aria-disabled=${String(found === false)} onClick=${ask}>${t("Ask it general questions")}</button></p>`}
    <div role="status">
      ${found === false && html`<p class="quiet">${t("Asking it and the base model…")}</p>`}
      ${found && html`<p>${t("{same} of {total} replies to general questions are the base model's, word for word.", { same: found.same, total: found.probes.length })}</p>
        ${found.probes.filter(({ reply, base }) => reply !== base).map((one) => html`<p dir="auto" class="quiet">${one.prompt}</p><p dir="auto"><${Changed} before=${one.base} after=${one.reply} /></p>`)}`}
    </div>
  `;
}

// What became of a text, by words: the longest common subsequence stays.
function Changed({ before, after }) {
  const [old, now] = [before, after].map((text) => text.split(/(?<=\s)/));
  const common = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i--)
    for (let k = now.length - 1; k >= 0; k--) common[i][k] = old[i] === now[k] ? common[i + 1][k + 1] + 1 : Math.max(common[i + 1][k], common[i][k + 1]);
  const parts = [];
  for (let i = 0, k = 0; i < old.length || k < now.length; ) {
    if (i < old.length && k < now.length && old[i] === now[k]) parts.push(old[i++]) && k++;
    else if (k >= now.length || (i < old.length && common[i + 1][k] >= common[i][k + 1])) parts.push(html`<del>${old[i++]}</del>`);
    else parts.push(html`<ins>${now[k++]}</ins>`);
  }
  return parts;
}

show(html`<${Versions} />`, "versions-page");
