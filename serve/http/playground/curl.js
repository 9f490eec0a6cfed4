// A request as a command for a POSIX shell.

// Within single quotes a shell changes nothing; a quote itself has to stand outside of them.
export const quoted = (text) =>
  /^[\w@%+=:,.\/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;

// Of a file's name curl would take a comma or semicolon for its own, and `-` for standard input.
const fileNamed = (name) =>
  `@"${name.replace(/^-$/, "./-").replace(/[\\"]/g, (character) => `\\${character}`)}"`;

// `files` are those of a form, by field; without any the body is JSON.
export const curl = (url, body, { withKey, flags, files = {} }) =>
  [
    ["curl", ...flags, quoted(url)].join(" "),
    // The key itself is never shown: commands end up in histories and in chats.
    ...(withKey ? ['-H "Authorization: Bearer $API_KEY"'] : []),
    ...(Object.keys(files).length
      ? [
          ...Object.entries(files).map(([field, name]) => `-F ${quoted(`${field}=${fileNamed(name)}`)}`),
          ...Object.entries(body).map((entry) => `--form-string ${quoted(entry.join("="))}`),
        ]
      : ["-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body))}`]),
  ].join(" \\\n  ");
