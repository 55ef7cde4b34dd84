"use strict";
SwaggerUIBundle({
  url: new URL("../openapi.json", document.currentScript.src).href, // the page may be /docs or /docs/
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  validatorUrl: null, // do not send the description to swagger.io
});
