"use strict";
// Mouse and keys: the card of a token, and the paths from token to token, row to row and problem to problem.

const addNavigation = (state) => {
  const { data, rows, problems, special, unknown } = state;
  const list = byId("rows"), card = byId("card"), live = byId("live"), side = document.querySelector("nav");
  let pinned = false, problemAt = -1;

  // ---- the card of one token: hover, focus, tap

  const describe = (row, pos, count) => {
    const index = row.tokens[pos], mode = row.modes[pos], lines = [];
    const turn = turnAt(row, pos), role = row.turns[turn] ? row.turns[turn][1] : "";
    const quote = (text) => `\u201c${JSON.stringify(text).slice(1, -1).replace(/\\"/g, '"')}\u201d`;
    const bytes = data.parts[index];
    lines.push(["token", bytes ? `bytes ${bytes}` : quote(data.faces[index] !== undefined ? data.faces[index] : data.texts[index])]);
    if (bytes) {
      const first = row.covered.has(pos) ? row.covered.get(pos) : pos, character = row.characters[first];
      lines.push(["part of", character
        ? `${quote(character[2] !== undefined ? character[2] : character[1])}, positions ${first} to ${first + character[0] - 1}`
        : "no whole character: its other bytes are missing"]);
    }
    lines.push(["id", `${data.ids[index]}${special.has(index) ? ", a control token" : ""}${unknown.has(index) ? ", not in the vocabulary" : ""}`]);
    lines.push(["position", count > 1 ? `${pos} to ${pos + count - 1}` : `${pos}`]);
    lines.push(["role", role === "padding" ? "padding" : `${role || "none"} (turn ${turn + 1} of ${row.turns.length})`]);
    const label = mode & TRAINED ? "trained: the loss asks for it" : row.labeled ? "not trained" : "no label is known";
    lines.push(["state", mode & PADDING ? `padding, ${label}` : label]);
    if (pos in row.differing) lines.push(["label", `${row.differing[pos]}, which is not the id`]);
    for (const { severity, start, end, line } of row.problems) if (start <= pos && pos < end) lines.push([severity, line]);
    return lines;
  };
  const openCard = (element, row) => {
    const terms = make("dl"), lines = describe(row, element.pos, element.count);
    for (const [name, value] of lines) terms.append(make("dt", "", name), make("dd", "", value));
    card.replaceChildren(terms);
    card.hidden = false;
    const box = element.getBoundingClientRect(), own = card.getBoundingClientRect();
    const below = box.bottom + 8 + own.height < window.innerHeight;
    card.style.left = `${Math.max(4, Math.min(box.left, window.innerWidth - own.width - 4))}px`;
    card.style.top = `${below ? box.bottom + 8 : Math.max(4, box.top - own.height - 8)}px`;
    return lines;
  };
  const closeCard = () => { card.hidden = true; pinned = false; card.classList.remove("pinned"); };

  // ---- to a token, a row, a problem

  const rowOf = (element) => element.closest("article").row;
  const elementAt = (row, pos) => {
    const chunk = row.chunks.find((one) => one.start <= pos && pos < one.end);
    if (!chunk) return null;
    state.fill(chunk);
    const elements = [...chunk.element.querySelectorAll(".t")];
    return elements.find((element) => element.pos <= pos && pos < element.pos + element.count) || null;
  };
  const markCurrent = (row) => {
    for (const other of rows) other.link.toggleAttribute("aria-current", false);
    row.link.setAttribute("aria-current", "true");
    const link = row.link.offsetTop;  // moves the list alone: scrollIntoView would move the page as well
    if (link < side.scrollTop || link + row.link.offsetHeight > side.scrollTop + side.clientHeight - 80) {
      side.scrollTop = link - side.clientHeight / 3;
    }
  };
  const goToToken = (row, pos, { focus = false, details = true } = {}) => {
    for (const old of document.querySelectorAll(".on")) old.classList.remove("on");
    const element = elementAt(row, pos);
    if (!element) return;
    state.active = { row, pos };
    element.classList.add("on");
    for (let again = 0; again < 2; again++) {  // chunks that are drawn on the way move what is below them
      element.scrollIntoView({ block: "center", inline: "nearest" });
    }
    if (focus) element.focus({ preventScroll: true });
    requestAnimationFrame(() => requestAnimationFrame(() => {
      const box = element.getBoundingClientRect();
      if (box.top < 0 || box.bottom > window.innerHeight) element.scrollIntoView({ block: "center" });
      if (!details) { live.textContent = `row ${row.number}, position ${pos}`; closeCard(); return; }
      live.textContent = openCard(element, row).map((line) => line.join(": ")).join("; ");
      pinned = true;
      card.classList.add("pinned");
    }));
    markCurrent(row);
    try { history.replaceState(null, "", `#row=${row.number}&pos=${pos}`); } catch { /* a page without an address */ }
  };
  const goToRow = (row) => {
    row.article.hidden = false;
    row.article.scrollIntoView({ block: "start" });
    requestAnimationFrame(() => row.article.scrollIntoView({ block: "start" }));
    row.article.focus({ preventScroll: true });
    markCurrent(row);
    live.textContent = `row ${row.number}: ${row.summary}`;
  };
  const stepRow = (step) => {
    const on = rows.findIndex((row) => row.link.getAttribute("aria-current") === "true");
    let to = on + step;
    while (rows[to] && rows[to].article.hidden) to += step;
    if (rows[to]) goToRow(rows[to]);
  };
  const goToProblem = (number) => {
    if (!problems.length) return;
    problemAt = (number + problems.length) % problems.length;
    const problem = problems[problemAt], row = rows[problem.row];
    row.article.hidden = false;
    byId("problem").textContent = `${problemAt + 1} of ${problems.length}`;
    if (row.size) goToToken(row, Math.min(problem.start, row.size - 1), { focus: true }); else goToRow(row);
  };
  const nextProblem = () => goToProblem(problemAt + 1);
  const lastProblem = () => goToProblem(problemAt < 0 ? -1 : problemAt - 1);

  // ---- events

  list.addEventListener("mouseover", (event) => {
    const element = event.target.closest(".t");
    if (!pinned && element) openCard(element, rowOf(element));
    else if (!pinned) closeCard();
  });
  list.addEventListener("mouseleave", () => { if (!pinned) closeCard(); });
  list.addEventListener("click", (event) => {
    const element = event.target.closest(".t"), strip = event.target.closest("canvas");
    const button = event.target.closest("aside button");
    if (strip) {
      const share = event.offsetX / strip.clientWidth;
      goToToken(strip.row, Math.min(strip.row.size - 1, Math.floor(share * strip.row.size)));
    } else if (element && !String(getSelection())) goToToken(rowOf(element), element.pos, { focus: true });
    else if (!element) {
      closeCard();
      if (button) goToProblem(problems.indexOf(button.problem));
    }
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
    goToToken(row, Math.max(0, Math.min(row.size - 1, to)), { focus: true });
  });
  const KEYS = {
    "/": () => { byId("query").focus(); byId("query").select(); },
    n: nextProblem,
    p: lastProblem,
    j: () => stepRow(1),
    k: () => stepRow(-1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { closeCard(); return; }
    const typing = event.target.closest && event.target.closest("input, select, textarea");
    if (typing || !byId("keys").checked || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  byId("next-problem").addEventListener("click", nextProblem);
  byId("last-problem").addEventListener("click", lastProblem);
  for (const id of ["next-problem", "last-problem"]) byId(id).disabled = !problems.length;
  byId("problem").textContent = problems.length ? `${problems.length} in all` : "none";
  for (const name of ["spaces", "pads"]) {
    byId(name).addEventListener("change", () => { state.options[name] = byId(name).checked; state.redraw(); });
  }
  byId("only").addEventListener("change", () => {
    for (const row of rows) {
      row.article.hidden = byId("only").checked && !row.problems.length;
      row.link.parentElement.hidden = row.article.hidden;
    }
  });

  Object.assign(state, { goToToken, goToRow, goToProblem });
};
