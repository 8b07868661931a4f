"use strict";
// Starts the page, and follows its address: #row=3&pos=17, #q=text, #id=128009, #problem=2, #spaces=1.

const followAddress = ({ rows, placeOf, search, goToHit, goToProblem, goToRow, goToToken }) => {
  const address = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d+$/.test(address.get(name) || "") ? Number(address.get(name)) : null);
  for (const name of ["spaces", "pads", "only"]) {
    if (!address.has(name)) continue;
    byId(name).checked = address.get(name) === "1";
    byId(name).dispatchEvent(new Event("change"));
  }
  if (address.has("q") || address.has("id")) {
    byId("kind").value = address.has("id") ? "id" : "text";
    byId("query").value = address.get("id") || address.get("q");
    search();
    goToHit(1);
  } else if (number("problem") !== null) goToProblem(number("problem") - 1);
  else if (placeOf.has(number("row"))) {
    const row = rows[placeOf.get(number("row"))], pos = number("pos");
    if (pos !== null && pos < row.size) goToToken(row, pos, { focus: true }); else goToRow(row);
  }
};

const fitWindow = ({ paintStrips }) => {
  const head = document.querySelector(".top"), side = document.querySelector("nav");
  const height = getComputedStyle(head).position === "sticky" ? head.offsetHeight : 0;
  document.documentElement.style.setProperty("--top", `${height}px`);
  side.style.top = `${height}px`;
  side.style.height = `calc(100vh - ${height}px)`;
  document.documentElement.style.scrollPaddingTop = `${height + 8}px`;
  paintStrips();
};

(() => {
  const state = readState();
  for (const add of [addDrawing, addNavigation, addSearch]) add(state);
  state.drawRows();
  fitWindow(state);
  new ResizeObserver(() => fitWindow(state)).observe(document.querySelector(".top"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", state.paintStrips);
  window.addEventListener("hashchange", () => followAddress(state));
  followAddress(state);
  document.documentElement.dataset.ready = "yes";
})();
