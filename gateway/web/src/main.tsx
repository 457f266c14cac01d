import "@mantine/core/styles.css";
import "@mantine/notifications/styles.css";
import { TransportProvider } from "@connectrpc/connect-query";
import { MantineProvider } from "@mantine/core";
import { Notifications } from "@mantine/notifications";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { isTransient } from "./api/errors";
import { transport } from "./api/transport";
import { Routes } from "./app/Routes";
import { Shell } from "./app/Shell";
import { theme, variables } from "./app/theme";
import { SpeechProvider } from "./i18n";

const queries = new QueryClient({
  defaultOptions: {
    queries: { retry: (failures, error) => failures < 3 && isTransient(error), staleTime: 2000 },
  },
});

const root = document.getElementById("root");
if (root === null) throw new Error("index.html has no #root");
createRoot(root).render(
  <StrictMode>
    <SpeechProvider>
      <MantineProvider theme={theme} cssVariablesResolver={variables} defaultColorScheme="auto">
        <TransportProvider transport={transport}>
          <QueryClientProvider client={queries}>
            <Notifications />
            <Shell>
              <Routes />
            </Shell>
          </QueryClientProvider>
        </TransportProvider>
      </MantineProvider>
    </SpeechProvider>
  </StrictMode>,
);
