// A list of names with their values.

import { html } from "./vendor/preact-htm-3.1.1.module.js";

// `pairs` are [name, value].
export const facts = (id, pairs) => html`<dl id=${id} class="facts">${pairs.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
