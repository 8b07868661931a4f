"use strict";
// Everything that comes from a row goes into the page as text (textContent): nothing here makes HTML of a string.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const TRAINED = 1, PADDING = 2;
  const CHUNK = 500, LONGEST = 900, MARKED = 200, MOST_HITS = 20000;
  const special = new Set(data.special);
  const breaks = new Uint8Array(data.texts.length);
  data.texts.forEach((text, index) => { breaks[index] = text.includes("\n") ? 1 : 0; });

  // ---- rows

  const unpack = (text) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
    return data.wide ? new Uint32Array(bytes.buffer) : new Uint16Array(bytes.buffer);
  };
  const rows = data.rows.map((row, place) => {
    const tokens = unpack(row.tokens), modes = new Uint8Array(tokens.length);
    for (let at = 0, run = 0; run < row.modes.length; run += 2) {
      modes.fill(row.modes[run], at, at += row.modes[run + 1]);
    }
    const covered = new Map();  // the other tokens of a character, to the first
    for (const [start, [count]] of Object.entries(row.characters)) {
      for (let next = 1; next < count; next++) covered.set(Number(start) + next, Number(start));
    }
    const problems = row.problems.map(([severity, start, end, line]) =>
      ({ severity, start, end, line, row: place }));
    return { ...row, place, tokens, modes, covered, problems, size: tokens.length };
  });
  const placeOf = new Map(rows.map((row, place) => [row.number, place]));
  const problems = rows.flatMap((row) => [...row.problems].sort((a, b) => a.start - b.start));

  const turnAt = (row, pos) => {
    let low = 0, high = row.turns.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (row.turns[middle][0] <= pos) low = middle; else high = middle - 1;
    }
    return low;
  };
  const textOf = (row, pos) => {
    if (row.covered.has(pos)) return "";
    const character = row.characters[pos];
    return character ? character[1] : data.texts[row.tokens[pos]];
  };

  // ---- drawing tokens; a row is cut into chunks, and only those near the window hold elements

  const options = { spaces: false, pads: false };
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
    const index = row.tokens[pos], mode = row.modes[pos], element = make("span", "t");
    const names = element.classList;
    if (mode & TRAINED) names.add("x");
    if (mode & PADDING) names.add("p");
    if (special.has(index)) names.add("s");
    if (marked(pos)) names.add("w");
    if (hits.at(row, pos)) names.add("h");
    if (active && active.row === row && active.pos === pos) names.add("on");
    element.pos = pos;
    element.count = 1;
    element.tabIndex = -1;
    if (row.covered.has(pos)) write(element, "\u207a");
    else {
      const character = row.characters[pos];
      const odd = character ? character[2] : data.faces[index];
      if (odd !== undefined || index in data.parts && !character) element.append(make("span", "e"));
      const into = element.firstChild || element;
      write(into, odd !== undefined ? odd : textOf(row, pos));
    }
    return element;
  };
  const drawPads = (row, pos, end) => {
    const element = drawToken(row, pos, () => false);
    element.count = end - pos;
    element.prepend(`${end - pos} \u00d7 `);
    return element;
  };
  const marker = (row) => {
    const spans = row.problems.filter((one) => one.end > one.start)
      .map((one) => [one.start, Math.min(one.end, one.start + MARKED)]);
    return (pos) => spans.some(([start, end]) => start <= pos && pos < end);
  };
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
  const estimate = (chunk, width) => {
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
    return Math.max(1, lines) * 24.5;
  };
  const fill = (chunk) => {
    if (chunk.full) return;
    const marked = marker(chunk.row);
    for (const part of chunk.parts) {
      const turn = make("div", "turn"), into = make("div");
      const name = make("b", "", part.opens ? part.role : "");
      name.title = part.role;
      let trained = 0;
      for (let pos = part.start; pos < part.end; pos++) {
        const mode = chunk.row.modes[pos];
        if (mode === PADDING && !options.pads) {
          let end = pos + 1;
          while (end < part.end && chunk.row.modes[end] === PADDING && chunk.row.tokens[end] === chunk.row.tokens[pos]) end++;
          if (end - pos > 3) { into.append(drawPads(chunk.row, pos, end)); pos = end - 1; continue; }
        }
        trained |= mode & TRAINED;
        into.append(drawToken(chunk.row, pos, marked));
      }
      if (trained) turn.classList.add("full");
      turn.append(name, into);
      chunk.element.append(turn);
    }
    chunk.element.style.height = "";
    chunk.full = true;
  };
  const empty = (chunk) => {
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
  const watch = new IntersectionObserver((entries) => {
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
    const bar = (start, end, fillColor, top, height) => {
      pen.fillStyle = fillColor;
      pen.fillRect(start * each, top, Math.max((end - start) * each, 1), height);
    };
    for (let at = 0, run = 0; run < row.modes_.length; run += 2) {
      const mode = row.modes_[run], end = at + row.modes_[run + 1];
      if (mode & TRAINED) bar(at, end, color("--trained-line"), 0, 12);
      else if (mode & PADDING) bar(at, end, color("--padding"), 0, 12);
      at = end;
    }
    for (const one of row.problems) if (one.end > one.start) bar(one.start, one.start + 1, color("--error"), 0, 5);
  };
  const strips = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) paintStrip(entry.target.row);
  });
  const paintAll = () => rows.forEach((row) => { if (row.strip) paintStrip(row); });

  // ---- the page

  let active = null;
  const hits = { list: [], by: new Map(), at: (row, pos) => { const set = hits.by.get(row); return !!set && set.has(pos); } };
  const severityOf = (row) => ["error", "warning", "note"].find((level) => row.problems.some((one) => one.severity === level));

  const build = () => {
    const list = $("rows"), index = $("index");
    const width = Math.max(20, Math.floor((list.clientWidth - 190) / 8.5));
    for (const row of rows) {
      const article = make("article"), header = make("header");
      article.row = row;
      article.tabIndex = -1;
      article.setAttribute("aria-label", `row ${row.number}`);
      header.append(make("h2", "", `row ${row.number}`), make("span", "muted", row.summary));
      article.append(header);
      const worst = severityOf(row);
      if (row.size) {
        row.modes_ = data.rows[row.place].modes;
        row.strip = make("canvas");
        row.strip.row = row;
        row.strip.setAttribute("aria-hidden", "true");
        row.strip.title = "where in the row tokens are trained; click to go there";
        article.append(row.strip);
        strips.observe(row.strip);
      }
      const body = make("div", row.problems.length && row.size ? "body two" : "body"), tokens = make("div", "tokens");
      tokens.tabIndex = row.size ? 0 : -1;
      tokens.setAttribute("role", "group");
      tokens.setAttribute("aria-label", `tokens of row ${row.number}; the arrow keys go from token to token`);
      row.chunks = cut(row);
      for (const chunk of row.chunks) {
        chunk.element = make("div", "chunk");
        chunk.element.chunk = chunk;
        chunk.element.style.height = `${estimate(chunk, width)}px`;
        tokens.append(chunk.element);
        watch.observe(chunk.element);
      }
      if (row.size) body.append(tokens);
      if (row.problems.length) {
        const aside = make(row.size ? "aside" : "div", row.size ? "" : "refused"), ul = make("ul");
        for (const one of row.problems) {
          const line = make("li");
          if (row.size) {
            const button = make("button", "", "");
            button.type = "button";
            button.append(make("span", `level ${one.severity}`, one.severity), ` ${one.line}`);
            button.addEventListener("click", () => showProblem(problems.indexOf(one)));
            line.append(button);
          } else line.append(make("span", `level ${one.severity}`, one.severity), ` ${one.line}`);
          ul.append(line);
        }
        aside.append(ul);
        body.append(aside);
      }
      article.append(body);
      row.article = article;
      list.append(article);

      const link = make("a"), item = make("li"), meter = make("span", "meter"), part = make("i");
      link.href = `#row=${row.number}`;
      part.style.width = `${100 * row.share}%`;
      meter.append(part);
      const badge = make("small", worst ? `level ${worst}` : "", worst ? `${row.problems.length} ${worst === "error" ? "\u2716" : worst === "warning" ? "\u25b2" : "\u2022"}` : `${row.size}`);
      badge.title = worst ? `${row.problems.length} problems, the worst is of level ${worst}` : `${row.size} tokens`;
      link.append(make("span", "", `row ${row.number}`), badge, meter);
      item.append(link);
      index.append(item);
      row.link = link;
    }
  };

  // ---- one token: hover, focus, tap

  const card = $("card"), live = $("live");
  let pinned = false;
  const describe = (row, pos, count) => {
    const index = row.tokens[pos], mode = row.modes[pos], lines = [];
    const turn = turnAt(row, pos), role = row.turns[turn] ? row.turns[turn][1] : "";
    const quote = (text) => JSON.stringify(text).slice(1, -1).replace(/\\"/g, '"');
    const face = data.faces[index] !== undefined ? data.faces[index] : data.texts[index];
    const parts = data.parts[index];
    lines.push(["token", parts ? `bytes ${parts}` : `\u201c${quote(face)}\u201d`]);
    if (parts) {
      const first = row.covered.has(pos) ? row.covered.get(pos) : pos, character = row.characters[first];
      lines.push(["part of", character
        ? `\u201c${quote(character[2] !== undefined ? character[2] : character[1])}\u201d, positions ${first} to ${first + character[0] - 1}`
        : "no whole character: its other bytes are missing"]);
    }
    lines.push(["id", `${data.ids[index]}${special.has(index) ? ", a control token" : ""}${data.unknown.includes(index) ? ", not in the vocabulary" : ""}`]);
    lines.push(["position", count > 1 ? `${pos} to ${pos + count - 1}` : `${pos}`]);
    lines.push(["role", role === "padding" ? "padding" : `${role || "none"} (turn ${turn + 1} of ${row.turns.length})`]);
    const state = mode & TRAINED ? "trained: the loss asks for it" : row.labelled ? "not trained" : "no label is known";
    lines.push(["state", mode & PADDING ? `padding, ${state}` : state]);
    if (pos in row.differing) lines.push(["label", `${row.differing[pos]}, which is not the id`]);
    for (const one of row.problems) if (one.start <= pos && pos < one.end) lines.push([one.severity, one.line]);
    return lines;
  };
  const openCard = (element, row) => {
    const list = make("dl"), lines = describe(row, element.pos, element.count);
    for (const [name, value] of lines) list.append(make("dt", "", name), make("dd", "", value));
    card.replaceChildren(list);
    card.hidden = false;
    const box = element.getBoundingClientRect(), own = card.getBoundingClientRect();
    const below = box.bottom + 8 + own.height < window.innerHeight;
    card.style.left = `${Math.max(4, Math.min(box.left, window.innerWidth - own.width - 4))}px`;
    card.style.top = `${below ? box.bottom + 8 : Math.max(4, box.top - own.height - 8)}px`;
    return lines;
  };
  const closeCard = () => { card.hidden = true; pinned = false; card.classList.remove("pinned"); };
  const rowOf = (element) => element.closest("article").row;
  const elementAt = (row, pos) => {
    const chunk = row.chunks.find((one) => one.start <= pos && pos < one.end);
    if (!chunk) return null;
    fill(chunk);
    for (const element of chunk.element.querySelectorAll(".t")) {
      if (element.pos <= pos && pos < element.pos + element.count) return element;
    }
    return null;
  };
  const activate = (row, pos, focus, tell = true) => {
    for (const old of document.querySelectorAll(".on")) old.classList.remove("on");
    const element = elementAt(row, pos);
    if (!element) return;
    active = { row, pos };
    element.classList.add("on");
    for (let again = 0; again < 2; again++) {  // chunks that are drawn on the way move what is below them
      element.scrollIntoView({ block: "center", inline: "nearest" });
    }
    if (focus) element.focus({ preventScroll: true });
    requestAnimationFrame(() => requestAnimationFrame(() => {
      const box = element.getBoundingClientRect();
      if (box.top < 0 || box.bottom > window.innerHeight) element.scrollIntoView({ block: "center" });
      if (!tell) { live.textContent = `row ${row.number}, position ${pos}`; closeCard(); return; }
      live.textContent = openCard(element, row).map((line) => line.join(": ")).join("; ");
      pinned = true;
      card.classList.add("pinned");
    }));
    current(row);
    try { history.replaceState(null, "", `#row=${row.number}&pos=${pos}`); } catch { /* a page without an address */ }
  };
  const current = (row) => {
    for (const other of rows) other.link.toggleAttribute("aria-current", false);
    row.link.setAttribute("aria-current", "true");
    const link = row.link.offsetTop;  // moves the list alone: scrollIntoView would move the page as well
    if (link < side.scrollTop || link + row.link.offsetHeight > side.scrollTop + side.clientHeight - 80) {
      side.scrollTop = link - side.clientHeight / 3;
    }
  };
  const goToRow = (row) => {
    row.article.hidden = false;
    row.article.scrollIntoView({ block: "start" });
    requestAnimationFrame(() => row.article.scrollIntoView({ block: "start" }));
    row.article.focus({ preventScroll: true });
    current(row);
    live.textContent = `row ${row.number}: ${row.summary}`;
  };
  const list = $("rows");
  list.addEventListener("mouseover", (event) => {
    const element = event.target.closest(".t");
    if (!pinned && element) openCard(element, rowOf(element));
    else if (!pinned) closeCard();
  });
  list.addEventListener("mouseleave", () => { if (!pinned) closeCard(); });
  list.addEventListener("click", (event) => {
    const element = event.target.closest(".t"), strip = event.target.closest("canvas");
    if (strip) {
      const share = event.offsetX / strip.clientWidth;
      activate(strip.row, Math.min(strip.row.size - 1, Math.floor(share * strip.row.size)), false);
    } else if (element && !String(getSelection())) activate(rowOf(element), element.pos, true);
    else if (!element) closeCard();
  });
  list.addEventListener("keydown", (event) => {
    const holder = event.target.closest(".tokens");
    if (!holder || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = rowOf(holder), on = event.target.closest(".t");
    const pos = on ? on.pos : -1, next = on ? on.pos + on.count : 0, turn = turnAt(row, Math.max(pos, 0));
    const to = {
      ArrowRight: next, ArrowLeft: pos - 1, Home: 0, End: row.size - 1,
      ArrowDown: pos < 0 ? 0 : (row.turns[turn + 1] || [row.size - 1])[0],
      ArrowUp: pos > row.turns[turn][0] ? row.turns[turn][0] : (row.turns[turn - 1] || [0])[0],
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    activate(row, Math.max(0, Math.min(row.size - 1, to)), true);
  });

  // ---- problems

  let problem = -1;
  const showProblem = (number) => {
    if (!problems.length) return;
    problem = (number + problems.length) % problems.length;
    const one = problems[problem], row = rows[one.row];
    row.article.hidden = false;
    $("problem").textContent = `${problem + 1} of ${problems.length}`;
    if (row.size) activate(row, Math.min(one.start, row.size - 1), true); else goToRow(row);
  };

  // ---- search

  let hit = -1;
  const fold = (text) => { const lower = text.toLowerCase(); return lower.length === text.length ? lower : text; };
  const indexed = (row) => {
    if (!row.text) {
      const parts = [], starts = new Uint32Array(row.size);
      let length = 0;
      for (let pos = 0; pos < row.size; pos++) {
        const text = textOf(row, pos);
        starts[pos] = length;
        length += text.length;
        parts.push(text);
      }
      row.starts = starts;
      row.text = fold(parts.join(""));
    }
    return row;
  };
  const tokenAt = (row, offset) => {
    let low = 0, high = row.size - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (row.starts[middle] <= offset) low = middle; else high = middle - 1;
    }
    return low;
  };
  const find = (wanted, kind) => {
    const found = [];
    if (kind === "id") {
      const index = data.ids.indexOf(/^\s*-?\d+\s*$/.test(wanted) ? Number(wanted) : NaN);
      for (const row of index < 0 ? [] : rows) {
        for (let pos = row.tokens.indexOf(index); pos >= 0 && found.length < MOST_HITS; pos = row.tokens.indexOf(index, pos + 1)) {
          found.push([row, pos, pos + 1]);
        }
      }
      return found;
    }
    let text = fold(wanted);
    for (const row of rows) if (row.size) indexed(row);
    // A search box holds no line break: \n stands for one, unless the rows hold it as it is written.
    if (!rows.some((row) => row.size && row.text.includes(text))) {
      text = text.replaceAll("\\n", "\n").replaceAll("\\t", "\t");
    }
    for (const row of rows) {
      if (!row.size) continue;
      for (let at = row.text.indexOf(text); at >= 0 && found.length < MOST_HITS; at = row.text.indexOf(text, at + text.length)) {
        found.push([row, tokenAt(row, at), tokenAt(row, at + text.length - 1) + 1]);
      }
    }
    return found;
  };
  const search = () => {
    const wanted = $("query").value;
    hits.list = wanted ? find(wanted, $("kind").value) : [];
    hits.by = new Map();
    for (const [row, start, end] of hits.list) {
      if (!hits.by.has(row)) hits.by.set(row, new Set());
      for (let pos = start; pos < end; pos++) hits.by.get(row).add(pos);
    }
    hit = -1;
    const many = hits.list.length >= MOST_HITS ? `${MOST_HITS} or more` : `${hits.list.length}`;
    $("found").textContent = wanted ? `${many} found` : "";
    redraw();
  };
  const showHit = (step) => {
    if (!hits.list.length) return;
    hit = hit < 0 && step < 0 ? hits.list.length - 1 : (hit + step + hits.list.length) % hits.list.length;
    const [row, pos] = hits.list[hit];
    row.article.hidden = false;
    $("found").textContent = `${hit + 1} of ${hits.list.length}`;
    activate(row, pos, false, false);
  };
  let timer = 0;
  $("query").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 150); });
  $("query").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    clearTimeout(timer);
    if (hit < 0) search();
    showHit(event.shiftKey ? -1 : 1);
  });
  $("kind").addEventListener("change", search);
  $("next-hit").addEventListener("click", () => showHit(1));
  $("last-hit").addEventListener("click", () => showHit(-1));
  $("next-problem").addEventListener("click", () => showProblem(problem + 1));
  $("last-problem").addEventListener("click", () => showProblem(problem < 0 ? -1 : problem - 1));
  for (const name of ["spaces", "pads"]) {
    $(name).addEventListener("change", () => { options[name] = $(name).checked; redraw(); });
  }
  $("only").addEventListener("change", () => {
    for (const row of rows) {
      row.article.hidden = $("only").checked && !row.problems.length;
      row.link.parentElement.hidden = row.article.hidden;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { closeCard(); return; }
    const typing = event.target.closest && event.target.closest("input, select, textarea");
    if (typing || !$("keys").checked || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = active ? active.row.place : -1;
    const acts = {
      "/": () => { $("query").focus(); $("query").select(); },
      n: () => showProblem(problem + 1),
      p: () => showProblem(problem < 0 ? -1 : problem - 1),
      j: () => stepRow(1),
      k: () => stepRow(-1),
    };
    if (!(event.key in acts)) return;
    event.preventDefault();
    acts[event.key](at);
  });
  const stepRow = (step) => {
    const on = rows.findIndex((row) => row.link.getAttribute("aria-current") === "true");
    let to = on + step;
    while (rows[to] && rows[to].article.hidden) to += step;
    if (rows[to]) goToRow(rows[to]);
  };

  // ---- the address: #row=3&pos=17, #q=text, #id=128009, #problem=2

  const follow = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const number = (name) => (/^\d+$/.test(asked.get(name) || "") ? Number(asked.get(name)) : null);
    for (const name of ["spaces", "pads", "only"]) {
      if (asked.has(name)) { $(name).checked = asked.get(name) === "1"; $(name).dispatchEvent(new Event("change")); }
    }
    if (asked.has("q") || asked.has("id")) {
      $("kind").value = asked.has("id") ? "id" : "text";
      $("query").value = asked.get("id") || asked.get("q");
      search();
      showHit(1);
    } else if (number("problem") !== null) showProblem(number("problem") - 1);
    else if (placeOf.has(number("row"))) {
      const row = rows[placeOf.get(number("row"))], pos = number("pos");
      if (pos !== null && pos < row.size) activate(row, pos, true); else goToRow(row);
    }
  };

  const top = document.querySelector(".top"), side = document.querySelector("nav");
  const fit = () => {
    const height = getComputedStyle(top).position === "sticky" ? top.offsetHeight : 0;
    document.documentElement.style.setProperty("--top", `${height}px`);
    side.style.top = `${height}px`;
    side.style.height = `calc(100vh - ${height}px)`;
    document.documentElement.style.scrollPaddingTop = `${height + 8}px`;
    paintAll();
  };
  build();
  fit();
  new ResizeObserver(fit).observe(top);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintAll);
  for (const button of ["next-problem", "last-problem"]) $(button).disabled = !problems.length;
  $("problem").textContent = problems.length ? `${problems.length} in all` : "none";
  window.addEventListener("hashchange", follow);
  follow();
  document.documentElement.dataset.ready = "yes";
})();
