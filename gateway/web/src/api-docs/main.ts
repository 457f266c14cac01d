import "swagger-ui-dist/swagger-ui.css";
import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import "./page.css";

const scheme = document.documentElement.getAttribute("data-mantine-color-scheme"); // color-scheme.js
document.documentElement.classList.toggle("dark-mode", scheme === "dark");

SwaggerUI({
  url: "/api/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: -1, // hundreds of messages: each is shown where it is used
  docExpansion: "list",
  tryItOutEnabled: true,
  validatorUrl: null, // asks nobody else
});
