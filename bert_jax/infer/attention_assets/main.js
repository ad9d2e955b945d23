// Controls, events, and the one function that shows the state.

let shown = null; // the input whose tokens are in the page

function render() {
  const input = current();
  document.body.className = state.view;
  if (shown !== state.input) {
    shown = state.input;
    buildTokens();
    const parts = "text" in input ? [input.text] : [input.a, input.b];
    element("text").textContent = parts.join("\n");
    buildChips();
    element("rounding").textContent = rounding(input);
  }
  for (const chip of element("layers").children) chip.setAttribute("aria-pressed", Number(chip.dataset.layer) === state.layer);
  for (const chip of element("heads").children) {
    chip.setAttribute("aria-pressed", state.heads.includes(Number(chip.dataset.head)));
    chip.style.setProperty("--colour", colour(Number(chip.dataset.head)));
  }
  for (const view of ["lines", "heat"]) element(`view-${view}`).setAttribute("aria-pressed", state.view === view);
  element("input").value = state.input;
  element("specials").checked = state.specials;
  element("least").value = state.least;
  element("least-value").textContent = state.least.toFixed(2);
  drawPicture();
  drawRanking();
  drawWalk();
}

function drawPicture() {
  if (state.view === "heat") return drawMaps();
  drawTokens();
  drawLines();
}

function rounding(input) {
  const weights = `Weights are rounded to 1/${2 ** input.bits - 1}`;
  const vectors = input.hasVectors ? ", vectors to 1/32767 of their largest number" : "";
  return `${weights}${vectors} in this page; bert-jax predict attention without --out prints 5 decimals.`;
}

function buildChips() {
  const chip = (kind, number, act) => {
    const button = make("button", { type: "button", className: "chip", textContent: number });
    button.dataset[kind] = number;
    button.setAttribute("aria-label", `${kind} ${number}`);
    button.addEventListener("click", act);
    return button;
  };
  const { layers, heads } = current();
  element("layers").replaceChildren(...layers.map(layer => chip("layer", layer, () => change({ layer }))));
  element("heads").replaceChildren(...heads.map(head => chip("head", head, () => toggle(head))));
}

function toggle(head) {
  change({ heads: state.heads.includes(head) ? state.heads.filter(other => other !== head) : [...state.heads, head] });
}

function tokenOf(event) {
  const button = event.target.closest?.(".token");
  return button ? { side: button.dataset.side, token: Number(button.dataset.index) } : null;
}

function pass(found) {
  if (hover?.side === found?.side && hover?.token === found?.token) return;
  hover = found;
  drawTokens();
  drawLines();
}

function listen() {
  const stage = element("stage");
  stage.addEventListener("pointerover", event => pass(tokenOf(event)));
  stage.addEventListener("pointerleave", () => pass(null));
  stage.addEventListener("focusin", event => event.target.matches(":focus-visible") && pass(tokenOf(event)));
  stage.addEventListener("focusout", () => pass(null));
  stage.addEventListener("keydown", tokenKeys);
  stage.addEventListener("click", event => {
    const found = tokenOf(event);
    if (!found) return;
    const name = found.side === "left" ? "from" : "to";
    change({ [name]: state[name] === found.token ? null : found.token });
  });
  element("ranking").addEventListener("keydown", rankingKeys);
  document.addEventListener("keydown", event => event.key === "Escape" && change({ from: null, to: null }));
  element("all").addEventListener("click", () => change({ heads: [...current().heads] }));
  element("none").addEventListener("click", () => change({ heads: [] }));
  for (const view of ["lines", "heat"]) element(`view-${view}`).addEventListener("click", () => change({ view }));
  element("least").addEventListener("input", event => change({ least: Number(event.target.value) }));
  element("specials").addEventListener("change", event => change({ specials: event.target.checked }));
  element("input").addEventListener("change", event => {
    location.hash = `#input=${event.target.value}`; // everything else of another input begins anew
  });
  window.addEventListener("hashchange", start);
  new ResizeObserver(() => state.view === "lines" && drawLines()).observe(element("stage"));
  new ResizeObserver(([entry]) => document.documentElement.style.setProperty("--header", `${entry.target.offsetHeight + 8}px`)).observe(document.querySelector("header"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
}

function start() {
  readFragment();
  render();
}

element("model").textContent = `— ${facts.model}`;
element("input-choice").hidden = blocks.length < 2;
element("input").replaceChildren(...facts.inputs.map((name, number) => new Option(`${number}: ${name}`, number)));
listen();
start();
document.documentElement.dataset.ready = "yes";
