// Who is signed in. The key or token stays in this tab's sessionStorage, and is forgotten with the tab.

const KEY = "longhand";
const listeners = new Set();

export const session = { config: null, user: null, operator: false, credential: null, message: null };

function changed() {
  for (const listener of listeners) listener();
}

export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Whether calls can be made. */
export const isSignedIn = () => session.user !== null;

/** Reads how to sign in, and signs in again after a reload. */
export async function start(get) {
  session.config = await get("console/config.json");
  const kept = read();
  if (kept) {
    await signIn(get, kept).catch((problem) => {
      // What is wrong with the key will not change; an outage will.
      if (problem.status !== 401) throw problem;
      signOut("You were signed out: the key or token is no longer accepted.");
    });
  }
  changed();
}

/** With a user id (`none`), or a key or token. */
export async function signIn(get, text) {
  const open = session.config.auth === "none";
  session.credential = open ? null : text;
  try {
    const who = await get("console/session.json");
    session.user = who.userId ?? text;
    session.operator = who.operator;
    session.message = null;
    write(text);
    changed();
  } catch (problem) {
    session.credential = null;
    throw problem;
  }
}

export function signOut(message = null) {
  Object.assign(session, { user: null, operator: false, credential: null, message });
  write(null);
  changed();
}

// Storage may be disabled: then one signs in again after a reload.
function read() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function write(text) {
  try {
    if (text === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, text);
  } catch {
    // As above.
  }
}
