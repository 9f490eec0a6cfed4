// What was drawn, in this browser's IndexedDB: the newest runs, with their pictures. They are
// megabytes, and localStorage holds five, as text.

export const LIMIT = 24;
const STORE = "runs";
// How a connection fails that the browser has closed, as iOS does with a page in the background.
const CLOSED = ["InvalidStateError", "UnknownError"];

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

// A full disk, for one, shows only when a transaction ends.
const committed = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });

let opened = null;
const forget = () => (opened = null);

function open() {
  opened ??= (async () => {
    const opening = indexedDB.open("distilled-sd-serve", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
    const database = await settled(opening);
    database.onclose = forget;
    return database;
  })();
  return opened;
}

// Works on the store in one transaction; in another connection where the browser has closed this.
async function inStore(mode, work, { again = true } = {}) {
  try {
    const transaction = (await open()).transaction(STORE, mode);
    const [result] = await Promise.all([
      work(transaction.objectStore(STORE)),
      committed(transaction),
    ]);
    return result;
  } catch (fault) {
    forget();
    if (again && CLOSED.includes(fault?.name)) return inStore(mode, work, { again: false });
    throw fault;
  }
}

// Newest first. Ids are moments in milliseconds, so their order is the order in time.
export const all = async () =>
  (await inStore("readonly", (runs) => settled(runs.getAll()))).reverse();

export const put = (run) =>
  inStore("readwrite", async (runs) => {
    await settled(runs.put(run));
    const ids = await settled(runs.getAllKeys());
    await Promise.all(ids.slice(0, -LIMIT).map((id) => settled(runs.delete(id))));
  });

export const clear = () => inStore("readwrite", (runs) => settled(runs.clear()));
