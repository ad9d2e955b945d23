// Tokens left and right, and a line for every weight that is large enough.

const ROW = 26; // --row of the style
const SHADES = 10; // lines of like weight share one path: thousands of them stay quick

function buildTokens() {
  const { tokens, segments } = current();
  for (const side of ["left", "right"]) {
    const buttons = tokens.map((token, index) => {
      const piece = make("span", { className: "piece", textContent: token, dir: "auto" });
      const place = make("span", { className: "place", textContent: index });
      const share = make("span", { className: "share" });
      const button = make("button", { type: "button", className: `token ${segments[index] ? "second" : "first"}`, title: token });
      button.append(...(side === "left" ? [share, piece, place] : [place, piece, share]));
      button.dataset.side = side;
      button.dataset.index = index;
      return button;
    });
    element(side).replaceChildren(...buttons);
  }
}

// What the lines begin or end at: the token under the pointer, else the one that was clicked.
function lookedFrom() {
  if (hover) return hover.side === "left" ? { from: hover.token, to: null } : { from: null, to: hover.token };
  return state.from === null ? { from: null, to: state.to } : { from: state.from, to: null };
}

function drawTokens() {
  const input = current(), l = layerPlace(), places = state.heads.map(headPlace);
  const { from, to } = lookedFrom();
  const mean = (i, j) => places.reduce((sum, h) => sum + input.weight(l, h, i, j), 0) / places.length;
  for (const side of ["left", "right"]) {
    const chosen = side === "left" ? state.from : state.to;
    [...element(side).children].forEach((button, index) => {
      let share = null;
      if (places.length && side === "right" && from !== null) share = mean(from, index);
      if (places.length && side === "left" && to !== null) share = mean(index, to);
      button.style.setProperty("--share", share ?? 0);
      button.querySelector(".share").textContent = share !== null && share >= 0.005 ? share.toFixed(2) : "";
      button.setAttribute("aria-pressed", chosen === index);
      button.tabIndex = index === (chosen ?? 0) ? 0 : -1; // one stop of the Tab key for each side; arrows do the rest
    });
  }
}

function drawLines() {
  const input = current(), count = input.tokens.length, l = layerPlace();
  const svg = element("drawing"), width = svg.clientWidth || 300;
  const { from, to } = lookedFrom();
  const least = from === null && to === null ? state.least : Math.min(state.least, 0.01);
  const paths = [];
  svg.setAttribute("height", count * ROW);
  state.heads.forEach((head, order) => {
    const h = headPlace(head), shades = new Map();
    const shift = ((order + 0.5) / state.heads.length - 0.5) * (ROW / 2); // heads side by side, not on each other
    for (let i = 0; i < count; i++) {
      if (from !== null && i !== from) continue;
      for (let j = 0; j < count; j++) {
        if ((to !== null && j !== to) || (!state.specials && (input.special[i] || input.special[j]))) continue;
        const weight = input.weight(l, h, i, j);
        if (weight < least) continue;
        const shade = Math.max(1, Math.round(weight * SHADES));
        const [y, z] = [(i + 0.5) * ROW + shift, (j + 0.5) * ROW + shift];
        const line = `M0 ${y}C${width / 2} ${y} ${width / 2} ${z} ${width} ${z}`;
        shades.set(shade, (shades.get(shade) ?? "") + line);
      }
    }
    for (const [shade, lines] of shades) {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", lines);
      path.setAttribute("stroke", colour(head));
      path.setAttribute("stroke-opacity", Math.max(0.18, shade / SHADES));
      path.setAttribute("stroke-width", 0.8 + (3.2 * shade) / SHADES);
      path.dataset.head = head;
      path.dataset.lines = lines.split("M").length - 1;
      paths.push(path);
    }
  });
  svg.replaceChildren(...paths);
  const empty = state.heads.length ? `No weight here reaches ${least.toFixed(2)}.` : "Switch a head on.";
  element("nothing").textContent = paths.length ? "" : empty;
}

function tokenKeys(event) {
  const button = event.target.closest(".token");
  if (!button) return;
  const { side, index } = button.dataset;
  const step = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
  let target = null;
  if (step !== undefined) {
    const last = current().tokens.length - 1;
    target = element(side).children[Math.max(0, Math.min(last, Number(index) + step))];
  } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    target = element(event.key === "ArrowLeft" ? "left" : "right").children[index];
  }
  if (!target) return;
  event.preventDefault();
  target.focus();
}
