// What was drawn, in this browser's IndexedDB: the newest runs, with their pictures. They are
// megabytes, and localStorage holds five, as text.

export const LIMIT = 24;
const STORE = "runs";

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let opened = null;
function store(mode) {
  opened ??= (async () => {
    const opening = indexedDB.open("distilled-sd-serve", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
    return settled(opening);
  })();
  return opened.then((database) => database.transaction(STORE, mode).objectStore(STORE));
}

// Newest first. Ids are moments in milliseconds, so their order is the order in time.
export const all = async () => (await settled((await store("readonly")).getAll())).reverse();

export async function put(run) {
  const runs = await store("readwrite");
  await settled(runs.put(run));
  const ids = await settled(runs.getAllKeys());
  await Promise.all(ids.slice(0, -LIMIT).map((id) => settled(runs.delete(id))));
}

export const clear = async () => settled((await store("readwrite")).clear());
