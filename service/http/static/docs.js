"use strict";
SwaggerUIBundle({
  url: new URL("../openapi.json", document.currentScript.src).href, // the page may be /docs or /docs/
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  validatorUrl: null, // swagger.io is not asked what it thinks of the description
});
