// The page at /docs: Swagger UI over the daemon's own OpenAPI document.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null, // by default the document's address is told to a service elsewhere
});
