// Other browsers: a link with which one opens these pages, once and without the token, and those that were let in.

import { get, post, remove } from "./api.js";
import * as format from "./format.js";
import { Confirmed } from "./parts.js";
import { html, useLayoutEffect, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { said, t } from "./words.js";

const QUIET_ZONE = 4; // light modules around a QR code, without which cameras do not find it

// `hasToken` is whether the settings have a token; without it there is nothing to do where only this device gets in.
export function Access({ attempt, hasToken }) {
  const [known, setKnown] = useState(null);
  const [link, setLink] = useState(null);
  const read = async () => setKnown((await attempt(() => get("sessions"))) ?? null);
  const make = async () => setLink((await attempt(() => post("session/links"))) ?? null);
  const end = async (session) => {
    await attempt(() => remove(`sessions/${session.id}`));
    await read();
  };
  useLayoutEffect(() => {
    read();
  }, []);
  if (!known || !(hasToken || known.external_urls.length || known.sessions.length)) return null;
  return html`<section aria-labelledby="access-title">
    <h2 id="access-title">${t("Other browsers")}</h2>
    <p class="quiet">${t("A link opens these pages in another browser, such as a phone's: once. It stays in until it was not used for thirty days.")}</p>
    <p class="filters"><button type="button" onClick=${make}>${t("Make a link")}</button></p>
    <div role="status">${link && html`<${Link} link=${link} />`}</div>
    <ul class="models sessions">
      ${known.sessions.map((one) => html`<li key=${one.id}>
        <span><strong>${said(one.client)}</strong> <span class="quiet">${t("let in {created}, last used {used}", { created: format.time(one.created), used: format.time(one.last_used) })}</span></span>
        ${one.is_current && html`<span class="pill good">${t("this browser")}</span>`}
        <${Confirmed} label=${t("End")} name=${t("End the session of {browser}", { browser: said(one.client) })} question=${t("It needs a new link, or the token, to get in again.")} onDo=${() => end(one)} />
      </li>`)}
    </ul>
  </section>`;
}

function Link({ link }) {
  const here = new URL(link.path.slice(1), new URL(".", location.href)).href;
  return html`<p class="filters"><input readonly class="wide" dir="ltr" aria-label=${t("The link")} value=${link.urls[0] ?? here} onFocus=${(event) => event.target.select()} /></p>
    ${link.qr.length > 0 && html`<${QrCode} rows=${link.qr} />`}
    <p class="quiet">${t("It can be used until {time}. Who has it can do all that you can.", { time: format.time(link.expires) })}</p>`;
}

function QrCode({ rows }) {
  const size = rows.length + 2 * QUIET_ZONE;
  const dark = rows.flatMap((row, y) => [...row].map((module, x) => (module === "1" ? `M${x + QUIET_ZONE} ${y + QUIET_ZONE}h1v1h-1z` : "")));
  return html`<svg class="qr" role="img" aria-label=${t("The link as a QR code")} viewBox=${`0 0 ${size} ${size}`} shape-rendering="crispEdges">
    <rect width=${size} height=${size} fill="#fff" />
    <path d=${dark.join("")} fill="#000" />
  </svg>`;
}
