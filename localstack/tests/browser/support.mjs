// Chromium by Playwright, with what every view has to keep: axe finds nothing, the policy refuses nothing, the console
// has no error, nothing moves.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.MODULES, "package.json"))("playwright-core");
const AXE = readFileSync(join(process.env.MODULES, "axe-core", "axe.min.js"), "utf8");
const ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"];
/** Google's bound of a good score. */
const MOST_SHIFT = 0.1;

export const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
export const DARK = { colorScheme: "dark" };

let browser;

export async function close() {
  await browser?.close();
}

/** A page of the console at `url` that nobody has signed in to. */
export async function open(url, options = {}) {
  browser ??= await chromium.launch({ executablePath: "/usr/bin/chromium", args: ARGUMENTS });
  const context = await browser.newContext({ viewport: { width: 1200, height: 860 }, ...options });
  context.setDefaultTimeout(30000);
  const page = await context.newPage();
  page.faults = [];
  // What a page is refused on purpose is named by the test.
  page.expected = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) page.faults.push(`${message.text()} ${message.location().url}`);
  });
  page.on("pageerror", (error) => page.faults.push(error.stack));
  await page.addInitScript(() => {
    window.shift = 0;
    addEventListener("securitypolicyviolation", (event) => console.error(`refused by policy: ${event.blockedURI}`));
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
  });
  await page.goto(`${url}/console`);
  return page;
}

export async function signIn(page, credential) {
  await page.fill("#credential", credential);
  await page.click("text=Sign in >> visible=true >> nth=-1");
  await page.waitForSelector(".brand");
}

/** That a view keeps what all have to keep. With SHOTS, a picture of it for people. */
export async function check(page, name) {
  if (process.env.SHOTS) await page.screenshot({ path: join(process.env.SHOTS, `${name}.png`) });
  const violations = await page.evaluate(async (source) => {
    // The policy forbids scripts in the page; the debugger's own are exempt.
    (0, eval)(source);
    const { violations } = await axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
  }, AXE);
  assert.deepEqual(violations, [], `axe, ${name}`);
  const [shift, width, most] = await page.evaluate(() => [window.shift, document.documentElement.scrollWidth, innerWidth]);
  assert.ok(shift < MOST_SHIFT, `layout shift of ${shift}, ${name}`);
  assert.ok(width <= most, `wider than the window, ${name}`);
  const faults = page.faults.filter((fault) => !page.expected.some((part) => fault.includes(part)));
  assert.deepEqual(faults, [], `console, ${name}`);
}

/** Lets go of files over an element, as a mouse does. */
export async function drop(page, selector, files) {
  const given = files.map((file) => ({ name: file.split("/").pop(), data: readFileSync(file).toString("base64") }));
  const transfer = await page.evaluateHandle((given) => {
    const transfer = new DataTransfer();
    for (const { name, data } of given) {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      transfer.items.add(new File([bytes], name, { type: "audio/wav" }));
    }
    return transfer;
  }, given);
  await page.dispatchEvent(selector, "dragover", { dataTransfer: transfer });
  await page.dispatchEvent(selector, "drop", { dataTransfer: transfer });
}

export const audio = (page) =>
  page.evaluate(() => {
    const { currentTime, paused, duration, error } = document.querySelector("audio");
    return { currentTime, paused, duration, error: error?.message };
  });

/** Waits until the player plays a moment after `start`, and not from the beginning. */
export async function playsFrom(page, start) {
  await page.waitForFunction(
    (start) => {
      const audio = document.querySelector("audio");
      return !audio.paused && audio.currentTime > start && audio.currentTime < start + 3;
    },
    start,
    { polling: 50 },
  );
}

export async function api(url, credential, path, { method = "GET", body } = {}) {
  const headers = { authorization: `Bearer ${credential}`, "content-type": "application/json" };
  const answer = await fetch(`${url}/${path}`, { method, headers, body: body && JSON.stringify(body) });
  return { status: answer.status, body: answer.status === 204 ? null : await answer.json() };
}
