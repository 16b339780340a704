// Debian's browsers, headless, driven by puppeteer-core: Chromium over CDP, Firefox over BiDi.
import { existsSync } from "node:fs";
import puppeteer from "puppeteer-core";

export const BROWSERS = {
  chromium: {
    package: "chromium",
    options: {
      browser: "chrome",
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox", // Chromium refuses to run as root with its sandbox.
        "--disable-gpu",
        "--disable-dev-shm-usage", // Containers have a /dev/shm of 64 MB.
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    },
  },
  firefox: {
    package: "firefox-esr",
    options: {
      browser: "firefox",
      executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr",
    },
  },
};

/** Launches "chromium" or "firefox" with a fresh profile, and puppeteer's options. Its absence is an error, never a skip. */
export async function launch(name, more = {}) {
  const { options, package: debianPackage } = BROWSERS[name];
  if (!existsSync(options.executablePath)) {
    throw new Error(
      `${options.executablePath} is missing: apt-get install ${debianPackage} (Debian), ` +
        `or name another in ${name.toUpperCase()}`,
    );
  }
  return puppeteer.launch({ headless: true, timeout: 60_000, ...options, ...more });
}
