/** Light, dark, or as the system says; the choice is kept in this browser. */

import { byId } from "./dom";

const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

const KEY = "sango-theme";
const NAMES: Record<Theme, string> = { auto: "as the system", light: "light", dark: "dark" };

function saved(): Theme {
  try {
    return THEMES.find((theme) => theme === localStorage.getItem(KEY)) ?? "auto";
  } catch {
    return "auto"; // storage is forbidden: the choice lives as long as the page
  }
}

/** Applies the saved theme and lets the button go through the three. */
export function startTheme(): void {
  const button = byId("theme", HTMLButtonElement);
  let theme = saved();
  const show = () => {
    document.documentElement.dataset["theme"] = theme;
    button.querySelector("use")?.setAttribute("href", `#icon-${theme}`);
    button.setAttribute("aria-label", `Colours: ${NAMES[theme]}`);
    button.title = `Colours: ${NAMES[theme]}`;
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "auto";
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // As above.
    }
    show();
  });
  show();
}
