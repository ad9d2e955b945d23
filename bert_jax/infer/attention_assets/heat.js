// Heat maps: rows look, columns are looked at. One head is drawn large with its tokens, several as small maps.

let cellAt = { i: 0, j: 0 }; // where the keyboard is

function drawMaps() {
  const maps = state.heads.map(head => {
    const h = headPlace(head), single = state.heads.length === 1;
    const canvas = make("canvas", { tabIndex: 0 });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Heat map of layer ${state.layer}, head ${head}; arrow keys move, Enter chooses`);
    const map = { canvas, h, ...layout(single) };
    paint(map, head);
    canvas.addEventListener("pointermove", event => read(map, cellUnder(map, event)));
    canvas.addEventListener("click", event => choose(cellUnder(map, event)));
    canvas.addEventListener("keydown", event => heatKeys(map, event));
    return make("figure", {}, make("figcaption", { textContent: `layer ${state.layer}, head ${head}` }), canvas);
  });
  element("maps").replaceChildren(...maps);
  const { from, to } = state;
  if (from !== null && to !== null && state.heads.length) read({ h: headPlace(state.heads.at(-1)) }, { i: from, j: to });
  else element("readout").textContent = "Point at a cell: its row looks, its column is looked at; its strength is the square root of the weight.";
}

function layout(single) {
  const count = current().tokens.length;
  const cell = single ? Math.max(12, Math.min(26, Math.floor(900 / count))) : Math.max(2, Math.min(14, Math.floor(330 / count)));
  const context = document.createElement("canvas").getContext("2d");
  context.font = font(cell);
  const widest = single ? Math.max(...current().tokens.map(token => context.measureText(token).width)) : 0;
  return { cell, margin: single ? Math.ceil(Math.min(130, widest) + 8) : 0 };
}

const font = cell => `${Math.min(13, cell - 1)}px ui-monospace, monospace`;

function paint({ canvas, h, cell, margin }, head) {
  const input = current(), count = input.tokens.length, l = layerPlace(), size = margin + count * cell;
  const scale = Math.min(window.devicePixelRatio || 1, 8000 / size);
  canvas.width = canvas.height = Math.round(size * scale);
  canvas.style.width = canvas.style.height = `${size}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.fillStyle = colour(head);
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      context.globalAlpha = Math.sqrt(input.weight(l, h, i, j));
      context.fillRect(margin + j * cell, margin + i * cell, cell, cell);
    }
  }
  context.globalAlpha = 1;
  context.fillStyle = context.strokeStyle = getComputedStyle(document.body).color;
  if (margin) paintTokens(context, input.tokens, cell, margin);
  if (state.from !== null) context.strokeRect(margin, margin + state.from * cell, count * cell, cell);
  if (state.to !== null) context.strokeRect(margin + state.to * cell, margin, cell, count * cell);
}

function paintTokens(context, tokens, cell, margin) {
  context.font = font(cell);
  context.textBaseline = "middle";
  tokens.forEach((token, index) => {
    const middle = margin + (index + 0.5) * cell;
    context.textAlign = "right";
    context.fillText(token, margin - 4, middle, margin - 6);
    context.save();
    context.translate(middle, margin - 4);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(token, 0, 0, margin - 6);
    context.restore();
  });
}

function cellUnder({ canvas, cell, margin }, event) {
  const box = canvas.getBoundingClientRect(), last = current().tokens.length - 1;
  const place = length => Math.max(0, Math.min(last, Math.floor((length - 1 - margin) / cell)));
  return { i: place(event.clientY - box.top), j: place(event.clientX - box.left) };
}

function read({ h }, { i, j }) {
  const { tokens, heads, weight } = current();
  const share = weight(layerPlace(), h, i, j).toFixed(4);
  element("readout").textContent = `layer ${state.layer}, head ${heads[h]}: ${i} “${tokens[i]}” → ${j} “${tokens[j]}”: ${share}`;
}

function choose({ i, j }) {
  cellAt = { i, j };
  change({ from: i, to: j });
}

function heatKeys(map, event) {
  const [di, dj] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
  if (event.key !== "Enter" && !di && !dj) return;
  event.preventDefault();
  if (event.key === "Enter") {
    const order = state.heads.indexOf(current().heads[map.h]);
    choose(cellAt);
    element("maps").querySelectorAll("canvas")[order].focus(); // the map was painted anew
    return;
  }
  const last = current().tokens.length - 1;
  cellAt = { i: Math.max(0, Math.min(last, cellAt.i + di)), j: Math.max(0, Math.min(last, cellAt.j + dj)) };
  read(map, cellAt);
}
