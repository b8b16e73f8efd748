// A link with which another browser opens these pages, once and without the token.

import { post } from "./api.js";
import * as format from "./format.js";
import { html, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { t } from "./words.js";

export function Access({ attempt }) {
  const [link, setLink] = useState(null);
  const make = async () => setLink((await attempt(() => post("session/links"))) ?? null);
  return html`<section aria-labelledby="access-title">
    <h2 id="access-title">${t("Another browser")}</h2>
    <p class="quiet">${t("A link opens these pages in another browser, on a phone where the daemon can be reached from it: once, for thirty days.")}</p>
    <p class="filters"><button type="button" onClick=${make}>${t("Make a link")}</button></p>
    <div role="status">
      ${link && html`<p class="filters"><input readonly class="wide" dir="ltr" aria-label=${t("The link")} value=${new URL(link.path.slice(1), new URL(".", location.href)).href} onFocus=${(event) => event.target.select()} /></p>
        <p class="quiet">${t("It can be used until {time}. Who has it can do all that you can.", { time: format.time(link.expires) })}</p>`}
    </div>
  </section>`;
}
