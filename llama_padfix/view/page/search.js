"use strict";
// Searches the rows: a text over the borders of tokens and turns, or one token id.

const addSearch = (state) => {
  const { data, rows, hits, textOf } = state;
  const MOST_HITS = 20000;
  let hitAt = -1, timer = 0;

  const fold = (text) => { const lower = text.toLowerCase(); return lower.length === text.length ? lower : text; };
  const indexText = (row) => {
    if (row.text) return;
    const parts = [];
    let length = 0;
    row.starts = new Uint32Array(row.size);
    for (let pos = 0; pos < row.size; pos++) {
      const text = textOf(row, pos);
      row.starts[pos] = length;
      length += text.length;
      parts.push(text);
    }
    row.text = fold(parts.join(""));
  };
  const tokenAt = (row, offset) => lastUpTo(row.size, (pos) => row.starts[pos], offset);
  const findId = (query) => {
    const found = [], index = data.ids.indexOf(/^\s*-?\d+\s*$/.test(query) ? Number(query) : NaN);
    for (const row of index < 0 ? [] : rows) {
      for (let pos = row.tokens.indexOf(index); pos >= 0 && found.length < MOST_HITS; pos = row.tokens.indexOf(index, pos + 1)) {
        found.push([row, pos, pos + 1]);
      }
    }
    return found;
  };
  const findText = (query) => {
    const found = [], filled = rows.filter((row) => row.size);
    let text = fold(query);
    filled.forEach(indexText);
    // A search box holds no line break: \n stands for one, unless the rows hold it as it is written.
    if (!filled.some((row) => row.text.includes(text))) text = text.replaceAll("\\n", "\n").replaceAll("\\t", "\t");
    for (const row of filled) {
      for (let at = row.text.indexOf(text); at >= 0 && found.length < MOST_HITS; at = row.text.indexOf(text, at + text.length)) {
        found.push([row, tokenAt(row, at), tokenAt(row, at + text.length - 1) + 1]);
      }
    }
    return found;
  };
  const search = () => {
    const query = byId("query").value;
    hits.list = !query ? [] : byId("kind").value === "id" ? findId(query) : findText(query);
    hits.byRow = new Map();
    for (const [row, start, end] of hits.list) {
      if (!hits.byRow.has(row)) hits.byRow.set(row, new Set());
      for (let pos = start; pos < end; pos++) hits.byRow.get(row).add(pos);
    }
    hitAt = -1;
    const many = hits.list.length >= MOST_HITS ? `${MOST_HITS} or more` : `${hits.list.length}`;
    byId("found").textContent = query ? `${many} found` : "";
    state.redraw();
  };
  const goToHit = (step) => {
    const count = hits.list.length;
    if (!count) return;
    hitAt = hitAt < 0 && step < 0 ? count - 1 : (hitAt + step + count) % count;
    const [row, pos] = hits.list[hitAt];
    row.article.hidden = false;
    byId("found").textContent = `${hitAt + 1} of ${count}`;
    state.goToToken(row, pos, { details: false });
  };

  byId("query").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 150); });
  byId("query").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    clearTimeout(timer);
    if (hitAt < 0) search();
    goToHit(event.shiftKey ? -1 : 1);
  });
  byId("kind").addEventListener("change", search);
  byId("next-hit").addEventListener("click", () => goToHit(1));
  byId("last-hit").addEventListener("click", () => goToHit(-1));

  Object.assign(state, { search, goToHit });
};
