// What the daemon has learned from, or will: search, edit, forget, add, export and import. Text is only ever text.

import { download, get, patch, post, remove } from "./api.js";
import * as format from "./format.js";
import { Confirmed, Done, effectsOf, idQuery, question, select, show, useDaemon } from "./parts.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm-3.1.1.module.js";

const PAGE = 50;
const ERASURE_MS = 1000;
const SOURCES = [["", "everything"], ["given", "what I corrected or rated"], ["stated", "what I said in passing"]];
const FORMATS = [["messages", "conversations"], ["prompt-completion", "prompts and replies"], ["preference", "preferences"], ["kto", "liked or not"]];
const NO_FILTER = { q: "", source: "", tag: "", profile: "" };

// In one word or two what a piece of feedback is.
function kind({ source, correction, rating }) {
  if (source === "stated") return "said in passing";
  if (correction !== null) return "corrected";
  return rating === null ? "noted" : rating > 0 ? "liked" : "disliked";
}

function MyData() {
  const { problem, attempt } = useDaemon();
  const [profiles, setProfiles] = useState([]);
  const [filter, setFilter] = useState(NO_FILTER);
  const [page, setPage] = useState(null);
  const [chosen, setChosen] = useState([]);
  const [done, setDone] = useState(null);
  const asked = useRef(0);
  const isFiltered = Object.values(filter).some(Boolean);

  const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value));

  async function read(after = "", limit = PAGE) {
    const number = ++asked.current; // an answer that a later question has overtaken is not shown
    const found = await attempt(() => get(`feedback?${query({ ...filter, q: filter.q.trim(), limit, after })}`));
    if (!found || number !== asked.current) return;
    const rows = after ? [...page.rows, ...found.feedback] : found.feedback;
    setPage({ rows, total: found.total, next: found.next });
    setChosen((ids) => ids.filter((id) => rows.some((row) => row.id === id)));
  }

  async function tell(text, undo) {
    setDone({ text, undo });
    await read("", Math.max(PAGE, page?.rows.length ?? 0));
  }

  async function forget(ids) {
    const answer = await attempt(() => remove(`feedback?${idQuery(ids)}`));
    if (!answer) return;
    await tell(`${format.count(ids.length, "lesson")} forgotten; it is being removed from every file…`);
    if (answer.erasure_id) follow(answer.erasure_id, ids.length);
  }

  async function follow(id, count) {
    const erasure = await get(`erasures/${id}`).catch(() => null);
    if (!erasure?.complete) return setTimeout(() => follow(id, count), ERASURE_MS);
    const gone = Object.values(erasure.versions).flat().map((number) => `v${number}`);
    const replies = erasure.interactions ? ` with ${erasure.interactions === 1 ? "one recorded reply" : `${erasure.interactions} recorded replies`}` : "";
    const versions = gone.length ? ` ${gone.join(", ")} had learned of it and was deleted.` : "";
    setDone({ text: `${format.count(count, "lesson")} forgotten${replies}; nothing of it is left in any file.${versions}`, isLater: true });
  }

  async function change(row, values) {
    if (!(await attempt(() => patch(`feedback/${row.id}`, values)))) return false;
    const before = Object.fromEntries(Object.keys(values).map((name) => [name, row[name]]));
    await tell("Changed; it counts from the next reply on.", async () => {
      if (await attempt(() => patch(`feedback/${row.id}`, before))) await tell("Changed back.");
    });
    return true;
  }

  const stored = async (text) => {
    await tell(text);
    readProfiles();
  };
  const readProfiles = async () => setProfiles((await attempt(() => get("profiles")))?.profiles ?? []);
  const choose = (id, isChosen) => setChosen((ids) => (isChosen ? [...ids, id] : ids.filter((one) => one !== id)));
  const narrow = (values) => setFilter({ ...filter, ...values });

  useLayoutEffect(() => {
    readProfiles();
  }, []);
  useLayoutEffect(() => {
    read();
  }, [filter]);

  const some = chosen.slice(0, 200);
  return html`
    <section aria-labelledby="data-title">
      <div class="title"><h2 id="data-title">What I told it</h2>${page && html`<span class="pill" role="status">${format.count(page.total, "lesson")}</span>`}</div>
      <div class="filters">
        <input type="search" aria-label="Search" placeholder="Search" value=${filter.q} onInput=${(event) => narrow({ q: event.target.value })} />
        <label>Show ${select(filter.source, (source) => narrow({ source }), SOURCES)}</label>
        ${profiles.length > 1 && html`<label>of profile ${select(filter.profile, (profile) => narrow({ profile }), [["", "any"], ...profiles.map(({ name }) => [name, name])])}</label>`}
        ${filter.tag && html`<button type="button" class="small" onClick=${() => narrow({ tag: "" })}>tag <bdi>${filter.tag}</bdi> ✕</button>`}
      </div>
      ${problem && html`<p class="error" role="alert">${problem}</p>`}
      <${Done} done=${done} />
      ${!page && html`<p class="quiet">Reading…</p>`}
      ${page?.total === 0 && html`<p class="quiet">${isFiltered ? "Nothing like that is stored." : html`Nothing is stored yet. Correct a reply on <a href="./">Talk</a>, or add something below.`}</p>`}
      ${page?.rows.length > 1 &&
      html`<p class="actions">
        <label class="choice"><input type="checkbox" checked=${chosen.length === page.rows.length} onChange=${(event) => setChosen(event.target.checked ? page.rows.map((row) => row.id) : [])} /> All ${page.rows.length} shown</label>
        ${some.length > 0 && html`<${Confirmed} key=${some.join()} label=${`Forget ${some.length}`} name="Forget the chosen" question=${`Forget ${format.count(some.length, "lesson")}?`} more=${() => effectsOf(some)} onDo=${() => forget(some)} />`}
      </p>`}
      <ul class="lessons">
        ${page?.rows.map((row) => html`<${Lesson} key=${row.id} row=${row} isChosen=${chosen.includes(row.id)} showProfile=${profiles.length > 1} onChoose=${choose} onTag=${(tag) => narrow({ tag })} onChange=${change} onForget=${() => forget([row.id])} />`)}
      </ul>
      ${page?.next && html`<button type="button" onClick=${() => read(page.next)}>Show more</button>`}
    </section>
    <${Teach} profile=${filter.profile || "default"} profiles=${profiles} attempt=${attempt} onStored=${stored} />
    <${Files} profile=${filter.profile} attempt=${attempt} onStored=${stored} />
  `;
}

