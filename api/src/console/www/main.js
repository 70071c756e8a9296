// The page: its frame, its views, and what is shown before one has signed in.

import { render } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { get } from "./api.js";
import { Fault, html } from "./parts.js";
import { isSignedIn, listen, session, signIn, signOut, start } from "./session.js";
import { Job } from "./job.js";
import { Jobs } from "./jobs.js";
import { NewJob } from "./new.js";
import { Operations } from "./operations.js";

const HELP = {
  none: ["User id", "Authentication is off on this server: everybody may act for every user.", "text"],
  apikey: ["API key", "It begins with lh_. It stays in this tab, and is forgotten when you close it.", "password"],
  jwt: ["Token", "From your token issuer. It stays in this tab, and is forgotten when you close it.", "password"],
};

function SignIn() {
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(null);
  const [label, help, type] = HELP[session.config.auth];
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    await signIn(get, text.trim()).catch(setProblem);
    setBusy(false);
  };
  return html`<main class="sign-in" id="main">
    <form class="card" onSubmit=${submit}>
      <img src="console/icon.svg" alt="" width="44" height="44" />
      <h1>Sign in to Longhand</h1>
      ${session.message && html`<p class="note" role="status">${session.message}</p>`}
      <label for="credential">${label}</label>
      <input
        id="credential"
        type=${type}
        value=${text}
        required
        autofocus
        autocomplete="off"
        spellcheck="false"
        aria-describedby="credential-help"
        onInput=${(event) => setText(event.target.value)}
      />
      <p class="muted small" id="credential-help">${help}</p>
      <${Fault} problem=${problem} />
      <button class="button primary wide" disabled=${busy || !text.trim()}>${busy ? "Signing in…" : "Sign in"}</button>
    </form>
    <p class="muted small">Longhand ${session.config.version} · <a href="docs">API</a></p>
  </main>`;
}

const VIEWS = [
  [/^#\/new$/, () => html`<${NewJob} />`, "New transcript", "#/new"],
  [/^#\/job\/([0-9a-f-]+)$/, (id) => html`<${Job} key=${id} id=${id} />`, "Transcript", "#/"],
  [/^#\/operations$/, () => html`<${Operations} />`, "Operations", "#/operations"],
  [/^(?:#\/?)?$/, () => html`<${Jobs} />`, "Transcripts", "#/"],
];

function useHash() {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return hash;
}

function Frame() {
  const hash = useHash();
  const main = useRef();
  const first = useRef(true);
  const view = VIEWS.find(([pattern]) => pattern.test(hash)) ?? VIEWS.at(-1);
  const [pattern, show, name, place] = view;
  useEffect(() => {
    document.title = `${name} · Longhand`;
    scrollTo(0, 0);
    // Not at the first view: a reader begins at the top.
    if (!first.current) main.current.focus({ preventScroll: true });
    first.current = false;
  }, [hash]);
  const link = (to, text) =>
    html`<a href=${to} aria-current=${to === place ? (to === hash || (to === "#/" && !hash) ? "page" : "true") : null}
      >${text}</a
    >`;
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>
      Skip to the content
    </a>
    <header class="top">
      <div class="bar">
        <a class="brand" href="#/"><img src="console/icon.svg" alt="" width="26" height="26" />Longhand</a>
        <nav aria-label="Views">
          ${link("#/", "Transcripts")} ${link("#/new", "New")} ${session.operator && link("#/operations", "Operations")}
        </nav>
        <div class="who">
          <span class="user" title=${session.user}>${session.user}</span>
          <button type="button" class="link" onClick=${() => signOut()}>
            ${session.config.auth === "none" ? "Change user" : "Sign out"}
          </button>
        </div>
      </div>
    </header>
    <main id="main" ref=${main} tabindex="-1">${show(hash.match(pattern)?.[1])}</main>`;
}

function App() {
  const [, redraw] = useState(0);
  const [problem, setProblem] = useState(null);
  const begin = () => {
    setProblem(null);
    start(get).catch(setProblem);
  };
  useEffect(() => {
    const stop = listen(() => redraw((count) => count + 1));
    begin();
    return stop;
  }, []);
  if (problem) return html`<main class="sign-in" id="main"><h1>Longhand</h1><${Fault} problem=${problem} retry=${begin} /></main>`;
  if (!session.config) return html`<main id="main" aria-busy="true"></main>`;
  return isSignedIn() ? html`<${Frame} key=${session.user} />` : html`<${SignIn} />`;
}

render(html`<${App} />`, document.getElementById("app"));
