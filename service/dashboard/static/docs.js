// The page at /docs: Swagger UI over the daemon's own OpenAPI document, with the names and landmarks that it lacks.

const UNNAMED = ":is(select, textarea, input, [role=region]):not([aria-label])";

// Swagger UI puts a link into the button that opens an operation, and its title outside of every landmark.
function landmarks({ React: { createElement: h } }) {
  return {
    wrapComponents: {
      DeepLink: () => ({ text }) => h("span", null, text),
      InfoContainer: (Original) => (props) => h("section", { "aria-label": "About the API" }, h(Original, props), h("h2", null, "Operations")),
    },
  };
}

// Name a parameter's control after the parameter, and anything else after its operation.
function name(part) {
  const parameter = part.closest("tr[data-param-name]")?.dataset.paramName ?? part.className ?? part.localName;
  const operation = part.closest(".opblock")?.querySelector(".opblock-summary-control")?.textContent ?? "";
  part.setAttribute("aria-label", `${parameter} ${operation}`.trim());
}

const docs = document.getElementById("docs");
new MutationObserver(() => docs.querySelectorAll(UNNAMED).forEach(name)).observe(docs, { childList: true, subtree: true });
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  plugins: [landmarks],
  syntaxHighlight: false, // its colours are fixed, and too faint
  validatorUrl: null, // the default validator sends the document's address to another host
});
