// The page at /docs: Swagger UI over the daemon's own OpenAPI document.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null, // the default validator sends the document's address to another host
});