function Lesson({ row, isChosen, showProfile, onChoose, onTag, onChange, onForget }) {
  const [isEdited, setEdited] = useState(false);
  const [versions, setVersions] = useState(null);
  const opener = useRef(null);
  const close = () => {
    setEdited(false);
    requestAnimationFrame(() => opener.current?.focus());
  };
  const save = async (values) => (await onChange(row, values)) && setEdited(false);
  const look = (event) => event.target.open && get(`feedback/${row.id}/versions`).then((found) => setVersions(found.versions), () => {});
  return html`<li>
    <input type="checkbox" aria-label=${`Choose: ${question(row)}`} checked=${isChosen} onChange=${(event) => onChoose(row.id, event.target.checked)} />
    <div>
      <p dir="auto" class="quiet">${question(row)}</p>
      <p dir="auto">${row.correction ?? row.response}</p>
      <p class="actions">
        <span class=${`pill ${row.rating !== null && row.rating <= 0 ? "bad" : "good"}`}>${kind(row)}</span>
        <span class="quiet">${format.time(row.created)}${showProfile ? ` · ${row.profile}` : ""}</span>
        ${row.tags.map((tag) => html`<button type="button" class="small tag" aria-label=${`Show only the tag ${tag}`} onClick=${() => onTag(tag)}><bdi>${tag}</bdi></button>`)}
        <button type="button" class="small" ref=${opener} aria-label=${`Edit: ${question(row)}`} aria-expanded=${String(isEdited)} onClick=${() => setEdited(!isEdited)}>Edit</button>
        <${Confirmed} label="Forget" name=${`Forget: ${question(row)}`} question="Forget this?" more=${() => effectsOf([row.id])} onDo=${onForget} />
      </p>
      ${isEdited && html`<${Editor} row=${row} onSave=${save} onClose=${close} />`}
      <details onToggle=${look}>
        <summary>Details</summary>
        <p class="quiet">${format.label(row.adapter_version ?? "base")} had replied: <bdi dir="auto">“${row.response}”</bdi></p>
        ${row.comment && html`<p class="quiet">Comment: <bdi dir="auto">“${row.comment}”</bdi></p>`}
        ${versions && html`<p class="quiet">${versions.length ? `Learned in ${versions.join(", ")}.` : "Not learned yet: used from the next reply on, learned tonight."}</p>`}
      </details>
    </div>
  </li>`;
}

