"use strict";
fetch("openapi.json")
  .then((answer) => answer.json())
  .then((spec) => {
    // Where this page is, so that calls work behind a base path too.
    spec.servers = [{ url: new URL(".", location.href).pathname }];
    SwaggerUIBundle({
      spec,
      dom_id: "#swagger-ui",
      deepLinking: true,
      tryItOutEnabled: true,
      // A badge from the Internet otherwise.
      validatorUrl: null,
    });
  });
