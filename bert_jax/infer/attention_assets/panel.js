// Beside the picture: all heads by the share of `from` that goes to `to`, and the walk of `from` through one head.

let walkHead = null; // chosen in the panel; null means the head switched on last

function drawRanking() {
  const input = current(), { from, to } = state;
  const ready = from !== null && to !== null;
  element("ranking-hint").textContent = ready
    ? `How much of “${input.tokens[from]}” (${from}) goes to “${input.tokens[to]}” (${to}); click to show that head.`
    : from === null
      ? "Click a token on the left, then one on the right."
      : `Now click a token on the right: which heads take “${input.tokens[from]}” there?`;
  if (!ready) return element("ranking").replaceChildren();
  const rows = input.layers.flatMap((layer, l) => input.heads.map((head, h) => ({ layer, head, share: input.weight(l, h, from, to) })));
  rows.sort((one, other) => other.share - one.share);
  const held = element("ranking").contains(document.activeElement) ? { ...document.activeElement.dataset } : null;
  element("ranking").replaceChildren(...rows.map(rankingRow));
  const buttons = [...element("ranking").querySelectorAll("button")];
  const stop = buttons.find(button => button.getAttribute("aria-current") === "true") ?? buttons[0];
  stop.tabIndex = 0; // one stop of the Tab key; arrows do the rest
  if (held) buttons.find(({ dataset }) => dataset.layer === held.layer && dataset.head === held.head).focus();
}

function rankingKeys(event) {
  const step = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[event.key];
  const next = step && event.target.closest("li")?.[step];
  if (!next) return;
  event.preventDefault();
  next.firstElementChild.focus();
}

function rankingRow({ layer, head, share }) {
  const button = make("button", { type: "button", tabIndex: -1 });
  button.append(make("span", { textContent: `layer ${layer} head ${head}` }), make("span", { textContent: share.toFixed(4) }));
  button.style.setProperty("--share", share);
  button.style.setProperty("--colour", colour(head));
  button.setAttribute("aria-current", layer === state.layer && state.heads.length === 1 && state.heads[0] === head);
  Object.assign(button.dataset, { layer, head });
  button.addEventListener("click", () => change({ layer, heads: [head] }));
  return make("li", {}, button);
}

// The numbers of one token's walk through a head, from its vectors: the same as the model's but for their rounding.
function walkOf(input, l, h, from) {
  const tokens = input.tokens.map((_, t) => t);
  const query = input.vector("query", l, h, from);
  const dot = (a, b) => a.reduce((sum, x, place) => sum + x * b[place], 0);
  const products = tokens.map(t => dot(query, input.vector("key", l, h, t)));
  const scores = products.map(x => x / Math.sqrt(input.width));
  const largest = Math.max(...scores);
  const powers = scores.map(x => Math.exp(x - largest));
  const total = powers.reduce((a, b) => a + b);
  const weights = powers.map(x => x / total);
  const context = new Array(input.width).fill(0);
  for (const t of tokens) input.vector("value", l, h, t).forEach((x, place) => (context[place] += weights[t] * x));
  const difference = Math.max(...tokens.map(t => Math.abs(weights[t] - input.weight(l, h, from, t))));
  return { query, products, scores, weights, context, difference };
}

