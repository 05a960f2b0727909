import { defineConfig, type Plugin } from "vite";

/**
 * The policy that the built page asks the browser to enforce, whichever server sends it.
 * `data:` pictures are the previews of a job's events; `blob:` is the picture or video that the user picked.
 */
const POLICY = [
  "default-src 'self'",
  "img-src 'self' data: blob:",
  "media-src 'self' blob:",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

/** Adds the policy to the build only: the development server injects styles that it forbids. */
const contentSecurityPolicy: Plugin = {
  name: "content-security-policy",
  apply: "build",
  transformIndexHtml: () => [
    {
      tag: "meta",
      attrs: { "http-equiv": "Content-Security-Policy", content: POLICY },
      injectTo: "head-prepend",
    },
  ],
};

/** `SANGO_URL` names the server that `npm run dev` talks to, for instance a running `sango serve`. */
const server = process.env["SANGO_URL"] ?? "http://127.0.0.1:4000";

export default defineConfig({
  base: "./",
  plugins: [contentSecurityPolicy],
  build: {
    target: "es2022",
    // The first versions with light-dark() and nesting, which the style sheets use as they are.
    cssTarget: ["chrome123", "edge123", "firefox121", "safari17.5"],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: {
      "/v1": { target: server },
      "/socket": { target: server, ws: true },
    },
  },
});
