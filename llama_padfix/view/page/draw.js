"use strict";
// Draws the rows. A row is cut into chunks, and only those near the window hold elements.

const addDrawing = (state) => {
  const { data, rows, special, breaks, options, textOf } = state;
  const CHUNK = 500, LONGEST = 900, MARKED = 200, LINE_HEIGHT = 24.5;

  // ---- tokens

  const MARKS = { "\n": "\u23ce", "\t": "\u21e5", " ": "\u00b7" };
  const write = (element, text) => {
    if (!(options.spaces ? /[\n\t ]/ : /[\n\t]/).test(text)) { element.textContent = text; return; }
    for (const part of text.split(/(\n+|[\t ])/)) {
      const mark = MARKS[part[0]];
      if (!mark || (part[0] === " " && !options.spaces)) { if (part) element.append(part); continue; }
      const sign = make("i");
      sign.dataset.mark = mark.repeat(part.length);
      // Line breaks in a row are one break on the screen; a space gives way to its mark.
      if (part[0] === " ") element.append(sign); else element.append(sign, part[0]);
    }
  };
  const drawToken = (row, pos, marked) => {
    const { active, hits } = state, found = hits.byRow.get(row);
    const index = row.tokens[pos], mode = row.modes[pos], element = make("span", "t");
    const names = element.classList;
    if (mode & TRAINED) names.add("x");
    if (mode & PADDING) names.add("p");
    if (special.has(index)) names.add("s");
    if (marked(pos)) names.add("w");
    if (found && found.has(pos)) names.add("h");
    if (active && active.row === row && active.pos === pos) names.add("on");
    element.pos = pos;
    element.count = 1;
    element.tabIndex = -1;
    if (row.covered.has(pos)) write(element, "\u207a");
    else {
      const character = row.characters[pos];
      const face = character ? character[2] : data.faces[index];  // known where it differs from the text
      if (face !== undefined || index in data.parts && !character) element.append(make("span", "e"));
      write(element.firstChild || element, face !== undefined ? face : textOf(row, pos));
    }
    return element;
  };
  const drawPads = (row, pos, end) => {
    const element = drawToken(row, pos, () => false);
    element.count = end - pos;
    element.prepend(`${end - pos} \u00d7 `);
    return element;
  };

  // ---- chunks

  const cut = (row) => {
    const chunks = [];
    let chunk = null;
    row.turns.forEach(([start, role], number) => {
      const end = number + 1 < row.turns.length ? row.turns[number + 1][0] : row.size;
      let first = start;
      while (first < end) {
        let last = Math.min(end, first + CHUNK);
        while (last < end && last < first + LONGEST && !breaks[row.tokens[last - 1]]) last++;
        if (!chunk || chunk.size + last - first > LONGEST) {
          chunk = { row, start: first, end: last, size: 0, parts: [] };
          chunks.push(chunk);
        }
        chunk.parts.push({ role, start: first, end: last, opens: first === start });
        chunk.size += last - first;
        chunk.end = last;
        first = last;
      }
    });
    return chunks;
  };
  const estimateHeight = (chunk, width) => {
    let lines = 0;
    for (const part of chunk.parts) {
      let letters = 0;
      for (let pos = part.start; pos < part.end; pos++) {
        const index = chunk.row.tokens[pos];
        letters += data.texts[index].length;
        if (breaks[index]) { lines += Math.ceil(letters / width) || 1; letters = 0; }
      }
      lines += Math.ceil(letters / width);
    }
    return Math.max(1, lines) * LINE_HEIGHT;
  };
  const fill = (chunk) => {
    if (chunk.full) return;
    const { row } = chunk;
    const spans = row.problems.filter((problem) => problem.end > problem.start)
      .map((problem) => [problem.start, Math.min(problem.end, problem.start + MARKED)]);
    const marked = (pos) => spans.some(([start, end]) => start <= pos && pos < end);
    for (const part of chunk.parts) {
      const turn = make("div", "turn"), into = make("div");
      const name = make("b", "", part.opens ? part.role : "");
      name.title = part.role;
      let trained = 0;
      for (let pos = part.start; pos < part.end; pos++) {
        const mode = row.modes[pos];
        if (mode === PADDING && !options.pads) {
          let end = pos + 1;
          while (end < part.end && row.modes[end] === PADDING && row.tokens[end] === row.tokens[pos]) end++;
          if (end - pos > 3) { into.append(drawPads(row, pos, end)); pos = end - 1; continue; }
        }
        trained |= mode & TRAINED;
        into.append(drawToken(row, pos, marked));
      }
      if (trained) turn.classList.add("full");
      turn.append(name, into);
      chunk.element.append(turn);
    }
    chunk.element.style.height = "";
    chunk.full = true;
  };
  const empty = (chunk) => {
    const { active } = state;
    if (!chunk.full || chunk.element.contains(document.activeElement)) return;
    if (active && active.row === chunk.row && chunk.start <= active.pos && active.pos < chunk.end) return;
    chunk.element.style.height = `${chunk.element.offsetHeight}px`;
    chunk.element.replaceChildren();
    chunk.full = false;
  };
  const redraw = () => {
    for (const row of rows) for (const chunk of row.chunks) {
      if (!chunk.full) continue;
      chunk.element.replaceChildren();
      chunk.full = false;
      fill(chunk);
    }
  };
  const chunkObserver = new IntersectionObserver((entries) => {
    for (const entry of entries) (entry.isIntersecting ? fill : empty)(entry.target.chunk);
  }, { rootMargin: "1000px 0px" });

  // ---- the strip above a row: where in it something is trained, padded or wrong

  const paintStrip = (row) => {
    const canvas = row.strip, width = canvas.clientWidth;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    canvas.width = width * ratio;
    canvas.height = 12 * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const each = width / row.size;
    const bar = (start, end, fillColor, height) => {
      pen.fillStyle = fillColor;
      pen.fillRect(start * each, 0, Math.max((end - start) * each, 1), height);
    };
    for (let at = 0, run = 0; run < row.runs.length; run += 2) {
      const mode = row.runs[run], end = at + row.runs[run + 1];
      if (mode & TRAINED) bar(at, end, color("--trained-line"), 12);
      else if (mode & PADDING) bar(at, end, color("--padding"), 12);
      at = end;
    }
    for (const { start, end } of row.problems) if (end > start) bar(start, start + 1, color("--error"), 5);
  };
  const stripObserver = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) paintStrip(entry.target.row);
  });
  const paintStrips = () => { for (const row of rows) if (row.strip) paintStrip(row); };

  // ---- a row, and its entry in the index

  const drawStrip = (row) => {
    row.strip = make("canvas");
    row.strip.row = row;
    row.strip.setAttribute("aria-hidden", "true");
    row.strip.title = "where in the row tokens are trained; click to go there";
    stripObserver.observe(row.strip);
    return row.strip;
  };
  const drawTokens = (row, width) => {
    const tokens = make("div", "tokens");
    tokens.tabIndex = 0;
    tokens.setAttribute("role", "group");
    tokens.setAttribute("aria-label", `tokens of row ${row.number}; the arrow keys go from token to token`);
    for (const chunk of row.chunks) {
      chunk.element = make("div", "chunk");
      chunk.element.chunk = chunk;
      chunk.element.style.height = `${estimateHeight(chunk, width)}px`;
      tokens.append(chunk.element);
      chunkObserver.observe(chunk.element);
    }
    return tokens;
  };
  const drawProblems = (row) => {
    const list = make("ul"), box = row.size ? make("aside") : make("div", "refused");
    for (const problem of row.problems) {
      const item = make("li"), into = row.size ? make("button") : item;
      into.append(make("span", `level ${problem.severity}`, problem.severity), ` ${problem.line}`);
      if (row.size) {
        into.type = "button";
        into.problem = problem;  // a click goes there
        item.append(into);
      }
      list.append(item);
    }
    box.append(list);
    return box;
  };
  const drawRow = (row, width) => {
    const article = make("article"), header = make("header");
    article.row = row;
    article.tabIndex = -1;
    article.setAttribute("aria-label", `row ${row.number}`);
    header.append(make("h2", "", `row ${row.number}`), make("span", "muted", row.summary));
    article.append(header);
    if (row.size) article.append(drawStrip(row));
    const body = make("div", row.problems.length && row.size ? "body two" : "body");
    row.chunks = cut(row);
    if (row.size) body.append(drawTokens(row, width));
    if (row.problems.length) body.append(drawProblems(row));
    article.append(body);
    row.article = article;
    return article;
  };
  const SIGNS = { error: "\u2716", warning: "\u25b2", note: "\u2022" };
  const drawEntry = (row) => {
    const link = make("a"), item = make("li"), meter = make("span", "meter"), part = make("i");
    link.href = `#row=${row.number}`;
    part.style.width = `${100 * row.share}%`;
    meter.append(part);
    const count = row.problems.length;
    const worst = Object.keys(SIGNS).find((level) => row.problems.some((problem) => problem.severity === level));
    const badge = make("small", worst ? `level ${worst}` : "", worst ? `${count} ${SIGNS[worst]}` : `${row.size}`);
    badge.title = worst ? `${count} problems, the worst is of level ${worst}` : `${row.size} tokens`;
    link.append(make("span", "", `row ${row.number}`), badge, meter);
    item.append(link);
    row.link = link;
    return item;
  };
  const drawRows = () => {
    const list = byId("rows"), index = byId("index");
    const width = Math.max(20, Math.floor((list.clientWidth - 190) / 8.5));  // letters in a line
    for (const row of rows) {
      list.append(drawRow(row, width));
      index.append(drawEntry(row));
    }
  };

  Object.assign(state, { drawRows, fill, redraw, paintStrips });
};