function drawWalk() {
  const input = current(), box = element("walk"), { from } = state;
  const head = state.heads.includes(walkHead) ? walkHead : state.heads.at(-1);
  const note = text => box.replaceChildren(make("p", { className: "note", textContent: text }));
  element("walk-title").textContent = "One token's walk";
  if (!input.hasVectors) return note("The vectors of this input were left out, because the page would be too large: give fewer layers or heads, or a shorter text.");
  if (head === undefined) return note("Switch a head on.");
  if (from === null) return note("Click a token on the left to follow it through q, k, scores, softmax, values and output.");
  const l = layerPlace(), h = headPlace(head), walk = walkOf(input, l, h, from);
  const strongest = walk.weights.indexOf(Math.max(...walk.weights));
  const to = state.to ?? strongest, width = input.width;
  element("walk-title").textContent = `The walk of “${input.tokens[from]}” through layer ${state.layer}, head ${head}`;
  const key = input.vector("key", l, h, to), value = input.vector("value", l, h, to), name = `“${input.tokens[to]}”`;
  const parts = state.heads.length > 1 ? [headChoice(head)] : [];
  parts.push(
    ...step("q", `1. Query q of “${input.tokens[from]}”: its hidden vector × the head's query matrix + bias, ${width} numbers`, walk.query),
    ...step("k", `2. Key k of ${name}`, key),
    ...step("qk", `3. q × k, place by place: the sum is the score ${walk.products[to].toFixed(3)}`, key.map((x, place) => x * walk.query[place])),
    make("h3", { textContent: `4. Scores of all tokens: ÷ √${width} = ${Math.sqrt(width).toFixed(3)}, then softmax` }),
    scoreTable(input, walk, to, head),
    formula(walk, to, width),
    ...step("wv", `5. Weighted value of ${name}: ${walk.weights[to].toFixed(4)} × v`, value.map(x => x * walk.weights[to])),
    ...step("context", "6. Output of the head: the sum of all weighted values", walk.context),
    outputLine(input, l, h, from),
    make("p", { className: "note", id: "difference", textContent: `Made from rounded vectors; the largest difference from the model's own weights in this row is ${walk.difference.toExponential(1)}.` }),
  );
  box.replaceChildren(...parts);
}

function headChoice(head) {
  const select = make("select", {}, ...state.heads.map(other => new Option(other, other, false, other === head)));
  select.addEventListener("change", () => { walkHead = Number(select.value); drawWalk(); });
  return make("label", { textContent: "Head " }, select);
}

// A heading and a vector, its cells coloured by size and sign.
function step(id, title, numbers) {
  const largest = Math.max(...numbers.map(Math.abs)) || 1;
  const cells = numbers.map(x => {
    const cell = make("span", { textContent: x.toFixed(Math.abs(x) < 1 ? 3 : 2) });
    cell.style.background = `hsl(${x < 0 ? 10 : 215} 80% 55% / ${((0.45 * Math.abs(x)) / largest).toFixed(3)})`;
    return cell;
  });
  const box = make("div", { className: "numbers", id: `walk-${id}`, tabIndex: 0 }, ...cells);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", title);
  return [make("h3", { textContent: title }), box];
}

function scoreTable(input, walk, to, head) {
  const row = (token, t) => {
    const bar = make("td", { className: "bar", textContent: walk.weights[t].toFixed(4) });
    bar.style.setProperty("--share", walk.weights[t]);
    bar.style.setProperty("--colour", colour(head));
    const line = make("tr", { className: t === to ? "chosen" : "" },
      make("td", { textContent: token, title: token }),
      make("td", { textContent: walk.products[t].toFixed(3) }),
      make("td", { textContent: walk.scores[t].toFixed(3) }), bar);
    line.addEventListener("click", () => change({ to: t }));
    return line;
  };
  const names = ["token", "q·k", `÷√${input.width}`, "softmax"].map(name => make("th", { textContent: name }));
  const table = make("table", { id: "walk-scores" }, make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...input.tokens.map(row)));
  return make("div", { className: "scroll", tabIndex: 0 }, table);
}

function formula(walk, to, width) {
  const largest = Math.max(...walk.scores);
  const total = walk.scores.reduce((sum, x) => sum + Math.exp(x - largest), 0);
  const text = `${walk.products[to].toFixed(3)} ÷ ${Math.sqrt(width).toFixed(3)} = ${walk.scores[to].toFixed(3)};  e^(${walk.scores[to].toFixed(3)} − ${largest.toFixed(3)}) ÷ ${total.toFixed(3)} = ${walk.weights[to].toFixed(4)}`;
  return make("p", { className: "formula", id: "walk-formula", textContent: text });
}

function outputLine(input, l, h, from) {
  const all = input.heads.map((_, other) => input.outputLength(l, other, from));
  const rank = 1 + all.filter(length => length > all[h]).length;
  const text =
    `× the head's rows of the output matrix, it becomes ${input.hiddenWidth} numbers of length ${all[h].toFixed(3)}, added to the hidden vector of ` +
    `length ${input.hiddenLength(l, from).toFixed(3)}: number ${rank} of ${all.length} heads shown here by what they add.`;
  return make("p", { className: "formula", id: "walk-output", textContent: text });
}
