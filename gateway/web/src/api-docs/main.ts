import "swagger-ui-dist/swagger-ui.css";
import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";

SwaggerUI({
  url: "/api/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: -1, // hundreds of messages: each is shown where it is used
  docExpansion: "list",
  tryItOutEnabled: true,
  validatorUrl: null, // asks nobody else
});
