"use strict";
// The rows of the page's JSON, unpacked, and what the reader has chosen: the one `state` of all files of this folder.
// What comes from a row becomes text of the page (textContent), never HTML.

const TRAINED = 1, PADDING = 2;  // bits of a token's mode, as in html.py

const byId = (id) => document.getElementById(id);

const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};

// The last entry of `length` sorted ones whose start is at most `position`; 0 where there is none.
const lastUpTo = (length, startOf, position) => {
  let low = 0, high = length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (startOf(middle) <= position) low = middle; else high = middle - 1;
  }
  return low;
};

const turnAt = (row, pos) => lastUpTo(row.turns.length, (turn) => row.turns[turn][0], pos);

const readState = () => {
  const data = JSON.parse(byId("data").textContent);
  const unpack = (text) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
    return data.wide ? new Uint32Array(bytes.buffer) : new Uint16Array(bytes.buffer);
  };
  const rows = data.rows.map((row, place) => {
    const runs = row.modes, tokens = unpack(row.tokens), modes = new Uint8Array(tokens.length);
    for (let at = 0, run = 0; run < runs.length; run += 2) modes.fill(runs[run], at, at += runs[run + 1]);
    const covered = new Map();  // the other tokens of a character, to the first
    for (const [start, [count]] of Object.entries(row.characters)) {
      for (let next = 1; next < count; next++) covered.set(Number(start) + next, Number(start));
    }
    const problems = row.problems.map(([severity, start, end, line]) => ({ severity, start, end, line, row: place }));
    return { ...row, place, tokens, runs, modes, covered, problems, size: tokens.length };
  });
  return {
    data, rows,
    placeOf: new Map(rows.map((row, place) => [row.number, place])),
    problems: rows.flatMap((row) => [...row.problems].sort((a, b) => a.start - b.start)),
    special: new Set(data.special),
    unknown: new Set(data.unknown),
    breaks: Uint8Array.from(data.texts, (text) => (text.includes("\n") ? 1 : 0)),
    options: { spaces: false, pads: false },
    active: null,  // { row, pos } of the token that was gone to
    hits: { list: [], byRow: new Map() },  // of the search: [row, start, end], and the positions by row
    textOf: (row, pos) => {
      if (row.covered.has(pos)) return "";
      const character = row.characters[pos];
      return character ? character[1] : data.texts[row.tokens[pos]];
    },
  };
};
