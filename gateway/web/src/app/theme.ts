import { createTheme, type CSSVariablesResolver, type MantineColorsTuple } from "@mantine/core";

const ink: MantineColorsTuple = [
  "#eef0ff", "#dcdffb", "#b7bcf1", "#9098e8", "#6f79e0", "#5a65db", "#4f5bd9", "#414cc1", "#3843ad", "#2d3999",
];

export const theme = createTheme({
  colors: { ink },
  primaryColor: "ink",
  primaryShade: { light: 7, dark: 6 },
  defaultRadius: "md",
  cursorType: "pointer",
  fontFamily: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
  headings: { fontWeight: "650" },
});

const red = { "--mantine-color-red-filled": "#c92a2a", "--mantine-color-red-filled-hover": "#a61e1e" };

/** Some of the library's colours are too near their grounds to be read (WCAG 1.4.3): these are not. */
export const variables: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    "--mantine-color-dimmed": "#555c63",
    "--mantine-color-placeholder": "#6b7178",
    "--mantine-color-error": "#c92a2a",
    "--mantine-color-red-light-color": "#a61e1e",
    ...red,
  },
  dark: {
    "--mantine-color-dimmed": "#b0b4bb",
    "--mantine-color-placeholder": "#989da5",
    "--mantine-color-error": "#ff9c9c",
    "--mantine-color-anchor": ink[2],
    ...red,
  },
});