function Editor({ row, onSave, onClose }) {
  const [correction, setCorrection] = useState(row.correction ?? "");
  const [tags, setTags] = useState(row.tags.join(", "));
  const first = useRef(null);
  useEffect(() => first.current?.focus(), []);
  const save = (event) => {
    event.preventDefault();
    const listed = [...new Set(tags.split(",").map((tag) => tag.trim()).filter(Boolean))];
    onSave({ ...(correction.trim() !== (row.correction ?? "") && { correction: correction.trim() || null }), tags: listed });
  };
  return html`<form class="correction" onSubmit=${save} onKeyDown=${(event) => event.key === "Escape" && onClose()}>
    <label>It should have said<textarea ref=${first} dir="auto" rows="2" value=${correction} onInput=${(event) => setCorrection(event.target.value)}></textarea></label>
    <label>Tags, separated by commas<input dir="auto" value=${tags} onInput=${(event) => setTags(event.target.value)} /></label>
    <button type="submit" class="primary">Save</button>
    <button type="button" onClick=${onClose}>Cancel</button>
  </form>`;
}

// A question and its answer, without having asked the model.
function Teach({ profile, profiles, attempt, onStored }) {
  const [other, setOther] = useState(null); // a profile that was typed, which begins with its first lesson
  const [prompt, setPrompt] = useState("");
  const [correction, setCorrection] = useState("");
  const teach = async (event) => {
    event.preventDefault();
    if (!prompt.trim() || !correction.trim()) return;
    const row = { prompt: prompt.trim(), response: "", correction: correction.trim(), profile: other?.trim() || profile };
    if (!(await attempt(() => post("feedback", row)))) return;
    setPrompt("");
    setCorrection("");
    onStored("Stored; it counts from the next reply on.");
  };
  return html`<section aria-labelledby="teach-title">
    <h2 id="teach-title">Teach it something</h2>
    <form class="correction" onSubmit=${teach}>
      <label>When I ask<input dir="auto" required placeholder="What is my goat called?" value=${prompt} onInput=${(event) => setPrompt(event.target.value)} /></label>
      <label>it should say<textarea dir="auto" required rows="2" placeholder="Your goat is called Pip." value=${correction} onInput=${(event) => setCorrection(event.target.value)}></textarea></label>
      <label>as profile<input dir="auto" list="profiles" maxlength="64" value=${other ?? profile} onInput=${(event) => setOther(event.target.value)} /></label>
      <datalist id="profiles">${profiles.map(({ name }) => html`<option value=${name}></option>`)}</datalist>
      <button type="submit" class="primary">Store</button>
    </form>
  </section>`;
}

// Export, and import after a look at what would be stored.
function Files({ profile, attempt, onStored }) {
  const [form, setForm] = useState("messages");
  const [file, setFile] = useState(null);
  const [seen, setSeen] = useState(null);
  const input = useRef(null);
  const into = profile ? `?profile=${encodeURIComponent(profile)}` : "";
  const look = async (event) => {
    const chosen = event.target.files[0];
    setFile(chosen);
    setSeen(null);
    if (chosen) setSeen((await attempt(() => post(`feedback/import${into}${into ? "&" : "?"}dry_run=true`, chosen))) ?? null);
  };
  const clear = () => {
    input.current.value = "";
    setFile(null);
    setSeen(null);
  };
  const store = async () => {
    const answer = await attempt(() => post(`feedback/import${into}`, file));
    if (!answer) return;
    clear();
    onStored(`${format.count(answer.imported, "lesson")} imported.`);
  };
  const save = () => attempt(() => download(`feedback/export${into}${into ? "&" : "?"}format=${form}`, `lars-agent-${profile || "all"}.jsonl`));
  return html`<section aria-labelledby="files-title">
    <h2 id="files-title">Take it with you</h2>
    <p class="filters"><label>Export as ${select(form, setForm, FORMATS)}</label><button type="button" onClick=${save}>Export</button></p>
    <p class="filters"><label>Import JSON lines <input type="file" ref=${input} accept=".jsonl,.json,.txt" onChange=${look} /></label></p>
    ${seen &&
    html`<div role="status">
      <p>${format.count(seen.valid, "line")} can be imported${seen.refused.length ? `, ${seen.refused.length} cannot; nothing is stored until ${seen.refused.length === 1 ? "it is" : "they are"} mended:` : "."}</p>
      ${seen.refused.length > 0 && html`<ul>${seen.refused.slice(0, 20).map(({ line, message }) => html`<li key=${line} dir="auto">${format.sentence(message)}</li>`)}</ul>`}
      ${seen.refused.length > 20 && html`<p class="quiet">…and ${seen.refused.length - 20} more.</p>`}
      <p class="filters">
        ${seen.valid > 0 && seen.refused.length === 0 && html`<button type="button" class="primary" onClick=${store}>Import ${format.count(seen.valid, "line")}</button>`}
        <button type="button" onClick=${clear}>Leave it</button>
      </p>
    </div>`}
  </section>`;
}

show(html`<${MyData} />`, "memory-page");
