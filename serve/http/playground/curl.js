// A request as a command for a POSIX shell.

// Within single quotes a shell changes nothing; a quote itself has to stand outside of them.
export const quoted = (text) =>
  /^[\w@%+=:,.\/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;

export const curl = (url, body, { withKey, flags }) =>
  [
    ["curl", ...flags, quoted(url)].join(" "),
    "-H 'Content-Type: application/json'",
    // The key itself is never shown: commands end up in histories and in chats.
    ...(withKey ? ['-H "Authorization: Bearer $API_KEY"'] : []),
    `-d ${quoted(JSON.stringify(body))}`,
  ].join(" \\\n  ");
